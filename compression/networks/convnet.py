"""A small convolutional classifier for small images."""

from flax import nnx
from jaxtyping import Array, Float

from ..types import Image, Logits
from .convolution import Convolution, space_to_depth
from .normalisation import GroupNorm

VERSION = 1
"""Raise it when a change makes old weights mean another function."""


class ConvNet(nnx.Module):
    """Two convolutions per level, halving between levels, then one dense layer on the flattened features.

    shape: of the image, [h, w, c]; sides divisible by 2^levels.
    channels: width of each level.

    Takes pixels in [0, 1] and gives logits; the change to [-1, 1] is its normalisation.

    >>> import jax.numpy as jnp
    >>> ConvNet((8, 8, 1), classes=10, rngs=nnx.Rngs(0))(jnp.zeros((8, 8, 1))).shape
    (10,)
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, channels: tuple[int, ...] = (16, 32), *, rngs: nnx.Rngs
    ):
        height, width, c_in = shape
        if height % 2 ** len(channels) or width % 2 ** len(channels):
            raise ValueError(f"image sides must be divisible by {2 ** len(channels)}, got {shape}; use fewer levels")
        self.levels = nnx.List()
        for c_out in channels:
            self.levels.append(nnx.List([
                Convolution(c_in, c_out, rngs=rngs),
                GroupNorm(c_out, rngs=rngs),
                Convolution(c_out, c_out, rngs=rngs),
                GroupNorm(c_out, rngs=rngs),
                nnx.Linear(4 * c_out, c_out, rngs=rngs),
            ]))
            c_in = c_out
        features = height * width * c_in // 4 ** len(channels)
        self.readout = nnx.Linear(features, classes, rngs=rngs)

    def __call__(self, x: Image) -> Logits:
        return self.readout(self.features(x))

    def features(self, x: Image) -> Float[Array, "d"]:
        """What the last layer reads, flattened; d = h w channels[-1] / 4^levels."""
        x = 2 * x - 1
        for conv_in, norm_in, conv_out, norm_out, shrink in self.levels:
            x = nnx.silu(norm_in(conv_in(x)))
            x = nnx.silu(norm_out(conv_out(x)))
            x = nnx.silu(shrink(space_to_depth(x)))
        return x.reshape(-1)
