"""Projected gradient descent (Madry et al. 2017)."""

from collections.abc import Callable
from functools import partial
from types import ModuleType

import jax.numpy as jnp

from ..checks import check_norm
from ..types import Budget, Scalar
from . import linf
from .iterative import Iterative, rivals_after_own

PAPER_STEP = 0.01 / 0.3
"""Step relative to eps, compression_paper Table S6 (Foolbox's convention)."""


def pgd(
    eps: Budget,
    *,
    steps: int = 40,
    restarts: int = 1,
    step_size: float | Callable[[Scalar], Scalar] = PAPER_STEP,
    norm: ModuleType = linf,
    start: Callable | None = None,
) -> Iterative:
    """PGD: x <- project(x + step * steepest direction), which in l_inf is the gradient's sign.

    eps: budget in pixel units, may be traced and differ by image.
    step_size: relative to eps; a number, or a function of the fraction of steps done (0 to 1).
    norm: `linf` or `l2`. start: (x, eps, key) to the first iterate of each restart; `norm.uniform_start` unless told.

    The defaults are the paper's setting (Table S6): 40 steps of 0.01/0.3 eps from a uniform start in l_inf.

    >>> import jax, jax.numpy as jnp, purimetry as pm
    >>> loss = pm.defended(lambda x: x.reshape(-1), pm.identity, jnp.int32(0))
    >>> attack = jax.jit(partial(pgd(0.25, steps=80), loss))
    >>> result = attack(jnp.array([[[0.7], [0.3]]]), jax.random.key(0))
    >>> round(float(result.margin), 2)
    0.1
    """
    check_norm(norm)

    def begin(x, key, restart):
        return (start or norm.uniform_start)(x, eps, key), ()

    def move(x, iterate, gradient, objective, memory, k):
        relative = step_size(k / steps) if callable(step_size) else step_size
        return norm.project(iterate + relative * eps * norm.steepest(gradient), x, eps), memory

    return Iterative(begin, move, steps, restarts, eps, norm)


def cosine_decay(first: float, last: float, fraction: Scalar) -> Scalar:
    """Relative step size that falls from `first` to `last` along half a cosine."""
    return last + (first - last) * (1 + jnp.cos(jnp.pi * fraction)) / 2


def converged_pgd(eps: Budget, *, steps: int = 16, restarts: int = 10, norm: ModuleType = linf) -> Iterative:
    """PGD run until robust accuracy stops falling: decaying steps, and a restart for each rival class.

    The first restart ascends the loss's own objective (use `losses.margin`: cross-entropy's gradient vanishes
    where p(label) rounds to 1); each later one ascends the margin of one rival class. With ten classes, ten
    restarts try every rival. On digits this broke more images than nine random restarts of 50 steps did.
    """
    check_norm(norm)
    return pgd(eps, steps=steps, restarts=restarts, step_size=partial(cosine_decay, 1.0, 0.01), norm=norm,
               start=norm.clean_start)._replace(rival=rivals_after_own)
