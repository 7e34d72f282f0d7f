"""PyTorch twins of our networks and of the purifier: same weights, idiomatic PyTorch, no compiler.

For `benchmarks` and `attack_peers`. Each twin is built from our module, layer by layer, so there are no names to map.
Images are [n, c, h, w].
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
import torch
from torch import nn

from ..compression import randomness


def convolution(ours) -> nn.Conv2d:
    """3x3 convolution: kernel [3, 3, in, out] -> [out, in, 3, 3]."""
    return _filled(nn.Conv2d(*ours.kernel[...].shape[2:], 3, padding=1), ours, lambda k: k.transpose(3, 2, 0, 1))


def pointwise(ours) -> nn.Conv2d:
    """Dense layer on channels: kernel [in, out] -> [out, in, 1, 1]."""
    return _filled(nn.Conv2d(*ours.kernel[...].shape, 1), ours, lambda k: k.T[:, :, None, None])


def linear(ours) -> nn.Linear:
    """Dense layer on a vector."""
    return _filled(nn.Linear(*ours.kernel[...].shape), ours, lambda k: k.T)


def shrink(ours) -> nn.Conv2d:
    """Space to depth and a dense layer: one convolution of size and stride 2."""
    wide, c_out = ours.kernel[...].shape
    return _filled(nn.Conv2d(wide // 4, c_out, 2, stride=2), ours,
                   lambda k: k.reshape(2, 2, wide // 4, c_out).transpose(3, 2, 0, 1))


def grow(ours) -> nn.Sequential:
    """A dense layer and depth to space; PixelShuffle wants a pixel's four places innermost, ours are outermost."""
    c_in, wide = ours.kernel[...].shape
    innermost = np.arange(wide).reshape(4, wide // 4).T.ravel()
    dense = _filled(nn.Conv2d(c_in, wide, 1), ours, lambda k: k.T[innermost, :, None, None], lambda b: b[innermost])
    return nn.Sequential(dense, nn.PixelShuffle(2))


def normalisation(ours) -> nn.GroupNorm:
    """Group normalisation."""
    twin = nn.GroupNorm(ours.groups, len(ours.scale[...]), ours.epsilon)
    twin.weight.data, twin.bias.data = _tensor(ours.scale[...]), _tensor(ours.bias[...])
    return twin


class Block(nn.Module):
    """Twin of `unet.Block`."""

    def __init__(self, ours):
        super().__init__()
        self.norm_in, self.norm_out = normalisation(ours.norm_in), normalisation(ours.norm_out)
        self.conv_in, self.conv_out = convolution(ours.conv_in), convolution(ours.conv_out)
        self.time, self.skip = linear(ours.time), pointwise(ours.skip)

    def forward(self, x, embedding):
        h = self.conv_in(nn.functional.silu(self.norm_in(x))) + self.time(embedding)[:, None, None]
        return self.skip(x) + self.conv_out(nn.functional.silu(self.norm_out(h)))


class UNet(nn.Module):
    """Twin of `unet.UNet`."""

    def __init__(self, ours):
        super().__init__()
        self.time_in, self.time_out = linear(ours.time_in), linear(ours.time_out)
        self.inward, self.outward = convolution(ours.inward), convolution(ours.outward)
        self.middle, self.norm = Block(ours.middle), normalisation(ours.norm)
        self.down, self.up = (nn.ModuleList(nn.ModuleList(map(Block, blocks)) for blocks in levels)
                              for levels in (ours.down, ours.up))
        self.shrink, self.grow = nn.ModuleList(map(shrink, ours.shrink)), nn.ModuleList(map(grow, ours.grow))

    def forward(self, x, time):
        embedding = self.sinusoidal(time, x.dtype)
        embedding = nn.functional.silu(self.time_out(nn.functional.silu(self.time_in(embedding))))
        x, skips = self.inward(x), []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                x = block(x, embedding)
                skips.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](x)
        x = self.middle(x, embedding)
        for level in reversed(range(len(self.up))):
            if level < len(self.grow):
                x = self.grow[level](x)
            for block in self.up[level]:
                x = block(torch.cat([x, skips.pop()], 1), embedding)
        return self.outward(nn.functional.silu(self.norm(x)))

    def sinusoidal(self, time, dtype):
        half = self.time_in.in_features // 2
        angles = time * torch.exp(-math.log(10_000.0) * torch.arange(half) / half)
        return torch.cat([angles.sin(), angles.cos()]).to(dtype)


