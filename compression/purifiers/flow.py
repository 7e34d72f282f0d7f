"""Purification by rectified flow (flow matching): a velocity network on the diffusion's own samplers."""

import jax.numpy as jnp
import numpy as np

from .. import samplers
from ..callables import Made, as_pytree
from ..schedules import CONTINUOUS, Schedule, rectified, rectified_time
from ..types import Image, NoisePredictor, Purifier, Scalar
from .diffusion import diffusion
from .identity import identity


def flow(velocity: NoisePredictor, t_star: int | float, steps: int) -> Purifier:
    """Noise to (1 - t*) x + t* z, then `steps` of Euler's method along the velocity back to t = 0, clipped.

    velocity: network of (x_t, 999 t) that predicts z - x_0, for example trained by `training.losses.flow_matching`.
    t_star: in [0, 1); 0 is the identity. Takes and returns pixels in [0, 1]; the flow's own range is [-1, 1].

    >>> import jax, jax.numpy as jnp, purimetry as pm
    >>> purifier = pm.flow(lambda x_t, t: x_t, t_star=0.2, steps=4)
    >>> purifier(jnp.full((8, 8, 1), 0.5), pm.configuration(seed=0, index=0)).shape
    (8, 8, 1)
    """
    if not 0 <= t_star < 1:
        raise ValueError(f"t_star is a time of the flow, 0 <= t_star < 1, got {t_star}; it is a fraction of the way to "
                         "noise, whatever the number of steps")
    if t_star == 0:
        return identity
    return diffusion(noise_of(velocity), samplers.ddim(rectified(steps, t_star), steps))


def like(schedule: Schedule, t_star: int | float) -> samplers.Steps:
    """`t_star` steps of Euler's method on the flow, from where its noise equals the schedule's at t_star.

    So a flow stands beside a diffusion purifier: as much noise, as many evaluations, the same keys.
    To be used with `noise_of(velocity)`.

    >>> import purimetry as pm
    >>> schedule = pm.respaced(pm.linear(), 100)
    >>> steps, theirs = like(schedule, 10), pm.ddim(schedule, 10)
    >>> len(steps.t), bool(abs(steps.signal[0] - theirs.signal[0]) < 1e-6)
    (10, True)
    """
    theirs = samplers.ddim(schedule, t_star)
    n = len(theirs.t)
    return samplers.ddim(rectified(n, rectified_time(schedule.alpha_bar[n])), n) if n else theirs


def noise_of(velocity: NoisePredictor) -> NoisePredictor:
    """A velocity network as noise predictor of the schedule `schedules.rectified`, on which any sampler runs.

    With y = (1 - t) x_0 + t z, the schedule's x_t is y / |(1 - t, t)|, and z = y + (1 - t) v(y).

    >>> import jax.numpy as jnp
    >>> noise_of(lambda y, t: 0 * y)(jnp.ones((1, 1, 1)), jnp.float32(499.5)).round(3).tolist()  # sqrt(1/2)
    [[[0.7070000171661377]]]
    """
    return Made(_noise, as_pytree(velocity))


def velocity_of(predictor: NoisePredictor, process: Schedule) -> NoisePredictor:
    """A noise predictor as velocity of rectified flow: the inverse of `noise_of`, and a flow that needs no training.

    process: the schedule that the predictor was trained on. At each t < 1 it is told the process's time of as much
        noise, between steps in proportion, 0 at least and at most its last.

    Flow matching's optimum E[z - x_0 | y] and noise prediction's E[z | y] are the same function,
    v = (z - y) / (1 - t), so two networks differ by what they learned and not by what they are to learn, and
    Euler's method on this velocity is DDIM with steps that are even in t.

    >>> import jax.numpy as jnp, purimetry as pm
    >>> predictor = lambda x, time: x * time / 100
    >>> known = velocity_of(predictor, pm.linear())
    >>> round(float(noise_of(known)(jnp.ones((1, 1, 1)), 999 * jnp.float32(0.2))[0, 0, 0]), 2)  # told 73
    0.73
    """
    tables = (rectified_time(process.alpha_bar), np.maximum(process.time, 0))
    return Made(_velocity, as_pytree(predictor), tuple(map(jnp.float32, tables)))


def _velocity(predictor, known_t, known_time, y: Image, time: Scalar) -> Image:
    t = time / CONTINUOUS
    return (predictor(y / jnp.hypot(1 - t, t), jnp.interp(t, known_t, known_time)) - y) / (1 - t)


def _noise(velocity, x: Image, time: Scalar) -> Image:
    t = time / CONTINUOUS
    y = jnp.hypot(1 - t, t) * x
    return y + (1 - t) * velocity(y, time)
