"""The l_inf ball inside the pixel range: where an attack starts, its steepest step, its projection."""

import jax
import jax.numpy as jnp

from ..types import Budget, Image, Key, Scalar


def largest(shape: tuple[int, ...]) -> float:
    """The longest perturbation inside the pixel range of images of this shape."""
    return 1.0


def length(perturbation: Image) -> Scalar:
    """The l_inf norm."""
    return jnp.abs(perturbation).max()


def clean_start(x: Image, eps: Budget, key: Key) -> Image:
    """The image itself."""
    return x


def uniform_start(x: Image, eps: Budget, key: Key) -> Image:
    """A uniform point of the ball around x, clipped to [0, 1]."""
    return jnp.clip(x + jax.random.uniform(key, x.shape, x.dtype, -eps, eps), 0, 1)


def edge_start(x: Image, eps: Budget, key: Key) -> Image:
    """A random point of the ball's surface, clipped to [0, 1]: a uniform direction, its largest pixel at eps."""
    direction = jax.random.uniform(key, x.shape, x.dtype, -1, 1)
    return jnp.clip(x + eps * direction / length(direction), 0, 1)


def steepest(gradient: Image) -> Image:
    """The direction of unit l_inf norm that ascends fastest: the sign."""
    return jnp.sign(gradient)


def project(candidate: Image, x: Image, eps: Budget) -> Image:
    """The nearest point of the ball around x that is also in [0, 1].

    >>> project(jnp.array([[[0.9]]]), jnp.array([[[0.5]]]), 0.25).item()
    0.75
    """
    return jnp.clip(jnp.clip(candidate, x - eps, x + eps), 0, 1)
