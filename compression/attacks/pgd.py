"""Projected gradient descent (Madry et al. 2017) in the l_inf ball."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp

from ..types import Budget, Scalar
from . import linf
from .iterative import Iterative

PAPER_STEP = 0.01 / 0.3
"""Step relative to eps, compression_paper Table S6 (Foolbox's convention)."""


def pgd(
    eps: Budget,
    *,
    steps: int = 40,
    restarts: int = 1,
    step_size: float | Callable[[Scalar], Scalar] = PAPER_STEP,
    start: Callable = linf.uniform_start,
) -> Iterative:
    """PGD with signed gradients: x <- project(x + step sign(gradient)).

    eps: budget in pixel units, may be traced and differ by image.
    step_size: relative to eps; a number, or a function of the fraction of steps done (0 to 1).
    start: (x, eps, key) to the first iterate of each restart.

    The defaults are the paper's setting (Table S6): 40 steps of 0.01/0.3 eps from a uniform start.

    >>> import jax, jax.numpy as jnp, purimetry as pm
    >>> loss = pm.defended(lambda x: x.reshape(-1), pm.identity, jnp.int32(0))
    >>> result = pgd(0.25, steps=80)(loss, jnp.array([0.7, 0.3]).reshape(1, 2, 1), jax.random.key(0))
    >>> round(float(result.margin), 2)
    0.1
    """

    def begin(x, key, restart):
        return start(x, eps, key), ()

    def move(x, iterate, gradient, objective, memory, k):
        relative = step_size(k / steps) if callable(step_size) else step_size
        return linf.project(iterate + relative * eps * linf.steepest(gradient), x, eps), memory

    return Iterative(begin, move, steps, restarts)


def cosine_decay(first: float, last: float, fraction: Scalar) -> Scalar:
    """Relative step size that falls from `first` to `last` along half a cosine."""
    return last + (first - last) * (1 + jnp.cos(jnp.pi * fraction)) / 2


def converged_pgd(eps: Budget, *, steps: int = 16, restarts: int = 10) -> Iterative:
    """PGD run until robust accuracy stops falling: decaying steps, and a restart for each rival class.

    The first restart ascends the loss's own objective (use `losses.margin`: cross-entropy's gradient vanishes
    where p(label) rounds to 1); each later one ascends the margin of one rival class. With ten classes, ten
    restarts try every rival. On digits this broke more images than nine random restarts of 50 steps did.
    """
    return pgd(eps, steps=steps, restarts=restarts, step_size=partial(cosine_decay, 1.0, 0.01),
               start=linf.clean_start)._replace(targeted=True)
