"""The decoupled direction and norm attack (Rony et al. 2019), for smallest l2 perturbations."""

from functools import partial

import jax.numpy as jnp

from ..types import Budget
from . import l2
from .iterative import Iterative, closest
from .pgd import cosine_decay


def ddn(eps: Budget, *, steps: int = 100, first: float = 1.0, gamma: float = 0.05) -> Iterative:
    """DDN: ascend the loss (`losses.cross_entropy` in the paper) on a sphere that shrinks while it breaks the image.

    first: the first radius, in pixel units. gamma: share by which a misclassified iterate's radius shrinks, and
    another's grows. It does not know eps: it looks for the smallest perturbation, and succeeds where that is inside
    the budget.

    >>> import jax, purimetry as pm
    >>> loss = pm.defended(lambda x: x.reshape(-1), pm.identity, jnp.int32(0))
    >>> x = jnp.array([[[0.75], [0.25]]])
    >>> found = jax.jit(partial(ddn(1.0), loss))(x, jax.random.key(0)).x
    >>> round(float(l2.length(found - x)), 2), round(0.25 * 2**0.5, 2)
    (0.35, 0.35)
    """
    step_size = partial(cosine_decay, 1.0, 0.01)

    def start(x, key, restart):
        return x, jnp.asarray(first, x.dtype)

    def move(x, iterate, gradient, objective, radius, k):
        radius = radius * jnp.where(objective.margin >= 0, 1 - gamma, 1 + gamma)
        radius = jnp.minimum(radius, l2.length(jnp.maximum(x, 1 - x)))
        ahead = iterate - x + step_size(k / steps) * l2.steepest(gradient)
        return jnp.clip(x + radius * l2.steepest(ahead), 0, 1), radius

    return Iterative(start, move, steps, 1, eps, l2, merit=closest)
