"""The randomness configuration xi: which noise a purifier draws for which image, direction and step.

Holding xi fixed turns a stochastic purifier f(x, xi) into the deterministic map f_xi of the paper
(compression_paper Sec. 2). A configuration is one JAX key per image; each step of the diffusion folds its
direction and time into it, so no result depends on batch size, sharding or resumption.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from .types import Key, Keys

FORWARD, REVERSE, ATTACK, PROBE, REDRAW, JUDGE, LATENT = range(7)
"""Directions of a step key; after the first two, they keep attacks' starts, random probes, further configurations,
those that attacks are judged by, and the noise of a latent apart from a diffusion's noise."""

PRIME_SEED, PRIME_IMAGE, PRIME_STEP = 83492791, 73856093, 19349663
"""p_s, p_i and p_t of compression_paper Table S6."""


def configuration(seed: int | Int[Array, ""], index: int | Int[Array, ""]) -> Key:
    """xi of image number `index` under base seed `seed`.

    >>> bool(configuration(0, 3) == configuration(0, 3)), bool(configuration(0, 3) == configuration(1, 3))
    (True, False)
    """
    return jax.random.fold_in(jax.random.key(seed), index)


def configurations(seed: int, indices: Int[np.ndarray | Array, "n"] | Sequence[int]) -> Keys:
    """xi of each image in `indices`, numbers of images in a vector, range or list; shape [n].

    >>> configurations(0, np.arange(5)).shape
    (5,)
    """
    if np.ndim(indices) != 1:
        raise ValueError(f"indices are a vector, one number an image, got {indices}; for all of n images range(n)")
    return _configurations(jax.random.key(seed), np.asarray(indices))


_configurations = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))


def step_key(xi: Key, direction: int | Int[Array, ""], t: int | Int[Array, ""]) -> Key:
    """Key of the noise of step t (1..t*) in one direction, FORWARD (eps_t, Eq. 3) or REVERSE (z_t, Eq. 4)."""
    return jax.random.fold_in(jax.random.fold_in(xi, direction), t)


def redraw(xi: Key, number: int | Int[Array, ""]) -> Key:
    """Another configuration that xi determines: those of numbers 0, 1, ... are independent of xi and one another.

    >>> bool(redraw(configuration(0, 0), 0) == configuration(0, 0))
    False
    """
    return step_key(xi, REDRAW, number)


def redraws(xi: Key, n: int) -> Keys:
    """The first n configurations that xi determines, shape [n].

    >>> redraws(configuration(0, 0), 15).shape
    (15,)
    """
    return jax.vmap(partial(redraw, xi))(jnp.arange(n))


def paper_hash(s: int | Array, i: int | Array, t: int | Array) -> UInt32[Array, "..."]:
    """The multiplicative XOR hash of Eq. 24: (p_s s) xor (p_i i) xor (p_t t) mod 2^32.

    XOR of multiples is not injective: distinct (s, i, t) can collide and then share their noise.

    >>> int(paper_hash(0, 0, 1))
    19349663
    """
    s, i, t = (jnp.asarray(v).astype(jnp.uint32) for v in (s, i, t))
    return (s * jnp.uint32(PRIME_SEED)) ^ (i * jnp.uint32(PRIME_IMAGE)) ^ (t * jnp.uint32(PRIME_STEP))


def paper_configuration(seed: int | Int[Array, ""], index: int | Int[Array, ""]) -> Key:
    """xi in the paper's scheme: a key that carries (s, i), to be used with `paper_step_key`."""
    pair = jnp.stack([jnp.asarray(seed, jnp.uint32), jnp.asarray(index).astype(jnp.uint32)])
    return jax.random.wrap_key_data(pair, impl="threefry2x32")


def paper_step_key(xi: Key, direction: int | Int[Array, ""], t: int | Int[Array, ""]) -> Key:
    """Key of step t in the paper's scheme, Eq. 23: the hash of 2t (forward) or 2t + 1 (reverse) is the seed."""
    s, i = jax.random.key_data(xi)
    t = jnp.asarray(t)
    return jax.random.key(paper_hash(s, i, 2 * t + direction))


def normal(key: Key, like: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Standard normal noise of the shape and precision of `like`."""
    return jax.random.normal(key, like.shape, like.dtype)
