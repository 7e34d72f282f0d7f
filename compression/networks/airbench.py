"""The small, quickly trained CIFAR-10 network of Jordan (2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU").

As it is run: the normalisations of its training, of pixels and between layers, are folded into its convolutions.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..types import Image, Logits
from .convolution import Convolution
from .from_torch import from_torch
from .pure import Network

WIDTHS = (24, 64, 256, 256)
"""Of the whitening convolution and of the three blocks of airbench94."""

SIDE = 32
"""Rows and columns of the images that it takes."""


class Whitening(nnx.Module):
    """2x2 convolution of stride 1 without padding."""

    def __init__(self, c_in: int, c_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (2, 2, c_in, c_out)) / (4 * c_in) ** 0.5)
        self.bias = nnx.Param(jnp.zeros(c_out))

    def __call__(self, x):
        height, width = x.shape[0] - 1, x.shape[1] - 1
        patches = jnp.concatenate([x[i : i + height, j : j + width] for i in (0, 1) for j in (0, 1)], -1)
        return patches @ self.kernel[...].reshape(-1, self.kernel.shape[-1]) + self.bias[...]


class Block(nnx.Module):
    """Two 3x3 convolutions, the first one's result halved by its maximum over 2x2 pixels."""

    def __init__(self, c_in: int, c_out: int, *, rngs: nnx.Rngs):
        self.conv1, self.conv2 = Convolution(c_in, c_out, rngs=rngs), Convolution(c_out, c_out, rngs=rngs)

    def __call__(self, x):
        x = _gelu(halved(self.conv1(x)))
        return _gelu(self.conv2(x))


class Airbench(nnx.Module):
    """Logits of an image [32, 32, 3] in [0, 1].

    widths: of the whitening convolution and of each block.

    >>> network = lambda x: Airbench(rngs=nnx.Rngs(0))(x)
    >>> jax.eval_shape(network, jnp.zeros((32, 32, 3))).shape
    (10,)
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, classes: int = 10, *, rngs: nnx.Rngs):
        self.whiten = Whitening(3, widths[0], rngs=rngs)
        self.blocks = nnx.List([Block(*pair, rngs=rngs) for pair in pairwise(widths)])
        self.linear = nnx.Linear(widths[-1], classes, use_bias=False, rngs=rngs)

    def __call__(self, x: Image) -> Logits:
        return self.linear(self.features(x))

    def features(self, x: Image) -> Float[Array, "feature"]:
        """What the last layer reads: the maximum over the image of the last block's channels."""
        if x.shape != (SIDE, SIDE, 3):
            raise ValueError(f"this network takes images [{SIDE}, {SIDE}, 3], got {x.shape}; give it CIFAR's")
        x = _gelu(self.whiten(x))
        for block in self.blocks:
            x = block(x)
        return x.max((0, 1))


def halved(x: Float[Array, "height width channel"]) -> Float[Array, "height//2 width//2 channel"]:
    """The maximum over each 2x2 pixels; an odd last row or column is left out.

    >>> halved(jnp.arange(15.0).reshape(3, 5, 1))[..., 0].tolist()
    [[6.0, 8.0]]
    """
    height, width = x.shape[0] // 2, x.shape[1] // 2
    return x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).max((1, 3))


def airbench(arrays: Mapping[str, np.ndarray], classes: int = 10) -> Network:
    """The network with the weights of a PyTorch state dict, its normalisations folded; strict.

    Its widths are the file's: airbench94 has 1.97 M parameters.
    """
    names = ("whiten.weight", *(f"blocks.{number}.conv1.weight" for number in range(len(WIDTHS) - 1)))
    widths = [len(arrays[name]) if name in arrays else width for name, width in zip(names, WIDTHS, strict=True)]
    return from_torch(partial(Airbench, widths, classes), arrays)


def _gelu(x):
    return jax.nn.gelu(x, approximate=False)
