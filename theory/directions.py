"""Gaussian data direction by direction: every step of a purifier is an affine scalar map (compression_paper App. A.3).

Along an eigenvector v_i of the data's covariance, with variance sigma_i^2, x_t has the variance
v_t = alpha_bar_t sigma_i^2 + 1 - alpha_bar_t, and the optimal noise predictor the eigenvalue
lambda_i = sqrt(1 - alpha_bar_t) / v_t. Nothing here is approximate, and nothing grows with d but the arrays given.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..compression.schedules import Schedule
from ..compression.types import Scalar

Variances = Float[np.ndarray, "n"]


class Along(NamedTuple):
    """x -> gain x + offset mu + noise of zero mean, along n directions, mu the data's mean along each.

    gain: signed, [..., n]. offset: in units of mu, [..., n]. noise: its variance over xi, [..., n].
    A leading axis counts the steps of a process.
    """

    gain: Float[np.ndarray, "*steps n"]
    offset: Float[np.ndarray, "*steps n"]
    noise: Float[np.ndarray, "*steps n"]

    def then(self, after: "Along") -> "Along":
        """This map and then another, whose noise is independent."""
        return Along(
            after.gain * self.gain,
            after.gain * self.offset + after.offset,
            after.gain**2 * self.noise + after.noise,
        )


class NoiseLevels(NamedTuple):
    """alpha_bar and 1 - alpha_bar by the network's time: what an optimal noise predictor keeps of a schedule."""

    time: Float[np.ndarray, "levels"]
    signal: Float[np.ndarray, "levels"]
    noise: Float[np.ndarray, "levels"]

    def at(self, t: Scalar, dtype) -> tuple[Array, Array]:
        """(alpha_bar, 1 - alpha_bar) at time t, one of the schedule's."""
        step = jnp.searchsorted(jnp.asarray(self.time, dtype), t)
        return jnp.asarray(self.signal, dtype)[step], jnp.asarray(self.noise, dtype)[step]


def noise_levels(schedule: Schedule) -> NoiseLevels:
    """The noise levels of a schedule, for predictors that work in float32.

    >>> from purimetry.compression.schedules import linear
    >>> signal, noise = noise_levels(linear()).at(jnp.float32(0), jnp.float32)
    >>> round(float(noise), 9), float(1 - signal) == float(noise)
    (0.0001, False)
    """
    # 1 - alpha_bar is formed here in float64: at t = 1 its float32 difference would be wrong by 0.1 %.
    # Samplers tell times in float32, so levels are found by those.
    time = schedule.time.astype(np.float32).astype(np.float64)
    return NoiseLevels(time, schedule.alpha_bar, 1 - schedule.alpha_bar)


def eigenvalue(variances, signal, noise):
    """lambda_i = sqrt(1-ab) / (ab sigma_i^2 + 1-ab) of the optimal noise predictor's Jacobian (App. A.3).

    variances: sigma_i^2. signal, noise: ab and 1 - ab. NumPy or JAX, any shapes that broadcast.

    >>> eigenvalue(np.array([1.0, 0.0]), 0.75, 0.25).tolist()  # of a unit variance sqrt(1-ab), of none 1 / sqrt(1-ab)
    [0.5, 2.0]
    """
    return noise**0.5 / (signal * variances + noise)


def sampler_steps(variances: Variances, schedule: Schedule, steps) -> Along:
    """Each step of a sampler with the optimal noise predictor, forward then reverse, in order of use, [2 t*, n].

    A forward step multiplies by sqrt(alpha_t) (Eq. 15, read as Eq. 3 implies), a reverse one by
    state_t + prediction_t lambda_i, which for DDPM is kappa_t (1 - gamma_t lambda_i) (App. A.3, Eqs. 16-19).

    steps: a `Steps` of `compression.samplers`, made from `schedule`.

    Raises ValueError when a time of `steps` is not one of the schedule's, and for steps with memory: those are no maps
    of the state alone (`purified` follows them).

    >>> from purimetry.compression import samplers, schedules
    >>> steps = samplers.ddpm(schedules.linear(), 2)
    >>> sampler_steps(np.array([1.0]), schedules.linear(), steps).gain.round(5).ravel().tolist()
    [0.99995, 0.99994, 0.99994, 0.99995]
    """
    if steps.memory:
        raise ValueError("steps that recall former predictions have no gain of their own; `purified` gives the whole's")
    change, ab = _predictions(variances, schedule, steps)
    change *= _column(steps.prediction)
    reverse = _column(steps.state) + change, -change * np.sqrt(ab), _column(steps.noise) ** 2
    forward = _forward(variances, steps)
    return Along(*(np.concatenate([a, _over(variances, b)]) for a, b in zip(forward, reverse, strict=True)))


