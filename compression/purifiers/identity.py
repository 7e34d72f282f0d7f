"""The purifier that changes nothing: the bare classifier as a member of the family, and the limit t* = 0."""

from ..types import Image, Key


def identity(x: Image, key: Key) -> Image:
    """Return the image itself.

    >>> import jax, jax.numpy as jnp
    >>> bool((identity(jnp.ones((2, 2, 1)), jax.random.key(0)) == 1).all())
    True
    """
    return x
