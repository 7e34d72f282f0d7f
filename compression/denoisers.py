"""Networks that predict something else than the noise, as noise predictors of x_t = sqrt(a) x_0 + sqrt(1 - a) eps.

a is alpha_bar at the network's time t, of the schedule that it was trained on (Eq. 3), in proportion between its steps.
The result goes wherever a noise predictor does: `diffusion(from_v(network, schedule), ddpm(schedule, t_star))`.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from .callables import Made, as_pytree
from .schedules import Schedule
from .types import Image, NoisePredictor, Scalar


def from_v(network: Callable, schedule: Schedule) -> NoisePredictor:
    """The noise of a network (x_t, t) that predicts v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans and Ho 2022).

    diffusers calls it `v_prediction`.

    >>> import purimetry as pm
    >>> predictor = from_v(lambda x_t, t: 0 * x_t, pm.linear())
    >>> round(float(predictor(jnp.ones((1, 1, 1)), jnp.float32(99))[0, 0, 0]) ** 2, 3)  # 1 - a after 100 steps
    0.103
    """
    return _seen(_of_v, network, schedule)


def from_x0(network: Callable, schedule: Schedule) -> NoisePredictor:
    """The noise of a network (x_t, t) that predicts x_0, in the diffusion's range [-1, 1]; diffusers' `sample`.

    >>> import purimetry as pm
    >>> predictor = from_x0(lambda x_t, t: 0 * x_t, pm.linear())
    >>> round(float(predictor(jnp.ones((1, 1, 1)), jnp.float32(99))[0, 0, 0]), 3)  # all is noise: 1 / sqrt(0.103)
    3.116
    """
    return _seen(_of_x0, network, schedule)


def from_score(network: Callable, schedule: Schedule) -> NoisePredictor:
    """The noise of a network (x_t, t) that predicts the score, grad log p_t(x_t) = -E[eps | x_t] / sqrt(1 - a).

    >>> import purimetry as pm
    >>> predictor = from_score(lambda x_t, t: -x_t, pm.linear())  # of data that are standard normal
    >>> round(float(predictor(jnp.ones((1, 1, 1)), jnp.float32(99))[0, 0, 0]) ** 2, 3)
    0.103
    """
    return _seen(_of_score, network, schedule)


def _seen(formula, network, schedule):
    tables = (schedule.time, np.sqrt(schedule.alpha_bar), np.sqrt(1 - schedule.alpha_bar))
    return Made(formula, as_pytree(network), tuple(map(jnp.float32, tables)))


def _of_v(network, times, signal, noise, x_t: Image, t: Scalar) -> Image:
    return jnp.interp(t, times, signal) * network(x_t, t) + jnp.interp(t, times, noise) * x_t


def _of_x0(network, times, signal, noise, x_t: Image, t: Scalar) -> Image:
    return (x_t - jnp.interp(t, times, signal) * network(x_t, t)) / jnp.interp(t, times, noise)


def _of_score(network, times, signal, noise, x_t: Image, t: Scalar) -> Image:
    return -jnp.interp(t, times, noise) * network(x_t, t)
