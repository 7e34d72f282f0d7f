"""Auto-PGD (Croce and Hein 2020): PGD that sets its own step size, with untargeted and targeted objectives."""

from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from ..checks import check_norm
from ..losses import targeted_dlr
from ..types import Budget, Image, Scalar
from . import linf
from .iterative import Iterative, each_rival

MOMENTUM = 0.75
"""alpha: share of the step; the rest is the previous move."""


class Memory(NamedTuple):
    """What Auto-PGD remembers between steps.

    previous, value: the point of the last step, and what was ascended at the last iterate.
    best, best_gradient, best_value: the largest value of this restart. step: size relative to eps.
    rises: steps since the last checkpoint that raised the value.
    halved, checked: whether the last checkpoint halved the step, and the best value there.
    """

    previous: Image
    value: Scalar
    best: Image
    best_gradient: Image
    best_value: Scalar
    step: Scalar
    rises: Int[Array, ""]
    halved: Bool[Array, ""]
    checked: Scalar


def apgd(
    eps: Budget, *, steps: int = 100, restarts: int = 1, rho: float = 0.75, norm: ModuleType = linf
) -> Iterative:
    """Auto-PGD on the loss's own objective: `losses.cross_entropy` (or `log_odds`) for APGD-CE, `dlr` for APGD-DLR.

    The step starts at 2 eps. At each checkpoint it is halved, and the search goes back to its best point, if fewer
    than a share rho of the steps since the last one raised the objective, or if neither step size nor best value
    have changed since then (Conditions 1 and 2 of Sec. 3; as in the authors' code exactly the share rho is too few).

    >>> import jax, purimetry as pm
    >>> from functools import partial
    >>> loss = pm.defended(lambda x: x.reshape(-1), pm.identity, jnp.int32(0), pm.cross_entropy)
    >>> attack = jax.jit(partial(apgd(0.25), loss))
    >>> attack(jnp.array([[[0.75], [0.25]]]), jax.random.key(0)).x.tolist()
    [[[0.5], [0.5]]]
    """
    check_norm(norm)

    def start(x, key, restart):
        iterate, lowest = norm.edge_start(x, eps, key), jnp.finfo(x.dtype).min
        return iterate, Memory(
            previous=iterate, value=lowest, best=iterate, best_gradient=jnp.zeros_like(x), best_value=lowest,
            step=jnp.asarray(2.0, x.dtype), rises=jnp.int32(0), halved=jnp.array(True), checked=lowest,
        )

    periods = _periods(steps)

    def move(x, iterate, gradient, objective, memory, k):
        value, period = objective.ascent, jnp.asarray(periods)[k]
        rises = memory.rises + ((k > 0) & (value > memory.value))
        better = value > memory.best_value
        best = jnp.where(better, iterate, memory.best)
        best_gradient = jnp.where(better, gradient, memory.best_gradient)
        best_value = jnp.where(better, value, memory.best_value)
        checkpoint = period > 0
        stale = ~memory.halved & (memory.checked >= best_value)
        halve = checkpoint & ((rises <= rho * period) | stale)
        step = jnp.where(halve, memory.step / 2, memory.step)
        point = jnp.where(halve, best, iterate)
        slope = jnp.where(halve, best_gradient, gradient)
        ahead = norm.project(point + step * eps * norm.steepest(slope), x, eps)
        share = jnp.where(k > 0, MOMENTUM, 1.0)
        moved = point + share * (ahead - point) + (1 - share) * (point - memory.previous)
        return norm.project(moved, x, eps), Memory(
            previous=point, value=value, best=best, best_gradient=best_gradient, best_value=best_value, step=step,
            rises=jnp.where(checkpoint, 0, rises), halved=jnp.where(checkpoint, halve, memory.halved),
            checked=jnp.where(checkpoint | (k == 0), best_value, memory.checked),
        )

    return Iterative(start, move, steps, restarts, eps, norm)


def apgd_targeted(eps: Budget, *, steps: int = 100, targets: int = 9, norm: ModuleType = linf) -> Iterative:
    """Targeted Auto-PGD: a restart for each of the likeliest `targets` rival classes, ascending their targeted DLR.

    >>> import jax, purimetry as pm
    >>> from functools import partial
    >>> loss = pm.defended(lambda x: x.reshape(-1), pm.identity, jnp.int32(0))
    >>> x = jnp.array([[[0.75], [0.0]], [[0.25], [0.0]]])
    >>> attack = jax.jit(partial(apgd_targeted(0.3, targets=3), loss))
    >>> round(float(attack(x, jax.random.key(0)).margin), 2)
    0.1
    """
    return apgd(eps, steps=steps, restarts=targets, norm=norm)._replace(rival=each_rival, ascent=targeted_dlr)


def checkpoints(steps: int) -> list[int]:
    """Numbers of the iterates at which the step size is looked at: ceil(p_j steps), p_1 = 0.22 (Sec. 3).

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    percent, length, found = 22, 22, []
    while percent <= 100:
        found.append(-(-percent * steps // 100))
        length = max(length - 3, 6)
        percent += length
    return sorted(set(found))


def _periods(steps: int):
    """For each iterate 0..steps the steps since the last checkpoint if it is one, else 0."""
    periods, at = np.zeros(steps + 1, np.int32), checkpoints(steps)
    periods[at] = np.diff([0, *at])
    return periods
