"""The l2 ball inside the pixel range: where an attack starts, its steepest step, its projection."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..randomness import normal
from ..types import Budget, Image, Key, Scalar
from .linf import clean_start as clean_start
from .walls import fill


def largest(shape: tuple[int, ...]) -> float:
    """The longest perturbation inside the pixel range of images of this shape."""
    return math.sqrt(math.prod(shape))


def length(perturbation: Float[Array, "*shape"]) -> Scalar:
    """The l2 norm."""
    return jnp.linalg.norm(perturbation.ravel())


def uniform_start(x: Image, eps: Budget, key: Key) -> Image:
    """A uniform point of the ball around x, clipped to [0, 1]."""
    direction, radius = jax.random.split(key)
    share = jax.random.uniform(radius, dtype=x.dtype) ** (1 / x.size)
    return edge_start(x, eps * share, direction)


def edge_start(x: Image, eps: Budget, key: Key) -> Image:
    """A uniform point of the ball's surface, clipped to [0, 1]."""
    return jnp.clip(x + eps * steepest(normal(key, x)), 0, 1)


def steepest(gradient: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The direction of unit l2 norm that ascends fastest; 0 where the gradient vanishes.

    The largest component is taken out first, so that no square leaves the range of float32.
    """
    scaled = gradient / jnp.maximum(jnp.abs(gradient).max(), jnp.finfo(gradient.dtype).tiny)
    return scaled / jnp.maximum(length(scaled), jnp.finfo(gradient.dtype).tiny)


def project(candidate: Image, x: Image, eps: Budget) -> Image:
    """The nearest point of the ball around x that is also in [0, 1], x itself being in [0, 1].

    By the conditions of Karush, Kuhn and Tucker it is clip(x + s (candidate - x), 0, 1) with the largest s <= 1 that
    keeps it in the ball. Pixels that stop at 0 or 1 leave their share of the budget to the others, which scaling to
    the ball and clipping afterwards, as attacks often do, would waste.

    >>> project(jnp.array([[[1.4], [0.9]]]), jnp.array([[[1.0], [0.5]]]), 0.25).ravel().tolist()
    [1.0, 0.75]
    """
    perturbation = (candidate - x).ravel()
    room = jnp.where(perturbation > 0, 1 - x.ravel(), x.ravel())
    share = jnp.sqrt(fill(perturbation**2, room**2, jnp.asarray(eps, x.dtype) ** 2))
    nearest = jnp.where(share < 1, x + jnp.minimum(share, 1) * (candidate - x), candidate)
    return jnp.clip(nearest, 0, 1)
