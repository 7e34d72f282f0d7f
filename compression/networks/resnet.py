"""Residual networks (He et al. 2016) for CIFAR and ImageNet, their parts named as in the published PyTorch files.

ResNet-20 and ResNet-56 as in akamaster/pytorch_resnet_cifar10, ResNet-18 as in kuangliu/pytorch-cifar, ResNet-50 as
in torchvision.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..types import Image, Logits
from .convolution import Convolution, Pointwise, StridedConvolution
from .from_torch import from_torch
from .preprocessing import rgb
from .pure import Network

IGNORED = ("*.num_batches_tracked",)
"""What weight files hold beside the network: counters of the training."""

Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation, by channel, of the pixels that weights were trained on."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Also those of ResNet-20 and ResNet-56, although they were trained on CIFAR-10."""

CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
"""Those of the published ResNet-18; its deviations are the mean of each image's own, not the pixels' 0.247, ..."""


def batch_norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """By the stored statistics, so that no image's logits depend on others."""
    return nnx.BatchNorm(channels, use_running_average=True, epsilon=1e-5, rngs=rngs)


def conv3x3(c_in: int, c_out: int, stride: int, rngs: nnx.Rngs) -> nnx.Module:
    """3x3 convolution of stride 1 or 2, without bias."""
    return (StridedConvolution if stride == 2 else Convolution)(c_in, c_out, use_bias=False, rngs=rngs)


class ZeroPad(nnx.Module):
    """Option A of He et al.: every second pixel, and new channels of zeros on both sides of the old."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        self.stride, self.each = stride, (c_out - c_in) // 2

    def __call__(self, x):
        return jnp.pad(x[:: self.stride, :: self.stride], ((0, 0), (0, 0), (self.each, self.each)))


def zero_pad(c_in: int, c_out: int, stride: int, rngs: nnx.Rngs) -> nnx.List:
    """Steps from a block's input to the shape of its output: option A, without parameters."""
    return nnx.List([] if stride == 1 and c_in == c_out else [ZeroPad(c_in, c_out, stride)])


def projection(c_in: int, c_out: int, stride: int, rngs: nnx.Rngs) -> nnx.List:
    """Steps from a block's input to the shape of its output: option B, a normalised 1x1 convolution."""
    if stride == 1 and c_in == c_out:
        return nnx.List([])
    return nnx.List([Pointwise(c_in, c_out, stride, use_bias=False, rngs=rngs), batch_norm(c_out, rngs)])


def chain(steps: nnx.List, x):
    """One step after the other."""
    for step in steps:
        x = step(x)
    return x


class Basic(nnx.Module):
    """Two 3x3 convolutions, added to their input as `shortcut` fits it (`zero_pad` or `projection`)."""

    def __init__(self, shortcut: Callable[..., nnx.List], c_in: int, width: int, stride: int, rngs: nnx.Rngs):
        self.c_out = width
        self.conv1, self.bn1 = conv3x3(c_in, width, stride, rngs), batch_norm(width, rngs)
        self.conv2, self.bn2 = conv3x3(width, width, 1, rngs), batch_norm(width, rngs)
        self.shortcut = shortcut(c_in, width, stride, rngs)

    def __call__(self, x):
        hidden = nnx.relu(self.bn1(self.conv1(x)))
        return nnx.relu(self.bn2(self.conv2(hidden)) + chain(self.shortcut, x))


class Bottleneck(nnx.Module):
    """A 3x3 convolution between two of 1x1, added to their input; gives 4 times its width."""

    def __init__(self, c_in: int, width: int, stride: int, rngs: nnx.Rngs):
        self.c_out = 4 * width
        self.conv1, self.bn1 = Pointwise(c_in, width, use_bias=False, rngs=rngs), batch_norm(width, rngs)
        self.conv2, self.bn2 = conv3x3(width, width, stride, rngs), batch_norm(width, rngs)
        self.conv3, self.bn3 = Pointwise(width, self.c_out, use_bias=False, rngs=rngs), batch_norm(self.c_out, rngs)
        self.downsample = projection(c_in, self.c_out, stride, rngs)

    def __call__(self, x):
        hidden = nnx.relu(self.bn1(self.conv1(x)))
        hidden = nnx.relu(self.bn2(self.conv2(hidden)))
        return nnx.relu(self.bn3(self.conv3(hidden)) + chain(self.downsample, x))


class ResNet(nnx.Module):
    """The levels that follow the stem, and what the last layer reads.

    block: of (c_in, width, stride, rngs).
    widths, depths: of each level the width and number of its blocks; all levels but the first halve the image.
    """

    def __init__(
        self, block: Callable[..., nnx.Module], widths: Sequence[int], depths: Sequence[int], statistics: Statistics,
        rngs: nnx.Rngs,
    ):
        self.statistics, self.levels = tuple(map(tuple, statistics)), len(widths)
        self.bn1 = batch_norm(widths[0], rngs)
        self.c_out = widths[0]
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
            blocks = nnx.List()
            for stride in (1 if level == 1 else 2, *(1,) * (depth - 1)):
                blocks.append(block(self.c_out, width, stride, rngs))
                self.c_out = blocks[-1].c_out
            setattr(self, f"layer{level}", blocks)

    def features(self, x: Image) -> Float[Array, "d"]:
        """What the last layer reads: the mean over the image of the last level's channels."""
        mean, std = np.asarray(self.statistics, np.float32)
        x = self.stem((rgb(x) - mean) / std)
        for level in range(1, self.levels + 1):
            x = chain(getattr(self, f"layer{level}"), x)
        return x.mean((0, 1))


