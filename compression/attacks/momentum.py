"""Momentum for any attack that follows gradients (MI-FGSM, Dong et al. 2018)."""

from collections.abc import Callable

import jax.numpy as jnp

from ..types import Budget
from .iterative import Iterative


def momentum(attack: Callable[[Budget], Iterative], eps: Budget, *, decay: float = 1.0) -> Iterative:
    """The attack, following v <- decay v + gradient / ||gradient||_1 in the gradient's place.

    `functools.partial(momentum, pgd)` is its constructor. Transferred inputs gain most from it.

    >>> import jax, jax.numpy as jnp, purimetry as pm
    >>> from functools import partial
    >>> loss = pm.defended(lambda x: x.reshape(-1), pm.identity, jnp.int32(0))
    >>> attack = jax.jit(partial(momentum(partial(pm.pgd, steps=80), 0.25), loss))
    >>> result = attack(jnp.array([[[0.7], [0.3]]]), jax.random.key(0))
    >>> round(float(result.margin), 2)
    0.1
    """
    plain = attack(eps)

    def start(x, key, restart):
        iterate, memory = plain.start(x, key, restart)
        return iterate, (memory, jnp.zeros_like(x))

    def move(x, point, gradient, objective, memory, k):
        inner, velocity = memory
        length = jnp.abs(gradient).sum()
        velocity = decay * velocity + gradient / jnp.where(length > 0, length, 1)
        iterate, inner = plain.move(x, point, velocity, objective, inner, k)
        return iterate, (inner, velocity)

    return plain._replace(start=start, move=move)