class ConvNet(nn.Module):
    """Twin of `convnet.ConvNet`; its readout takes features in our order."""

    def __init__(self, ours):
        super().__init__()
        layers = (convolution, normalisation, convolution, normalisation, shrink)
        self.levels = nn.ModuleList(
            nn.ModuleList(twin(layer) for twin, layer in zip(layers, level, strict=True)) for level in ours.levels
        )
        self.readout = linear(ours.readout)

    def forward(self, x):
        x = 2 * x - 1
        for conv_in, norm_in, conv_out, norm_out, shrunk in self.levels:
            x = nn.functional.silu(norm_in(conv_in(x)))
            x = nn.functional.silu(norm_out(conv_out(x)))
            x = nn.functional.silu(shrunk(x))
        return self.readout(x.permute(0, 2, 3, 1).flatten(1))


class ResNet20(nn.Module):
    """The residual network of 20 layers for CIFAR-10 as its published weights name it, with its normalisation."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        widths = zip((16, 16, 32), (16, 32, 64), strict=True)
        for number, (c_in, c_out) in enumerate(widths, 1):
            blocks = [ResidualBlock(c_in, c_out), ResidualBlock(c_out, c_out), ResidualBlock(c_out, c_out)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)

    def forward(self, x):
        x = nn.functional.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class ResidualBlock(nn.Module):
    """Two convolutions; where the width grows, the shortcut drops every second pixel and adds empty channels."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.grown = c_out - c_in
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=2 if self.grown else 1, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(c_out), nn.BatchNorm2d(c_out)

    def forward(self, x):
        h = self.bn2(self.conv2(nn.functional.relu(self.bn1(self.conv1(x)))))
        if self.grown:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.grown // 2, self.grown // 2))
        return nn.functional.relu(h + x)


class Counted(nn.Module):
    """A model that counts the images it was asked about, and those of them with a gradient."""

    def __init__(self, model: Callable):
        super().__init__()
        self.model, self.evaluations, self.gradients = model, 0, 0

    def forward(self, x):
        self.evaluations += len(x)
        self.gradients += len(x) * x.requires_grad
        return self.model(x)


def purify(noise_predictor: nn.Module, coefficients: dict[str, Sequence[float]], x, draw: Callable = torch.randn_like):
    """`purifiers.diffusion` on a batch, with the coefficients of `samplers.Steps` and noise from `draw`."""
    c = coefficients
    x = 2 * x - 1
    for state, noise in zip(c["forward_state"], c["forward_noise"], strict=True):
        x = state * x + noise * draw(x)
    for state, prediction, noise, time in zip(c["state"], c["prediction"], c["noise"], c["time"], strict=True):
        x = state * x + prediction * noise_predictor(x, time) + noise * draw(x)
    return ((x + 1) / 2).clamp(0, 1)


def noises(t_star: int, images, keys) -> list:
    """Our noise at each image in the order in which `purify` draws it: that of t = 1..t*, then that of t*..1."""
    up = range(1, t_star + 1)
    order = [(randomness.FORWARD, t) for t in up] + [(randomness.REVERSE, t) for t in reversed(up)]
    draw = lambda key, x, direction, t: randomness.normal(randomness.step_key(key, direction, t), x)
    return [jax.vmap(partial(draw, direction=direction, t=t))(keys, images) for direction, t in order]


def margin(logits, labels):
    """Largest wrong logit minus the true one, an image."""
    true = nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(true, -math.inf).amax(1) - logits[true]


def input_gradient(function: Callable, x):
    """Gradient of the sum of `function` over a batch, with its value."""
    x = x.detach().requires_grad_()
    value = function(x)
    return torch.autograd.grad(value.sum(), x)[0], value.detach()


def saved_bytes(function: Callable, x) -> int:
    """Bytes of the distinct tensors that autograd keeps between the forward and the backward pass."""
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        input_gradient(function, x)
    return sum(storage.nbytes() for storage in storages.values())


def tensor_images(images) -> torch.Tensor:
    """[n, h, w, c] -> [n, c, h, w], contiguous."""
    return _tensor(images).permute(0, 3, 1, 2).contiguous()


def _tensor(array) -> torch.Tensor:
    return torch.tensor(np.array(array, np.float32))


def _filled(twin, ours, kernel: Callable, bias: Callable = lambda b: b):
    twin.weight.data = _tensor(kernel(np.asarray(ours.kernel[...])))
    twin.bias.data = _tensor(bias(np.asarray(ours.bias[...])))
    return twin
