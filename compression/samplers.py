"""Diffusion samplers: one affine step per algorithm, and the scan that drives any of them.

Every sampler here is x <- A_t x + B_t eps(x, t) + C_t z; those of `solvers` also use what former steps predicted. The
coefficients are arrays, inputs of the compiled program, so all samplers of one t* share a compilation. States are in
the diffusion's own range [-1, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from . import randomness
from .networks.convolution import is_convolution
from .schedules import Schedule
from .types import Image, Key, NoisePredictor

SHORT, SMALL = 16, 4096
"""Steps of a trajectory, and values of an image, up to which a gradient keeps what the network's convolutions gave."""


class Memory(NamedTuple):
    """What a step keeps of its prediction for later ones, and how it uses what former steps kept; in order of use.

    state, prediction: it keeps m = state x_t + prediction eps(x_t, t).
    recalled: weights of the last k kept in its own result, the latest first; 0 where there were none yet.
    """

    state: Float[Array, "t_star"]
    prediction: Float[Array, "t_star"]
    recalled: Float[Array, "t_star k"]


class Steps(NamedTuple):
    """A sampler at one t*: its coefficients for the forward pass (t = 1..t*) and the reverse one (t = t*..1).

    forward_state, forward_noise: x_t = forward_state x_{t-1} + forward_noise eps_t (Eq. 3).
    state, prediction, noise: x_{t-1} = state x_t + prediction eps(x_t, t) + noise z_t (Eq. 4), in order of use.
    t, time, signal: the step's number, what the noise predictor is told and sqrt(alpha_bar_t), in order of use.
    memory: empty, or of steps that add what they recall: x_{t-1} = ... + sum_j recalled_j m_j.
    """

    forward_state: Float[Array, "t_star"]
    forward_noise: Float[Array, "t_star"]
    state: Float[Array, "t_star"]
    prediction: Float[Array, "t_star"]
    noise: Float[Array, "t_star"]
    t: Int[Array, "t_star"]
    time: Float[Array, "t_star"]
    signal: Float[Array, "t_star"]
    memory: Memory | tuple[()] = ()

    def astype(self, dtype) -> "Steps":
        """The same steps, with coefficients and times of this precision."""
        return jax.tree.map(lambda c: c.astype(dtype) if jnp.issubdtype(c.dtype, jnp.floating) else c, self)


def posterior_sigma(schedule: Schedule) -> np.ndarray:
    """sigma_t of the reverse step from the posterior q(x_{t-1} | x_t, x_0): Ho et al.'s lower choice, [T]."""
    ab = schedule.alpha_bar
    return np.sqrt((1 - schedule.alpha) * (1 - ab[:-1]) / (1 - ab[1:]))


def beta_sigma(schedule: Schedule) -> np.ndarray:
    """sigma_t = sqrt(beta_t), Ho et al.'s upper choice, [T]; the last step (t = 1) draws no noise."""
    return np.sqrt(1 - schedule.alpha) * (np.arange(schedule.steps) > 0)


def ddpm(schedule: Schedule, t_star: int | float, sigma: Callable[[Schedule], np.ndarray] = posterior_sigma) -> Steps:
    """Forward to t*, then the stochastic reverse process (Eqs. 3, 4).

    t_star: 0..T steps of `schedule`; 0 is the identity.

    >>> from purimetry.compression.schedules import linear
    >>> ddpm(linear(), 10).state.shape
    (10,)
    """
    a, ab = schedule.alpha, schedule.alpha_bar[1:]
    return _steps(schedule, t_star, np.sqrt(a), np.sqrt(1 - a),
                  1 / np.sqrt(a), -(1 - a) / np.sqrt(a * (1 - ab)), sigma(schedule))


def reverse_only(
    schedule: Schedule, t_star: int | float, sigma: Callable[[Schedule], np.ndarray] = posterior_sigma
) -> Steps:
    """DDPM without the forward pass: the image itself is taken for x_{t*} (compression_paper App. D)."""
    steps = ddpm(schedule, t_star, sigma)
    return steps._replace(
        forward_state=jnp.ones_like(steps.forward_state), forward_noise=jnp.zeros_like(steps.forward_noise)
    )


def ddim(schedule: Schedule, t_star: int | float) -> Steps:
    """Forward to t*, then the deterministic reverse process (Song et al. 2020a, eta = 0)."""
    a, ab, before = schedule.alpha, schedule.alpha_bar[1:], schedule.alpha_bar[:-1]
    state = np.sqrt(before / ab)
    return _steps(schedule, t_star, np.sqrt(a), np.sqrt(1 - a),
                  state, np.sqrt(1 - before) - state * np.sqrt(1 - ab), 0 * a)


def sde(schedule: Schedule, t_star: int | float) -> Steps:
    """Forward to t*, then the reverse-time SDE by Euler-Maruyama (Song et al. 2020b; DiffPure's VPSDE, Table 4).

    In its own time tau = -log alpha_bar, the integral of beta(t), any VP-SDE is dx = -x/2 dtau + dw, and its reverse
    x <- x + h (x/2 + score) + sqrt(h) z. On an even grid of t, DiffPure's beta(t) dt differs from h by O(dt^2). As
    there, the last step draws noise too. The forward steps have the law of the closed form.

    >>> from purimetry.compression.schedules import vp
    >>> round(float(sde(vp(100, 0.1), 100).noise[-1]), 3)  # DiffPure's t* = 0.1; sqrt(beta dt) = sqrt(0.1 / 1000)
    0.01
    """
    h, sigma = -np.log(schedule.alpha), np.sqrt(1 - schedule.alpha_bar[1:])
    return _steps(schedule, t_star, np.sqrt(schedule.alpha), np.sqrt(1 - schedule.alpha),
                  1 + h / 2, -h / sigma, np.sqrt(h))


