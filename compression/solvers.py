"""Higher-order solvers of the probability flow: their steps recall what former steps predicted.

The flow from x_t* to x_0 is an ordinary differential equation, and these are `samplers.Steps` whose `memory` makes
them of order 2 or 3 in the step, where `samplers.ode` and `samplers.ddim` are of order 1. The last step, where the
noise vanishes, is of order 1 in all of them.
"""

from collections.abc import Callable

import jax
import numpy as np

from .samplers import Memory, Steps, ddim, ode
from .schedules import Schedule


def heun(schedule: Schedule, t_star: int | float) -> Steps:
    """Forward to t*, then the probability flow by Heun's method, of order 2, with 2 t* - 1 evaluations.

    Each step but the last is Euler's (`samplers.ode`), corrected by the slope f = (x + score) / 2 where it led to:
    x <- x + h (f + f') / 2. The correction starts from Euler's result, x' + h (f' - f) / 2, and recalls f. So the
    states of its trajectory are Euler's and corrected ones by turns.

    >>> from purimetry.compression.schedules import linear
    >>> heun(linear(), 3).t.tolist()
    [3, 2, 2, 1, 1]
    """
    euler = ode(schedule, t_star)
    n = len(euler.t)
    at = np.repeat(np.arange(n), 2)[1:]
    corrects = np.arange(len(at)) % 2 == 1
    h, sigma = -np.log(schedule.alpha[:n][::-1]), np.sqrt(1 - schedule.alpha_bar[1 : n + 1][::-1])
    size = np.where(corrects, h[at - 1] / 2, h[at])
    slope = 0.5 + 0 * size, -1 / (2 * sigma[at])
    forward_state, forward_noise = np.ones(len(at)), np.zeros(len(at))
    forward_state[::2], forward_noise[::2] = euler.forward_state, euler.forward_noise
    return Steps(
        _f32(forward_state), _f32(forward_noise), _f32(1 + size * slope[0]), _f32(size * slope[1]), _f32(0 * size),
        euler.t[at], euler.time[at], euler.signal[at],
        Memory(_f32(slope[0]), _f32(slope[1]), _f32(-size * corrects)[:, None]),
    )


def integrated(h: float, n: int) -> np.ndarray:
    """Integrals of e^{u - h} u^k over u in 0..h, for k < n <= 3: what a polynomial in lambda contributes to a step.

    >>> integrated(1.0, 2).round(4).tolist()  # 1 - 1/e and 1/e
    [0.6321, 0.3679]
    """
    moments = [-np.expm1(-h)]
    for k in range(1, n):
        moments.append(h**k - k * moments[-1])
    return np.array(moments)


def midpoint(h: float, n: int) -> np.ndarray:
    """(1 - e^{-h}) (h / 2)^k, the integrand's polynomial taken at the midpoint: of order 2 whatever n.

    >>> midpoint(1.0, 2).round(4).tolist()
    [0.6321, 0.3161]
    """
    return -np.expm1(-h) * (h / 2) ** np.arange(n)


def dpm(
    schedule: Schedule, t_star: int | float, order: int = 2, moments: Callable[[float, int], np.ndarray] = integrated
) -> Steps:
    """Forward to t*, then DPM-Solver++ in multistep form, one evaluation a step (Lu et al. 2022b).

    In lambda = log(alpha / sigma) the flow is x_t = sigma_t / sigma_s x_s + alpha_t times the integral of
    e^{u - h} m(u) over u = lambda - lambda_s in 0..h, m the predicted x_0. A step interpolates m by a polynomial
    through the last `order` predictions. There are fewer in the first steps, which are of lower order: order 3 shows
    where they are short.

    order: 1 (which is `samplers.ddim`), 2 or 3.
    moments: `integrated`, the exact integral of the polynomial, or `midpoint`, which gives Lu et al.'s Algorithm 2,
        DPM-Solver++(2M). At order 3 published code takes half of the second derivative only, and has order 2.

    The paper's DPM-20 has 20 steps: a schedule with t* = 20, for example `schedules.vp(20, t_end=0.15)`.

    >>> from purimetry.compression.schedules import vp
    >>> dpm(vp(20, t_end=0.15), 20).memory.recalled.shape
    (20, 1)
    """
    return _interpolating(schedule, t_star, order, moments, lambda i: (i, max(0, i - order + 1)))


def dpm_singlestep(
    schedule: Schedule, t_star: int | float, order: int = 2, moments: Callable[[float, int], np.ndarray] = integrated
) -> Steps:
    """DPM-Solver++ in singlestep form: as `dpm`, but `order` steps in a row all start where the first of them did.

    Of each such block only the last result counts, and no block recalls what the one before predicted; the others are
    stages at the schedule's own times. `midpoint` gives Lu et al.'s Algorithm 1, DPM-Solver++(2S). What is left before
    the last step is a block of lower order.

    >>> from purimetry.compression.schedules import vp
    >>> dpm_singlestep(vp(20, t_end=0.15), 20, order=3).memory.recalled.shape
    (20, 2)
    """
    return _interpolating(schedule, t_star, order, moments, lambda i: (i - i % order, i - i % order))


def _interpolating(schedule, t_star, order, moments, from_where) -> Steps:
    """from_where: of step i, the step at whose state it starts, and the first whose prediction it uses."""
    if order not in (1, 2, 3):
        raise ValueError(f"DPM-Solver++ has order 1, 2 or 3, got {order}; more evaluations need more steps instead")
    first_order = ddim(schedule, t_star)
    n = len(first_order.t)
    if order == 1 or n == 0:
        return first_order
    signal = schedule.alpha_bar[: n + 1][::-1]
    alpha, sigma = np.sqrt(signal), np.sqrt(1 - signal)
    with np.errstate(divide="ignore"):  # lambda is infinite where no noise is left
        log_snr = np.log(alpha / sigma)
    ratio, weights, inner = sigma[1:] / sigma[:-1], np.zeros((n, order)), np.zeros(n, bool)
    for i in range(n):
        start, first = from_where(i) if i < n - 1 else (i, i)
        nodes, h = log_snr[first : i + 1] - log_snr[start], log_snr[i + 1] - log_snr[start]
        fitted = np.linalg.solve(np.vander(nodes, increasing=True).T, moments(h, len(nodes)))
        weights[i, : len(nodes)] = alpha[i + 1] * fitted[::-1]
        inner[i] = start < i
    # A step that starts earlier than from its own x takes back what the steps since then added to it.
    recalled = weights[:, 1:].copy()
    recalled[1:] -= inner[1:, None] * ratio[1:, None] * weights[:-1, :-1]
    kept_state, kept_prediction = 1 / alpha[:-1], -sigma[:-1] / alpha[:-1]
    return first_order._replace(
        state=_f32(ratio + weights[:, 0] * kept_state), prediction=_f32(weights[:, 0] * kept_prediction),
        memory=Memory(_f32(kept_state), _f32(kept_prediction), _f32(recalled)),
    )


def _f32(values):
    return jax.device_put(np.asarray(values, np.float32))
