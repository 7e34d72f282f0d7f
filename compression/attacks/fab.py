"""The fast adaptive boundary attack (Croce and Hein 2020), targeted: FAB-T."""

from types import ModuleType

import jax
import jax.numpy as jnp

from ..checks import check_norm
from ..types import Budget, Image, Scalar
from . import linf
from .iterative import Iterative, Query, closest, each_rival
from .walls import fill

BIAS, OVERSHOOT, BACKWARD = 0.1, 1.05, 0.9
"""alpha_max, eta and beta: the most weight of the clean image, the extrapolation, the step back from a break."""


def fab(eps: Budget, *, steps: int = 100, targets: int = 9, norm: ModuleType = linf) -> Iterative:
    """FAB-T: a restart from the clean image for each of the likeliest `targets` rival classes.

    Each step projects the iterate and the clean image on the linearised boundary to the rival, inside [0, 1], and
    mixes what it finds; from a misclassified iterate it first steps back towards the clean image. It does not know
    eps: it looks for the smallest perturbation, and succeeds where that is inside the budget. Given the largest
    budget and infinite confidence it measures minimum perturbations.

    >>> import purimetry as pm
    >>> from functools import partial
    >>> loss = pm.defended(lambda x: x.reshape(-1), pm.identity, jnp.int32(0))
    >>> x = jnp.array([[[0.75], [0.25]]])
    >>> found = jax.jit(partial(fab(1.0, targets=1), loss))(x, jax.random.key(0)).x
    >>> round(float(linf.length(found - x)), 2)
    0.25
    """
    check_norm(norm)

    def move(x, point, gradient, objective, memory, k):
        near = to_plane(point, gradient, -objective.ascent, norm)
        far = to_plane(x, gradient, jnp.vdot(gradient, point - x) - objective.ascent, norm)
        shortest = jnp.asarray(1e-8, x.dtype)
        a, b = jnp.maximum(norm.length(near), shortest), jnp.maximum(norm.length(far), shortest)
        weight = jnp.minimum(a / (a + b), BIAS)
        mixed = (1 - weight) * (point + OVERSHOOT * near) + weight * (x + OVERSHOOT * far)
        return jnp.clip(mixed, 0, 1), memory

    start = lambda x, key, restart: (x, ())
    query = Query(_stepping_back, evaluations=2, gradients=1)
    return Iterative(start, move, steps, targets, eps, norm, query=query, rival=each_rival, merit=closest)


def _stepping_back(ascend, x, iterate):
    _, seen = ascend(iterate)
    point = jnp.where(seen.margin >= 0, x + BACKWARD * (iterate - x), iterate)
    gradient, objective = jax.grad(ascend, has_aux=True)(point)
    return seen, point, gradient, objective


def to_plane(point: Image, normal: Image, gain: Scalar, norm: ModuleType) -> Image:
    """The shortest d with <normal, d> = gain and point + d in [0, 1]; towards the plane as far as the range allows.

    In l_inf all pixels move at one speed, in l2 in proportion to the normal, until they stop at 0 or 1.

    >>> from functools import partial
    >>> nearest = jax.jit(partial(to_plane, norm=linf))
    >>> nearest(jnp.array([[[0.75], [0.5]]]), jnp.ones((1, 2, 1)), 0.75).tolist()
    [[[0.25], [0.5]]]
    """
    direction = jnp.sign(gain) * norm.steepest(normal)
    room = jnp.where(direction > 0, 1 - point, point)
    slope, speed = jnp.abs(normal), jnp.abs(direction)
    time = fill((slope * speed).ravel(), (slope * room).ravel(), jnp.abs(gain))
    return jnp.sign(direction) * jnp.minimum(jnp.where(speed > 0, time * speed, 0), room)
