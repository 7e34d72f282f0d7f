"""Noise schedules: how much of the image is left at each diffusion step.

Steps are numbered as in the papers: t = 0 is the clean image and t = 1..T are the noisy ones, so
`alpha_bar[t]` belongs to x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.
"""

from typing import NamedTuple

import numpy as np


class Schedule(NamedTuple):
    """A discrete variance-preserving schedule.

    alpha_bar: [T + 1], float64, decreasing from alpha_bar[0] = 1.
    time: [T + 1], what the noise predictor is told at each step: the zero-based index of the step in the
        schedule it was trained on (diffusers' convention); time[0] is never used.
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
        raise ValueError(f"betas must be a non-empty vector in (0, 1), got {betas!r}; check the schedule's range")
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