class CifarResNet(ResNet):
    """Logits of one small image in [0, 1] with 1 or 3 channels; see `ResNet`.

    >>> import jax
    >>> block = partial(Basic, zero_pad)
    >>> logits = lambda x: CifarResNet(block, (4, 8), (1, 1), IMAGENET, classes=10, rngs=nnx.Rngs(0))(x)
    >>> jax.eval_shape(logits, jnp.zeros((8, 8, 3))).shape
    (10,)
    """

    def __init__(self, block, widths, depths, statistics: Statistics, classes: int, *, rngs: nnx.Rngs):
        super().__init__(block, widths, depths, statistics, rngs)
        self.conv1 = conv3x3(3, widths[0], 1, rngs)
        self.linear = nnx.Linear(self.c_out, classes, rngs=rngs)

    def stem(self, x):
        return nnx.relu(self.bn1(self.conv1(x)))

    def __call__(self, x: Image) -> Logits:
        return self.linear(self.features(x))


class ImageNetResNet(ResNet):
    """Logits of one large image in [0, 1] with 1 or 3 channels; see `ResNet`. The stem shrinks it fourfold."""

    def __init__(self, block, widths, depths, statistics: Statistics, classes: int, *, rngs: nnx.Rngs):
        super().__init__(block, widths, depths, statistics, rngs)
        self.conv1 = StridedConvolution(3, widths[0], 7, (3, 3), use_bias=False, rngs=rngs)
        self.fc = nnx.Linear(self.c_out, classes, rngs=rngs)

    def stem(self, x):
        return nnx.max_pool(nnx.relu(self.bn1(self.conv1(x))), (3, 3), (2, 2), padding=((1, 1), (1, 1)))

    def __call__(self, x: Image) -> Logits:
        return self.fc(self.features(x))


def cifar_resnet(depth: int, classes: int = 10, statistics: Statistics = IMAGENET) -> Callable[..., CifarResNet]:
    """How to build He et al.'s CIFAR network of 6n + 2 layers (Sect. 4.2), with shortcuts of option A.

    >>> nnx.eval_shape(lambda: cifar_resnet(20)(rngs=nnx.Rngs(0))).linear.kernel.shape
    (64, 10)
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"a CIFAR ResNet has 6n + 2 layers: 20, 32, 44, 56, 110; got {depth}")
    blocks = (depth - 2) // 6
    return partial(CifarResNet, partial(Basic, zero_pad), (16, 32, 64), (blocks,) * 3, statistics, classes)


def cifar_resnet18(classes: int = 10, statistics: Statistics = CIFAR10) -> Callable[..., CifarResNet]:
    """How to build ResNet-18 for small images: the ImageNet network's levels, with shortcuts of option B."""
    return partial(CifarResNet, partial(Basic, projection), (64, 128, 256, 512), (2,) * 4, statistics, classes)


def imagenet_resnet50(classes: int = 1000, statistics: Statistics = IMAGENET) -> Callable[..., ImageNetResNet]:
    """How to build ResNet-50 for large images, halving in the 3x3 convolutions."""
    return partial(ImageNetResNet, Bottleneck, (64, 128, 256, 512), (3, 4, 6, 3), statistics, classes)


def resnet20(arrays: Mapping[str, np.ndarray], classes: int = 10, statistics: Statistics = IMAGENET) -> Network:
    """CIFAR ResNet-20 (0.27 M parameters) with the weights of a PyTorch state dict; strict, as `from_torch`.

    statistics: mean and standard deviation by channel of the pixels that the weights were trained on.
    """
    return from_torch(cifar_resnet(20, classes, statistics), arrays, IGNORED)


def resnet56(arrays: Mapping[str, np.ndarray], classes: int = 10, statistics: Statistics = IMAGENET) -> Network:
    """CIFAR ResNet-56 (0.85 M parameters); otherwise as `resnet20`."""
    return from_torch(cifar_resnet(56, classes, statistics), arrays, IGNORED)


def resnet18(arrays: Mapping[str, np.ndarray], classes: int = 10, statistics: Statistics = CIFAR10) -> Network:
    """ResNet-18 for CIFAR (11.2 M parameters); otherwise as `resnet20`."""
    return from_torch(cifar_resnet18(classes, statistics), arrays, IGNORED)


def resnet50(arrays: Mapping[str, np.ndarray], classes: int = 1000, statistics: Statistics = IMAGENET) -> Network:
    """ResNet-50 for ImageNet (25.6 M parameters), trained on 224x224 pixels; otherwise as `resnet20`."""
    return from_torch(imagenet_resnet50(classes, statistics), arrays, IGNORED)


def bottleneck_resnet(
    arrays: Mapping[str, np.ndarray], classes: int = 1000, statistics: Statistics = IMAGENET
) -> Network:
    """As `resnet50`, the depth and width of its levels read from the weights: ResNet-101, ResNet-152, or narrower."""
    firsts = [arrays.get(f"layer{level}.0.conv1.weight") for level in range(1, 5)]
    if any(first is None for first in firsts):
        return resnet50(arrays, classes, statistics)
    depths = [len([name for name in arrays if fnmatchcase(name, f"layer{level}.*.conv1.weight")])
              for level in range(1, 5)]
    build = partial(ImageNetResNet, Bottleneck, [len(first) for first in firsts], depths, statistics, classes)
    return from_torch(build, arrays, IGNORED)