def purified(variances: Variances, schedule: Schedule, steps) -> Along:
    """A sampler with the optimal noise predictor as a whole, with or without memory, [n].

    steps: a `Steps` of `compression.samplers` or `compression.solvers`, made from `schedule`; otherwise ValueError.

    >>> from purimetry.compression import schedules, solvers
    >>> schedule = schedules.vp(20, t_end=0.15)
    >>> purified(np.array([1.0]), schedule, solvers.dpm(schedule, 20)).gain.round(3).tolist()  # the flow's: sqrt(ab)
    [0.888]
    """
    if not steps.memory:
        return composed(sampler_steps(variances, schedule, steps))
    eigenvalues, ab = _predictions(variances, schedule, steps)
    state, prediction = _column(steps.state), _column(steps.prediction)
    keep_state, keep_prediction, recalled = (np.asarray(c, np.float64) for c in steps.memory)
    x = np.stack([1 + 0 * variances, 0 * variances])  # in units of x_t*, and of mu
    kept = np.zeros((recalled.shape[1], *x.shape))
    for i, signal in enumerate(np.sqrt(ab[:, 0])):
        predicted = eigenvalues[i] * (x - np.array([[0], [signal]]))
        keep = keep_state[i] * x + keep_prediction[i] * predicted
        x = state[i] * x + prediction[i] * predicted + np.tensordot(recalled[i], kept, 1)
        kept = np.concatenate([keep[None], kept[:-1]])
    return composed(_forward(variances, steps)).then(Along(*x, 0 * variances))


def _column(coefficients):
    return np.asarray(coefficients, np.float64)[:, None]


def _over(variances, column):
    return np.broadcast_to(column, (len(column), len(variances)))


def _forward(variances, steps) -> Along:
    """Each forward step, [t*, n]."""
    state, noise = _column(steps.forward_state), _column(steps.forward_noise)
    return Along(*(_over(variances, column) for column in (state, 0 * state, noise**2)))


def _predictions(variances, schedule, steps):
    """Eigenvalue of the noise predictor at each reverse step, [t*, n], and its alpha_bar, [t*, 1]."""
    at = {float(time): index for index, time in enumerate(np.asarray(schedule.time, np.float32))}
    unknown = [time for time in np.asarray(steps.time).tolist() if time not in at]
    if unknown:
        raise ValueError(f"steps has time {unknown[0]:g}, which the schedule lacks; pass the schedule it was made from")
    ab = schedule.alpha_bar[[at[float(time)] for time in np.asarray(steps.time)], None]
    return eigenvalue(variances, ab, 1 - ab), ab


def composed(steps: Along) -> Along:
    """All steps of a process one after the other, [n].

    >>> composed(Along(np.array([[0.5], [0.5]]), np.zeros((2, 1)), np.ones((2, 1)))).noise.tolist()
    [1.25]
    """
    start = np.zeros_like(steps.gain[:1].sum(0))
    whole = Along(1 + start, start, start)
    for step in zip(*steps, strict=True):
        whole = whole.then(Along(*step))
    return whole


def diffused(variances: Variances, schedule: Schedule, t: int) -> Along:
    """The whole forward process at once: x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps (Eq. 3), the same in all directions.

    >>> from purimetry.compression.schedules import linear
    >>> diffused(np.array([1.0]), linear(), 100).gain.round(3).tolist()  # the paper's 0.90 is alpha_bar itself
    [0.947]
    """
    ab = _signal(schedule, t) + 0 * variances
    return Along(np.sqrt(ab), 0 * ab, 1 - ab)


def reverse_flow(variances: Variances, schedule: Schedule, t: int) -> Along:
    """The exact probability flow from x_t to x_0: what DDIM tends to with many steps.

    It carries N(sqrt(ab) mu, v_t) to N(mu, sigma^2) along straight quantiles: the gain is sigma / sqrt(v_t).

    >>> from purimetry.compression.schedules import linear
    >>> reverse_flow(np.array([1.0, 0.0]), linear(), 100).gain.tolist()
    [1.0, 0.0]
    """
    ab = _signal(schedule, t)
    gain = np.sqrt(_ratio(variances, ab))
    return Along(gain, 1 - gain * np.sqrt(ab), 0 * gain)


def reverse_sde(variances: Variances, schedule: Schedule, t: int) -> Along:
    """The exact reverse SDE from x_t to x_0: what DDPM tends to with many steps.

    Its drift is linear and its noise added, so its gain is that of the posterior mean, sqrt(ab) sigma^2 / v_t, and
    its noise the posterior variance, (1 - ab) sigma^2 / v_t; without the noise this is one-step denoising.
    DDPM has this gain and offset with any number of steps, as its steps are themselves posterior means.

    >>> from purimetry.compression.schedules import linear
    >>> reverse_sde(np.array([1.0, 0.0]), linear(), 100).noise.round(3).tolist()
    [0.103, 0.0]
    """
    ab = _signal(schedule, t)
    ratio = _ratio(variances, ab)
    return Along(np.sqrt(ab) * ratio, 1 - ab * ratio, (1 - ab) * ratio)


def _signal(schedule, t):
    if not 0 <= t <= schedule.steps:
        raise ValueError(f"t counts steps of the schedule, 0..{schedule.steps}, got {t}; multiply a fraction by T")
    return schedule.alpha_bar[t]


def _ratio(variances, ab):
    """sigma^2 / v_t; 1 where both are 0, so that t = 0 is the identity whatever the data."""
    noisy = ab * variances + 1 - ab
    return np.divide(variances, noisy, out=np.ones_like(noisy), where=noisy > 0)
