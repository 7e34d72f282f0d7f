"""How far to go when every pixel stops at its own wall, black or white."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Scalar


def fill(rates: Float[Array, "n"], totals: Float[Array, "n"], target: Scalar) -> Scalar:
    """The least u >= 0 with sum_i min(rates_i u, totals_i) = target.

    rates, totals: >= 0. Where even the sum of all totals is below the target, the u at which the last is reached.

    A ray x + t v inside [0, 1] is such a sum: its squared length in u = t^2, what it gains on a plane in u = t. The
    sum is concave and piecewise linear, so Newton's method from 0 rises to the solution, and is there exactly once
    it passes no more walls.

    >>> fill(jnp.array([1.0, 1.0]), jnp.array([0.25, 9.0]), jnp.float32(1.25)).item()
    1.0
    """
    moving = rates > jnp.finfo(rates.dtype).tiny
    walls = jnp.where(moving, totals / jnp.where(moving, rates, 1), 0)

    def rise(state):
        u, _ = state
        stopped = walls <= u
        rate = jnp.where(stopped, 0, rates).sum()
        left = target - jnp.where(stopped & moving, totals, 0).sum()
        return jnp.where(rate > 0, jnp.maximum(left / jnp.where(rate > 0, rate, 1), u), walls.max()), u

    zero = jnp.zeros((), rates.dtype)
    return jax.lax.while_loop(lambda state: state[0] > state[1], rise, (zero, zero - 1))[0]