def ode(schedule: Schedule, t_star: int | float) -> Steps:
    """Forward to t*, then the probability flow by Euler's method: x <- x + h (x + score) / 2, h as in `sde`.

    `ddim` and `solvers.dpm` solve the same equation, their linear part exactly; `solvers.heun` is of second order.
    """
    h, sigma = -np.log(schedule.alpha), np.sqrt(1 - schedule.alpha_bar[1:])
    return _steps(schedule, t_star, np.sqrt(schedule.alpha), np.sqrt(1 - schedule.alpha),
                  1 + h / 2, -h / (2 * sigma), 0 * h)


def one_step(schedule: Schedule, t_star: int | float) -> Steps:
    """Noise to t* in one draw, then E[x_0 | x_t*] by one evaluation: denoised smoothing (Carlini et al. 2023).

    >>> from purimetry.compression.schedules import linear
    >>> one_step(linear(), 100).time.tolist()
    [99.0]
    """
    kept = [0, _whole(schedule, t_star)]
    return ddim(Schedule(schedule.alpha_bar[kept], schedule.time[kept]), min(kept[1], 1))


SAMPLERS: dict[str, Callable[[Schedule, int], Steps]] = {
    "ddpm": ddpm, "reverse": reverse_only, "ddim": ddim, "sde": sde, "ode": ode,
}
"""Samplers of one evaluation for each of t* steps, by name: the paper's three (Table 2), then those of the VP-SDE."""


def _whole(schedule: Schedule, t_star: int | float) -> int:
    if not 0 <= t_star <= schedule.steps:
        raise ValueError(
            f"t_star counts steps of the schedule, 0..{schedule.steps}, got {t_star}; "
            "for a fraction of the process multiply it by the number of steps"
        )
    if int(t_star) != t_star:
        raise ValueError(f"t_star must be a whole number of steps, got {t_star}; multiply a fraction by T")
    return int(t_star)


def _steps(schedule, t_star, forward_state, forward_noise, state, prediction, noise) -> Steps:
    n = _whole(schedule, t_star)
    ascending, descending = slice(0, n), slice(n - 1, None, -1) if n else slice(0, 0)
    f32 = lambda values, order: np.asarray(values[order], np.float32)
    return jax.device_put(Steps(
        f32(forward_state, ascending), f32(forward_noise, ascending),
        f32(state, descending), f32(prediction, descending), f32(noise, descending),
        np.arange(1, schedule.steps + 1, dtype=np.int32)[descending], f32(schedule.time[1:], descending),
        f32(np.sqrt(schedule.alpha_bar[1:]), descending),
    ))


def diffuse(steps: Steps, x: Image, xi: Key, step_key: Callable = randomness.step_key) -> Image:
    """The forward process from x_0 to x_{t*} step by step with the noise of xi (Eq. 3)."""
    return forward(steps, x, xi, step_key)[0]


def forward(
    steps: Steps, x: Image, xi: Key, step_key: Callable = randomness.step_key
) -> tuple[Image, Float[Array, "t_star height width channel"]]:
    """The forward process from x_0 to x_{t*}, and all its states x_1..x_{t*} in order."""

    def step(x, coefficients):
        state, noise, t = coefficients
        x = state * x + noise * randomness.normal(step_key(xi, randomness.FORWARD, t), x)
        return x, x

    return jax.lax.scan(step, x, (steps.forward_state, steps.forward_noise, steps.t[::-1]))


def denoise(
    steps: Steps, noise_predictor: NoisePredictor, x: Image, xi: Key, step_key: Callable = randomness.step_key
) -> tuple[Image, Float[Array, "t_star height width channel"]]:
    """The reverse process from x_{t*} to x_0 with the noise of xi (Eq. 4), and all its states x_{t*-1}..x_0 in order.

    One `jax.checkpoint` per step: a gradient stores one state per step, and what `memory` keeps, and recomputes the
    network's interior, so that its memory hardly grows with t*. Through at most SHORT steps of an image of at most
    SMALL values it also stores the results of convolutions, for three quarters of the time (measured on digits and
    CIFAR-10) and a few times the memory.
    """

    def step(carry, c):
        x, kept = carry
        z = randomness.normal(step_key(xi, randomness.REVERSE, c.t), x)
        predicted = noise_predictor(x, c.time)
        after = c.state * x + c.prediction * predicted + c.noise * z
        if c.memory:
            after += (c.memory.recalled[:, None, None, None] * kept).sum(0)
            keep = c.memory.state * x + c.memory.prediction * predicted
            kept = jnp.concatenate([keep[None], kept[:-1]])
        return (after, kept), after

    kept = steps.memory and jnp.zeros((steps.memory.recalled.shape[1], *x.shape), x.dtype)
    short = len(steps.t) <= SHORT and x.size <= SMALL
    step = jax.checkpoint(step, policy=is_convolution if short else None)
    (x, _), states = jax.lax.scan(step, (x, kept), steps)
    return x, states


def run(
    steps: Steps, noise_predictor: NoisePredictor, x: Image, xi: Key, step_key: Callable = randomness.step_key
) -> Image:
    """Forward to t*, then back: the purification map f_xi in the diffusion's range.

    Differentiable in x through every step. Under float64 inputs the whole map is float64.
    """
    steps = steps.astype(x.dtype)
    return denoise(steps, noise_predictor, diffuse(steps, x, xi, step_key), xi, step_key)[0]
