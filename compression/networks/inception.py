"""Inception-v3 as the Fréchet Inception distance uses it (Szegedy et al. 2016, Heusel et al. 2017).

Blocks are named as in torchvision; they differ from its own as pytorch-fid's do (Seitzer 2020): averages leave out
the padding, and the last block pools by the maximum.
"""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..types import Image
from .from_torch import from_torch
from .preprocessing import resize_bilinear, rgb
from .pure import Network

IGNORED = ("fc.*", "AuxLogits.*", "*.num_batches_tracked")
"""What weight files hold beside the features: two classifiers, and counters of the training."""


def average(x):
    """Mean over those pixels of 3x3 that are in the image."""
    return nnx.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def largest(x):
    """Maximum over 3x3."""
    return nnx.max_pool(x, (3, 3), padding="SAME")


def halve(x):
    """Maximum over every second 3x3."""
    return nnx.max_pool(x, (3, 3), (2, 2))


STEPS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", halve, "Conv2d_3b_1x1", "Conv2d_4a_3x3", halve,
    "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7a", "Mixed_7b", "Mixed_7c",
)
ENDS = {64: 4, 192: 7, 768: 15, 2048: 18}
"""How many of the steps give features of which dimension."""


def grid35(pooled: int):
    """Branches of a block on 35x35 pixels; each is a chain of poolings and (name, channels, size, stride, padding)."""
    return (
        (("branch1x1", 64, 1),),
        (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        (average, ("branch_pool", pooled, 1)),
    )


GRID35_TO_17 = (
    (("branch3x3", 384, 3, 2, "VALID"),),
    (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2, "VALID")),
    (halve,),
)


def grid17(inner: int):
    """Branches of a block on 17x17 pixels, with 7x7 convolutions factored into 1x7 and 7x1."""
    return (
        (("branch1x1", 192, 1),),
        (("branch7x7_1", inner, 1), ("branch7x7_2", inner, (1, 7)), ("branch7x7_3", 192, (7, 1))),
        (("branch7x7dbl_1", inner, 1), ("branch7x7dbl_2", inner, (7, 1)), ("branch7x7dbl_3", inner, (1, 7)),
         ("branch7x7dbl_4", inner, (7, 1)), ("branch7x7dbl_5", 192, (1, 7))),
        (average, ("branch_pool", 192, 1)),
    )


GRID17_TO_8 = (
    (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2, "VALID")),
    (("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
     ("branch7x7x3_4", 192, 3, 2, "VALID")),
    (halve,),
)


def grid8(pool):
    """Branches of a block on 8x8 pixels; those that fork are written out, and share their first convolutions."""
    single, double = ("branch3x3_1", 384, 1), (("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3))
    return (
        (("branch1x1", 320, 1),),
        (single, ("branch3x3_2a", 384, (1, 3))),
        (single, ("branch3x3_2b", 384, (3, 1))),
        (*double, ("branch3x3dbl_3a", 384, (1, 3))),
        (*double, ("branch3x3dbl_3b", 384, (3, 1))),
        (pool, ("branch_pool", 192, 1)),
    )


class Unit(nnx.Module):
    """Convolution, normalisation by the stored statistics, ReLU."""

    def __init__(self, c_in: int, c_out: int, size, stride: int = 1, padding: str = "SAME", *, rngs: nnx.Rngs):
        size = (size, size) if isinstance(size, int) else size
        self.conv = nnx.Conv(c_in, c_out, size, stride, padding=padding, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(c_out, use_running_average=True, epsilon=1e-3, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.bn(self.conv(x)))


class Block(nnx.Module):
    """Branches side by side, joined along the channels."""

    def __init__(self, c_in: int, branches, rngs: nnx.Rngs):
        self.routes = tuple(tuple(step if callable(step) else step[0] for step in branch) for branch in branches)
        for branch in branches:
            width = c_in
            for name, c_out, *geometry in (step for step in branch if not callable(step)):
                if not hasattr(self, name):
                    setattr(self, name, Unit(width, c_out, *geometry, rngs=rngs))
                width = c_out

    def __call__(self, x):
        done = {(): x}
        for route in self.routes:
            for n, step in enumerate(route):
                if route[: n + 1] not in done:
                    done[route[: n + 1]] = apply(self, step, done[route[:n]])
        return jnp.concatenate([done[route] for route in self.routes], -1)


def apply(module: nnx.Module, step, x):
    """A pooling, or a part of the module by its name."""
    return step(x) if callable(step) else getattr(module, step)(x)


class Inception(nnx.Module):
    """The features [dims] of one image of any size and 1 or 3 channels, in [0, 1].

    dims: 2048, the last layer's mean over the image; or 768, 192 and 64, the mean of an earlier layer, as
        pytorch-fid offers. The paper took 768, because it had few images (App. D).

    The image is resized to 299x299 without antialiasing and moved to [-1, 1].
    """

    def __init__(self, dims: int = 2048, *, rngs: nnx.Rngs):
        if dims not in ENDS:
            raise ValueError(f"Inception has features of {', '.join(map(str, ENDS))} dimensions, not {dims}")
        self.dims = dims
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, 2, "VALID", rngs=rngs)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3, 1, "VALID", rngs=rngs)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, rngs=rngs)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1, rngs=rngs)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3, 1, "VALID", rngs=rngs)
        self.Mixed_5b = Block(192, grid35(32), rngs)
        self.Mixed_5c = Block(256, grid35(64), rngs)
        self.Mixed_5d = Block(288, grid35(64), rngs)
        self.Mixed_6a = Block(288, GRID35_TO_17, rngs)
        self.Mixed_6b = Block(768, grid17(128), rngs)
        self.Mixed_6c = Block(768, grid17(160), rngs)
        self.Mixed_6d = Block(768, grid17(160), rngs)
        self.Mixed_6e = Block(768, grid17(192), rngs)
        self.Mixed_7a = Block(768, GRID17_TO_8, rngs)
        self.Mixed_7b = Block(1280, grid8(average), rngs)
        self.Mixed_7c = Block(2048, grid8(largest), rngs)

    def __call__(self, x: Image) -> Float[Array, "dims"]:
        x = 2 * resize_bilinear(rgb(x), 299) - 1
        for step in STEPS[: ENDS[self.dims]]:
            x = apply(self, step, x)
        return x.mean((0, 1))


def inception(arrays: Mapping[str, np.ndarray], dims: int = 2048) -> Network:
    """The network with weights by torchvision's names; ValueError unless they are exactly its own."""
    return from_torch(partial(Inception, dims), arrays, IGNORED)
