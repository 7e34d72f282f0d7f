"""The l_inf ball inside the pixel range: where an attack starts, its steepest step, its projection."""

import jax
import jax.numpy as jnp

from ..types import Budget, Image, Key


def uniform_start(x: Image, eps: Budget, key: Key) -> Image:
    """A uniform point of the ball around x, clipped to [0, 1]."""
    return jnp.clip(x + jax.random.uniform(key, x.shape, x.dtype, -eps, eps), 0, 1)


def clean_start(x: Image, eps: Budget, key: Key) -> Image:
    """The image itself."""
    return x


def steepest(gradient: Image) -> Image:
    """The direction of unit l_inf norm that ascends fastest: the sign."""
    return jnp.sign(gradient)


def project(candidate: Image, x: Image, eps: Budget) -> Image:
    """The nearest point of the ball around x that is also in [0, 1].

    >>> project(jnp.array([[[0.9]]]), jnp.array([[[0.5]]]), 0.25).item()
    0.75
    """
    return jnp.clip(jnp.clip(candidate, x - eps, x + eps), 0, 1)
