"""What the ALP document reports of CIFAR-10, by table and figure."""

from typing import NamedTuple

SETTING = "CIFAR-10"


class Defence(NamedTuple):
    """A row of Table II: robust accuracy (%) under PGD-7 at 8/255, PSNR (dB), latency (ms, Apple M4)."""

    robust: float
    psnr: float | None = None
    latency: float | None = None


TABLE_2 = {
    "undefended": Defence(0.0),
    "alp": Defence(11.44, 25.68, 1.25),
    "adversarial training": Defence(28.26, None, 0.08),
    "alp + adversarial training": Defence(32.06, 25.68, 13.86),
}
"""The last with the ensemble of 20."""

MATRIX = {(0.3, 0.0): 33.1, (0.3, 0.5): 37.7}
"""Sec. A: defence accuracy (%) under FGSM by (eps, sigma). It says no more of "Table II" than these."""

SIGMA = 0.219
"""Fig. 2: the sigma to which five trials converge."""

PSNR = {0.0: 21.0, 2.0: 17.0}
"""Fig. 3: about what PSNR (dB) falls to, from the smallest sigma to the largest."""

BEST_SIGMA = 0.5
"""Fig. 3: where defence accuracy peaks."""

TRIALS, TRIALS_SD = 32.06, 1.94
"""Abstract: mean and standard deviation (%) over five trials, PGD-7 at 8/255, with adversarial training."""
