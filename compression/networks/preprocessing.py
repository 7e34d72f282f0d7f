"""What published networks expect of an image: three channels and their own size."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Image


def rgb(x: Image) -> Float[Array, "height width 3"]:
    """A grey image's channel three times; an image of three channels as it is.

    >>> rgb(jnp.zeros((8, 8, 1))).shape
    (8, 8, 3)
    """
    if x.ndim != 3 or x.shape[-1] not in (1, 3):
        raise ValueError(f"expected an image [h, w, c] with 1 or 3 channels, got {x.shape}; drop or mix channels")
    return jnp.broadcast_to(x, (*x.shape[:2], 3))


def resize_bilinear(x: Image, side: int) -> Float[Array, "{side} {side} channel"]:
    """To side x side without antialiasing, as `interpolate(mode="bilinear", align_corners=False)` of PyTorch.

    >>> resize_bilinear(jnp.array([[[0.0], [1.0]]] * 2), 4)[0, :, 0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    return jax.image.resize(x, (side, side, x.shape[-1]), "bilinear", antialias=False)


def resize_bicubic(x: Image, side: int) -> Float[Array, "{side} {side} channel"]:
    """The shorter side to `side`, the middle of the longer one, values in [0, 1].

    Keys' kernel (a = -1/2) widened when it shrinks an image, as in Pillow and in PyTorch's
    `interpolate(mode="bicubic", antialias=True)`. Pillow's rounding to 8 bits is left out, so it is differentiable.

    >>> resize_bicubic(jnp.full((20, 30, 3), 0.5), 8).shape
    (8, 8, 3)
    """
    height, width, channels = x.shape
    shape = [side * length // min(height, width) for length in (height, width)]
    top, left = ((length - side) // 2 for length in shape)
    x = jnp.clip(jax.image.resize(x, (*shape, channels), "cubic"), 0, 1)
    return x[top : top + side, left : left + side]
