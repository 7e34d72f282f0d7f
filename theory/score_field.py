"""The compression process in a Gaussian score field (compression_paper Sec. 6.1, App. A.2, Fig. 4a, b, Table S1).

Data is `LowRank` or given by its variances. A point follows the score by forward Euler, so that along an
eigendirection of variance sigma_i^2 every step multiplies a perturbation by 1 - h / sigma_i^2.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..compression.types import Image
from .low_rank import LowRank, apply
from .spectrum import History, Spectrum, history


class ScoreField(NamedTuple):
    """A Gaussian with a manifold, and the Euler steps through its score; the defaults are those of Table S1.

    d, d_in: dimension, and that of the manifold. on_std, off_std: sigma_l, sigma_s. step: h. steps: T.
    """

    d: int = 3072
    d_in: int = 40
    on_std: float = 1.0
    off_std: float = 0.01
    step: float = 0.001
    steps: int = 100

    @property
    def variances(self) -> Float[np.ndarray, "2"]:
        """(sigma_l^2, sigma_s^2), on and off the manifold."""
        return np.square([self.on_std, self.off_std])

    @property
    def multiplicity(self) -> Float[np.ndarray, "2"]:
        """Number of directions on and off the manifold."""
        return np.array([self.d_in, self.d - self.d_in], np.float64)


PRINTED = ScoreField()
"""Table S1 as printed. It cannot give Fig. 4b: h / sigma_s^2 = 10, so Euler diverges off the manifold (rate 9)."""

STABLE = ScoreField(off_std=0.1)
"""Table S1 with its 0.01 read as the variance sigma_s^2, which gives Fig. 4b: the off-manifold rate is 0.9."""


class Stability(NamedTuple):
    """Whether forward Euler converges.

    ratio: h / sigma^2 of the direction of least variance; at most 2 in a stable field, and the paper's signed forms
        are rates only up to 1, beyond which the gain 1 - h / sigma^2 is negative.
    stable: no direction expands, h <= 2 sigma^2.
    """

    ratio: float
    stable: bool


def score(data: LowRank, x: Image) -> Image:
    """s(x) = -Sigma^-1 (x - mu) (Eq. 11), in O(d k); variances must be positive.

    >>> from purimetry.theory.low_rank import low_rank
    >>> score(low_rank(np.zeros((1, 2, 1)), np.eye(2, 1), 1.0, 0.25), jnp.ones((1, 2, 1))).ravel().tolist()
    [-1.0, -4.0]
    """
    mean, basis, variances = (jnp.asarray(value, x.dtype) for value in data)
    return apply(basis, *(-1 / variances), x - mean)


def euler(data: LowRank, step: float, x: Image) -> Image:
    """One step x + h s(x) along the score (Eq. 12).

    >>> from purimetry.theory.low_rank import low_rank
    >>> euler(low_rank(np.zeros((1, 2, 1)), np.eye(2, 1), 1.0, 0.25), 0.125, jnp.ones((1, 2, 1))).ravel().tolist()
    [0.875, 0.5]
    """
    return x + step * score(data, x)


def spectrum(field: ScoreField) -> Spectrum:
    """Gains 1 - h / sigma_i^2 of one step, on and off the manifold (Eqs. 13, 14).

    Its `rates` are |1 - h / sigma_i^2|, its `first_order_rate` is Eq. 13's 1 - h / d sum_i 1 / sigma_i^2, and its
    `rms_rate` and `expected_rate` are what that approximates.

    >>> one = spectrum(STABLE)
    >>> one.rates.round(3).tolist(), round(one.first_order_rate, 4), round(one.rms_rate, 4)
    ([0.999, 0.9], 0.9013, 0.9014)
    """
    gains = 1 - field.step / field.variances
    return Spectrum(gains, np.zeros(2), field.multiplicity)


def stability(field: ScoreField) -> Stability:
    """The diagnosis of a field's step size.

    >>> stability(PRINTED).stable, round(stability(PRINTED).ratio, 6), stability(STABLE).stable
    (False, 10.0, True)
    """
    ratio = float(field.step / field.variances.min())
    return Stability(ratio, ratio <= 2)


def rates_over_time(field: ScoreField) -> History:
    """The rate at each Euler step of a random initial perturbation, exactly (Fig. 4b).

    After n steps the isotropic perturbation has the rms rate sqrt(sum_i (1 - h / sigma_i^2)^(2n) / d), so its rate
    in a step goes from the off-manifold value (`isotropic`, Eq. 14) to the on-manifold one as the fraction that is
    on the manifold goes from d_in / d to 1. In an unstable field it grows instead.

    >>> rates = rates_over_time(STABLE).perturbation
    >>> rates[[0, 20, 99]].round(3).tolist()
    [0.901, 0.947, 0.999]
    """
    return history(np.tile(spectrum(field).gains, (field.steps, 1)), field.multiplicity)
