"""The fast gradient sign method (Goodfellow et al. 2015)."""

from types import ModuleType

from ..checks import check_norm
from ..types import Budget
from . import linf
from .iterative import Iterative
from .pgd import pgd


def fgsm(eps: Budget, *, norm: ModuleType = linf) -> Iterative:
    """One step to the edge of the ball: PGD of a single step of size eps from the clean image.

    norm: `linf`, or `l2` for the fast gradient method.

    >>> import jax, jax.numpy as jnp, purimetry as pm
    >>> from functools import partial
    >>> loss = pm.defended(lambda x: x.reshape(-1), pm.identity, jnp.int32(0))
    >>> attack = jax.jit(partial(fgsm(0.25), loss))
    >>> attack(jnp.array([[[0.75], [0.25]]]), jax.random.key(0)).x.tolist()
    [[[0.5], [0.5]]]
    """
    check_norm(norm)
    return pgd(eps, steps=1, step_size=1.0, norm=norm, start=norm.clean_start)
