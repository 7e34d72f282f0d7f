"""A small UNet noise predictor (Ho et al. 2020, reduced): GroupNorm, SiLU, sinusoidal time."""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..types import Image, Scalar
from .convolution import Convolution, depth_to_space, space_to_depth
from .normalisation import GroupNorm

VERSION = 1
"""Raise it when a change makes old weights mean another function."""


def sinusoidal(time: Scalar, width: int, longest: float = 10_000.0, shift: int | float = 0) -> Float[Array, "width"]:
    """Sinusoidal embedding of the network's time (0..T-1), `width` even; sines, then cosines.

    shift: 1 where the lowest frequency is 1 / longest (Ho et al.), 0 where the next one would be.
    """
    frequencies = jnp.exp(-math.log(longest) * jnp.arange(width // 2) / (width // 2 - shift))
    angles = time * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


class Block(nnx.Module):
    """Residual block: two normalised convolutions, the time added between them."""

    def __init__(self, c_in: int, c_out: int, time_width: int, groups: int, rngs: nnx.Rngs):
        self.norm_in = GroupNorm(c_in, groups, rngs=rngs)
        self.norm_out = GroupNorm(c_out, groups, rngs=rngs)
        self.conv_in = Convolution(c_in, c_out, rngs=rngs)
        self.conv_out = Convolution(c_out, c_out, rngs=rngs, scale=1e-3)
        self.time = nnx.Linear(time_width, c_out, rngs=rngs)
        self.skip = nnx.Linear(c_in, c_out, rngs=rngs)

    def __call__(self, x, embedding):
        h = self.conv_in(nnx.silu(self.norm_in(x))) + self.time(embedding)
        return self.skip(x) + self.conv_out(nnx.silu(self.norm_out(h)))


class UNet(nnx.Module):
    """eps(x_t, t) for one image x_t [h, w, c] in [-1, 1] and the network's time t.

    channels: width of each level; the image is halved between levels, so h and w must be divisible by
        2^(levels - 1).
    blocks: residual blocks per level and direction.

    >>> network = UNet(1, channels=(8, 16), rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((8, 8, 1)), jnp.float32(3)).shape
    (8, 8, 1)
    """

    def __init__(
        self, c_image: int, channels: tuple[int, ...] = (32, 64), blocks: int = 1, groups: int = 8, *, rngs: nnx.Rngs
    ):
        time_width = 4 * channels[0]
        block = lambda c_in, c_out: Block(c_in, c_out, time_width, groups, rngs)
        self.time_in = nnx.Linear(channels[0], time_width, rngs=rngs)
        self.time_out = nnx.Linear(time_width, time_width, rngs=rngs)
        self.inward = Convolution(c_image, channels[0], rngs=rngs)
        self.down, self.shrink, self.up, self.grow = nnx.List(), nnx.List(), nnx.List(), nnx.List()
        for level, width in enumerate(channels):
            self.down.append(nnx.List(block(width, width) for _ in range(blocks)))
            self.up.append(nnx.List(block(2 * width, width) for _ in range(blocks)))
            if level + 1 < len(channels):
                self.shrink.append(nnx.Linear(4 * width, channels[level + 1], rngs=rngs))
                self.grow.append(nnx.Linear(channels[level + 1], 4 * width, rngs=rngs))
        self.middle = block(channels[-1], channels[-1])
        self.norm = GroupNorm(channels[0], groups, rngs=rngs)
        self.outward = Convolution(channels[0], c_image, rngs=rngs, scale=1e-3)

    def __call__(self, x: Image, t: Scalar) -> Image:
        halvings = 2 ** len(self.shrink)
        if x.shape[0] % halvings or x.shape[1] % halvings:
            raise ValueError(f"image sides must be divisible by {halvings}, got {x.shape}; pad or use fewer levels")
        t = jnp.asarray(t, jnp.promote_types(x.dtype, jnp.float32))  # bfloat16 would round 999 to 1000
        embedding = sinusoidal(t, self.time_in.in_features).astype(x.dtype)
        embedding = nnx.silu(self.time_out(nnx.silu(self.time_in(embedding))))
        x, skips = self.inward(x), []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                x = block(x, embedding)
                skips.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](space_to_depth(x))
        x = self.middle(x, embedding)
        for level in reversed(range(len(self.up))):
            if level < len(self.grow):
                x = depth_to_space(self.grow[level](x))
            for block in self.up[level]:
                x = block(jnp.concatenate([x, skips.pop()], -1), embedding)
        return self.outward(nnx.silu(self.norm(x)))
