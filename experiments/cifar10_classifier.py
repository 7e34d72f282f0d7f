"""CIFAR-10's published classifiers: how they are trained, and how they become the files that a run loads.

The recipe is airbench94's (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU"), a little longer and without
test-time augmentation. The robust one is narrower and trained on N-FGSM's adversaries instead of images (de Jorge et
al. 2022, "Make some noise"): FGSM at an image with noise, of twice the budget, that stays. (With a start inside the
ball and a projection, as Wong et al. 2020 have it, this recipe overfits to the single step.) PyTorch trains them, in
bfloat16 with channels last, because a CPU with such instructions runs that several times as fast as float32 (measured
once: 371 against 81 GFLOP/s on 2 cores). On the way out their normalisations are folded into their convolutions, which
`compression/networks/airbench.py` runs. An interrupted training resumes at the epoch it was in.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..compression.data.dataset import Dataset
from . import checkpoints

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of the training pixels, by channel."""

SHIFT = 2
"""Pixels by which a training image is moved at most, its border reflected."""

LOGITS = 1 / 9
"""Scale of the logits."""


class Recipe(NamedTuple):
    """What determines the training besides data.

    widths: of the three blocks. rate: of 1,024 images, in units of a step without momentum. eps: budget of adversaries,
    l_inf in pixel units; 0 trains on images as they are.
    """

    widths: tuple[int, int, int] = (64, 256, 256)
    epochs: int = 12
    batch: int = 1024
    rate: float = 11.5
    momentum: float = 0.85
    decay: float = 0.0153
    bias_rate: float = 64.0
    smoothing: float = 0.2
    whitening_epochs: int = 3
    eps: float = 0.0
    seed: int = 0


RECIPE, ROBUST = Recipe(), Recipe(widths=(32, 128, 256), epochs=5, smoothing=0.0, eps=8 / 255)
"""The published weights'."""

NOISE = 2.0
"""Of N-FGSM, uniform, relative to eps; its step is eps."""


