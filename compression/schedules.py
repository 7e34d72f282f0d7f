"""Noise schedules: how much of the image is left at each diffusion step.

Steps are numbered as in the papers: t = 0 is the clean image and t = 1..T are the noisy ones, so
`alpha_bar[t]` belongs to x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.
"""

from typing import NamedTuple

import numpy as np


CONTINUOUS = 999
"""What a network of continuous time is told at t = 1: 999 t at t in [0, 1], score_sde's convention."""


class Schedule(NamedTuple):
    """A discrete variance-preserving schedule.

    alpha_bar: [T + 1], float64, decreasing from alpha_bar[0] = 1.
    time: [T + 1], what the noise predictor is told at each step: the zero-based index of the step in the
        schedule it was trained on (diffusers' convention), or 999 t of a continuous one; time[0] is never used.
    """

    alpha_bar: np.ndarray
    time: np.ndarray

    @property
    def steps(self) -> int:
        """T, the number of noisy steps."""
        return len(self.alpha_bar) - 1

    @property
    def alpha(self) -> np.ndarray:
        """alpha_t = alpha_bar_t / alpha_bar_{t-1} for t = 1..T, at index t - 1."""
        return self.alpha_bar[1:] / self.alpha_bar[:-1]


def from_betas(betas: np.ndarray) -> Schedule:
    """The schedule with noise variances `betas` (shape [T], each in (0, 1)): alpha_t = 1 - beta_t (Eq. 3)."""
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) == 0 or not ((betas > 0) & (betas < 1)).all():
        found = f"{betas.min():g}..{betas.max():g}" if betas.size else "none"
        raise ValueError(f"betas must be a non-empty vector in (0, 1), got shape {betas.shape} with {found}; check "
                         "the schedule's range")
    return Schedule(np.concatenate([[1.0], np.cumprod(1 - betas)]), np.arange(-1, len(betas)))


def linear(steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Schedule:
    """The linear schedule of DDPM (Ho et al. 2020), which the paper's CIFAR-10 models use.

    >>> round(float(linear().alpha_bar[100]), 3)
    0.897
    """
    return from_betas(np.linspace(beta_min, beta_max, steps))


def cosine(steps: int = 1000, offset: float = 0.008, beta_limit: float = 0.999) -> Schedule:
    """The cosine schedule of Nichol and Dhariwal (2021)."""
    t = np.arange(steps + 1) / steps
    f = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - f[1:] / f[:-1], beta_limit))


def vp(
    steps: int = 1000, t_end: int | float = 1, beta_min: int | float = 0.1, beta_max: int | float = 20
) -> Schedule:
    """The continuous VP schedule beta(t) = beta_min + t (beta_max - beta_min) at t = t_end / steps, ..., t_end.

    alpha_bar(t) = exp(-integral of beta) (Song et al. 2020b, App. C); DDPM's linear schedule tends to it. The noise
    predictor is told 999 t. DiffPure's t* is t_end, whatever the number of steps.

    >>> round(float(vp(20, t_end=0.1).alpha_bar[20]), 3), float(vp(20, t_end=0.1).time[20])
    (0.896, 99.9)
    """
    if not 0 <= beta_min <= beta_max or beta_max == 0:
        raise ValueError(f"beta grows from beta_min >= 0 to beta_max > 0, got {beta_min} to {beta_max}; swap them")
    t = _even(steps, t_end, "0 < t_end <= 1", t_end <= 1)
    return Schedule(np.exp(-beta_min * t - (beta_max - beta_min) * t**2 / 2), CONTINUOUS * t)


def rectified(steps: int, t_end: int | float) -> Schedule:
    """Rectified flow's straight way to noise, (1 - t) x_0 + t eps at t = t_end / steps, ..., t_end < 1, as a schedule.

    Divided by its length sqrt((1 - t)^2 + t^2) it preserves variance, so all samplers run on it; `samplers.ddim` is
    then Euler's method on the flow (Liu et al. 2023; Lipman et al. 2023). The noise predictor is told 999 t.

    >>> rectified(2, 0.5).alpha_bar.round(3).tolist()
    [1.0, 0.9, 0.5]
    """
    t = _even(steps, t_end, "0 < t_end < 1", t_end < 1)
    return Schedule((1 - t) ** 2 / ((1 - t) ** 2 + t**2), CONTINUOUS * t)


def rectified_time(alpha_bar: float | np.ndarray) -> float | np.ndarray:
    """t of rectified flow at which as much of the image is left as where a diffusion has this alpha_bar; elementwise.

    >>> round(float(rectified_time(0.5)), 3), round(float(rectified(1, rectified_time(0.25)).alpha_bar[1]), 3)
    (0.5, 0.25)
    """
    signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    return noise / (signal + noise)


def _even(steps, t_end, expected, below):
    if not (t_end > 0 and below):
        raise ValueError(f"t_end is a time of the continuous process, {expected}, got {t_end}; divide steps by T")
    if steps < 1:
        raise ValueError(f"a schedule has at least 1 step, got {steps}")
    return np.linspace(0, t_end, steps + 1)


def respaced(schedule: Schedule, steps: int) -> Schedule:
    """Every (T / steps)-th step of a schedule, so step k of the result is step k T / steps of the original.

    Raises ValueError unless `steps` divides T, because then the two would not share their times.

    >>> short = respaced(linear(), 100)
    >>> bool(short.alpha_bar[10] == linear().alpha_bar[100]), int(short.time[10])
    (True, 99)
    """
    if steps < 1 or schedule.steps % steps:
        raise ValueError(f"steps must divide the schedule's {schedule.steps} steps, got {steps}; choose a divisor")
    kept = np.arange(0, schedule.steps + 1, schedule.steps // steps)
    return Schedule(schedule.alpha_bar[kept], schedule.time[kept])