class Block(nn.Module):
    """Two 3x3 convolutions, the first one's result halved by its maximum over 2x2 pixels."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm1, self.norm2 = (nn.BatchNorm2d(c_out, eps=1e-12, momentum=0.4) for _ in range(2))
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight.data[: conv.in_channels])
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad = False

    def forward(self, x):
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Airbench(nn.Module):
    """Logits of normalised images [n, 3, 32, 32]; the first convolution whitens patches of 2x2 pixels."""

    def __init__(self, whitening: torch.Tensor, widths: Sequence[int]):
        super().__init__()
        self.whiten = nn.Conv2d(3, len(whitening), 2)
        self.whiten.weight = nn.Parameter(whitening, requires_grad=False)
        nn.init.zeros_(self.whiten.bias)
        self.blocks = nn.ModuleList(map(Block, (len(whitening), *widths), widths))
        self.linear = nn.Linear(widths[-1], 10, bias=False)

    def forward(self, x):
        x = F.gelu(self.whiten(x))
        for block in self.blocks:
            x = block(x)
        return LOGITS * self.linear(F.max_pool2d(x, 3).flatten(1))


def whitening(images: torch.Tensor) -> torch.Tensor:
    """Filters [24, 3, 2, 2] that give patches a covariance of 1, and their negatives; images are normalised."""
    patches = F.unfold(images.float(), 2).transpose(1, 2).reshape(-1, 12)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(12, 3, 2, 2)
    return torch.cat([filters, -filters])


def train(
    dataset: Dataset, recipe: Recipe, checkpoint: Path, on_step: Callable[[float, str], None] = lambda done, say: None
) -> Airbench:
    """The trained network, in evaluation mode.

    checkpoint: file of the state after each epoch, from which an interrupted training resumes; RecordError where it is
    another training's. on_step: told the fraction done and the loss of each step.
    """
    torch.manual_seed(recipe.seed)
    images, labels = _normalised(dataset.train_images), torch.from_numpy(dataset.train_labels).long()
    model = Airbench(whitening(images[:5000]), recipe.widths).to(memory_format=torch.channels_last)
    optimiser = _optimiser(model, recipe)
    slow = {name: value.clone() for name, value in _floating(model)}
    each = len(images) // recipe.batch
    total, first, made_from = recipe.epochs * each, 0, (recipe, dataset.fingerprint)
    if state := checkpoints.load(checkpoint, made_from):
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        slow, first = state["slow"], state["epoch"]
    model.train()
    for epoch in range(first, recipe.epochs):
        model.whiten.bias.requires_grad = epoch < recipe.whitening_epochs
        for number, (x, y) in enumerate(_batches(images, labels, recipe, epoch)):
            step = epoch * each + number
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * _triangle(step / total)
            if recipe.eps:
                x = adversary(model, x, y, recipe.eps, torch.Generator().manual_seed(total * recipe.seed + step))
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.smoothing, reduction="sum")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step % 5 == 4:
                _lookahead(model, slow, 0.95**5 * (step / total) ** 3)
            on_step((step + 1) / total, f"loss {loss.item() / len(y):.4f}")
        checkpoints.save(checkpoint, made_from, {"model": model.state_dict(), "optimiser": optimiser.state_dict(),
                                                 "slow": slow, "epoch": epoch + 1})
    _lookahead(model, slow, 1.0)
    return model.eval()


def adversary(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float, generator: torch.Generator
) -> torch.Tensor:
    """N-FGSM of normalised images; eps in pixel units. Up to (NOISE + 1) eps away, in [0, 1]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    low, high, radius = -mean / std, (1 - mean) / std, eps / std
    noisy = x + NOISE * radius * (2 * torch.rand(x.shape, generator=generator) - 1)
    noisy = noisy.to(x.dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(noisy)
    gradient, = torch.autograd.grad(F.cross_entropy(logits.float(), y), noisy)
    moved = torch.clamp(noisy.detach() + radius * gradient.sign(), low, high)
    return moved.to(x.dtype).contiguous(memory_format=torch.channels_last)


def folded(model: Airbench) -> dict[str, np.ndarray]:
    """The same function of pixels in [0, 1] without normalisations: weights of `networks.airbench`.

    A normalisation in evaluation mode is affine with a positive factor, so it commutes with the maximum before it.
    """
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    first = model.whiten.weight / std
    arrays = {"whiten.weight": first, "whiten.bias": model.whiten.bias - (first * mean).sum((1, 2, 3)),
              "linear.weight": LOGITS * model.linear.weight}
    for number, block in enumerate(model.blocks):
        for conv, norm in (("conv1", "norm1"), ("conv2", "norm2")):
            kernel, norm = getattr(block, conv).weight, getattr(block, norm)
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            arrays[f"blocks.{number}.{conv}.weight"] = kernel * factor[:, None, None, None]
            arrays[f"blocks.{number}.{conv}.bias"] = norm.bias - norm.running_mean * factor
    return {name: array.detach().numpy() for name, array in arrays.items()}


def accuracy(model: Airbench, images, labels) -> float:
    """Share of images that the model gets right, 0 to 1."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        right = [(model(x).argmax(1) == y).sum().item() for x, y in
                 zip(_normalised(images).split(1000), torch.from_numpy(labels).split(1000), strict=True)]
    return sum(right) / len(labels)


def _normalised(images) -> torch.Tensor:
    pixels = torch.from_numpy((np.asarray(images) - np.float32(MEAN)) / np.float32(STD))
    return pixels.permute(0, 3, 1, 2).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)


def _batches(images, labels, recipe: Recipe, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """An epoch: every image once, moved, and mirrored in every second epoch (which first is drawn image by image)."""
    generator = torch.Generator().manual_seed(1_000_003 * recipe.seed + epoch)
    order = torch.randperm(len(images), generator=generator)
    mirrored = torch.rand(len(images), generator=torch.Generator().manual_seed(recipe.seed)) < 0.5
    padded = F.pad(images, (SHIFT,) * 4, mode="reflect")
    offsets = torch.randint(2 * SHIFT + 1, (2, len(images)), generator=generator)
    for chosen in order[: len(order) // recipe.batch * recipe.batch].split(recipe.batch):
        rows, columns = (offsets[axis, chosen, None] + torch.arange(32) for axis in (0, 1))
        columns = torch.where((mirrored[chosen, None] ^ bool(epoch % 2)), columns.flip(1), columns)
        x = padded[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        yield x.permute(0, 3, 1, 2), labels[chosen]


def _optimiser(model: Airbench, recipe: Recipe) -> torch.optim.Optimizer:
    """Nesterov's SGD; `rate` and `decay` are of a step whose gradient is a sum over 1,024 images."""
    scale = 1024 * (1 + 1 / (1 - recipe.momentum))
    rate, decay = recipe.rate / scale, recipe.decay * recipe.batch / scale
    biases = [p for name, p in model.named_parameters() if "norm" in name and p.requires_grad]
    others = [p for name, p in model.named_parameters() if "norm" not in name and p.requires_grad]
    fast = recipe.bias_rate * rate
    return torch.optim.SGD([
        {"params": biases, "lr": fast, "peak": fast, "weight_decay": decay / fast},
        {"params": others, "lr": rate, "peak": rate, "weight_decay": decay / rate},
    ], momentum=recipe.momentum, nesterov=True)


def _triangle(done: float, start: float = 0.2, end: float = 0.07, peak: float = 0.23) -> float:
    return start + (1 - start) * done / peak if done < peak else 1 + (end - 1) * (done - peak) / (1 - peak)


def _floating(model: Airbench) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, value) for name, value in model.state_dict().items() if value.is_floating_point())


def _lookahead(model: Airbench, slow: dict[str, torch.Tensor], kept: float) -> None:
    """Move the slow weights towards the model's, keeping this share of them, and the model to where they are."""
    with torch.no_grad():
        for name, value in _floating(model):
            value.copy_(slow[name].lerp_(value, 1 - kept))
