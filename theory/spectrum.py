"""What is known of an affine purifier from its gains: rates of isotropic perturbations, history, variances, SNR.

Gains that occur many times are listed once with their multiplicity, so that d = 3072 costs no more than d = 2.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln


class Variances(NamedTuple):
    """The law of total variance (Eq. 20) in squared pixels, summed over all pixels.

    input: E_xi Var_x f(x | xi). internal: Var_xi E_x f(x | xi). The roots are rms distances to the centroids with
    fixed and with varying randomness (Table S13).
    """

    input: float
    internal: float

    @property
    def total(self) -> float:
        """Var_{x, xi} f(x, xi)."""
        return self.input + self.internal

    @property
    def snr(self) -> float:
        """Input over internal variance (Eq. 7); infinite for a purifier that draws no noise."""
        return self.input / self.internal if self.internal else np.inf


class Spectrum(NamedTuple):
    """A symmetric Jacobian by its eigenvalues, and the noise that the purifier adds, in the diffusion's [-1, 1].

    gains: signed eigenvalues of J, [n]. noise: variance over xi along each, [n].
    multiplicity: number of directions that share each, [n]; they sum to d.
    """

    gains: Float[np.ndarray, "n"]
    noise: Float[np.ndarray, "n"]
    multiplicity: Float[np.ndarray, "n"]

    @property
    def rates(self) -> Float[np.ndarray, "n"]:
        """Compression rate ||J v_i|| of each eigendirection, the exact form of Eqs. 13 and 19."""
        return np.abs(self.gains)

    @property
    def rms_rate(self) -> float:
        """||J||_F / sqrt(d), the root-mean-square rate of isotropic perturbations (App. A.2, A.3)."""
        return float(np.sqrt(self._mean(self.gains**2)))

    @property
    def first_order_rate(self) -> float:
        """tr J / d: the paper's approximation of the expected rate for one step (Eqs. 13, 16).

        To first order sqrt(1 + u) is 1 + u / 2, which leaves the mean of the gains where the exact form has their
        root mean square. The squares of the two therefore differ by the variance of the gains over directions.
        """
        return float(self._mean(self.gains))

    @property
    def expected_rate(self) -> float:
        """E ||J eta|| / ||eta|| over eta of uniformly distributed direction: Eq. 10 without approximation.

        Direction and length of a normal eta are independent, so this is E sqrt(Q) / E ||eta||, Q = sum_i g_i^2 z_i^2,
        with E sqrt(Q) = integral of (1 - E exp(-s Q)) s^(-3/2) / (2 sqrt(pi)) over s > 0, which is smooth in log s.
        By Jensen it lies below the rms rate.

        >>> one_of_two = Spectrum(np.array([1.0, 0.0]), np.zeros(2), np.ones(2))
        >>> round(one_of_two.expected_rate * np.pi / 2, 12), round(one_of_two.rms_rate**2, 12)  # the mean of |cos|
        (1.0, 0.5)
        """
        d, mean_square = self.multiplicity.sum(), self._mean(self.gains**2)
        if mean_square == 0:
            return 0.0
        log_s = np.arange(-80, 80, 0.25)
        shares = self.gains**2 / (d * mean_square)
        log_transform = -0.5 * np.log1p(2 * np.exp(log_s)[:, None] * shares) @ self.multiplicity
        root = np.sum(-np.expm1(log_transform) * np.exp(-log_s / 2)) * 0.25 / (2 * np.sqrt(np.pi))
        length = np.sqrt(2) * np.exp(gammaln((d + 1) / 2) - gammaln(d / 2))
        return float(root * np.sqrt(d * mean_square) / length)

    def variances(self, input_variance: float) -> Variances:
        """Variances of the output when every pixel of the input has independent noise of this variance.

        input_variance: in squared pixels; `uniform_variance(eps)` for uniform noise, sigma^2 for normal noise.
        Exact where the clip to [0, 1] does nothing.

        >>> halved = Spectrum(np.array([0.5]), np.array([0.04]), np.array([3.0]))
        >>> halved.variances(0.01).snr  # 3 * 0.5^2 * 0.01 over 3 * 0.04 / 4
        0.25
        """
        gains, noise = ((values * self.multiplicity).sum() for values in (self.gains**2, self.noise))
        return Variances(float(input_variance * gains), float(noise / 4))  # a pixel is 2 in the diffusion's range

    def _mean(self, values):
        return np.average(values, weights=self.multiplicity)


def uniform_variance(eps: float) -> float:
    """eps^2 / 3, the variance of noise uniform in [-eps, eps].

    >>> round(uniform_variance(0.3), 4)
    0.03
    """
    return eps**2 / 3


class History(NamedTuple):
    """An isotropic perturbation followed through T steps (Figs. 4b, 4d).

    directions: signed gain of each step along each direction, [T, n].
    isotropic: rms rate of each step for a perturbation that is isotropic at that step, [T].
    first_order: the paper's approximation of it, the mean gain (Eqs. 13, 16), [T].
    perturbation: rms rate of each step for what is left of the initial perturbation, [T]; it goes from the isotropic
        value to that of the direction that is compressed least.
    cumulative: rms rate from the start up to each step, [T + 1], starting from 1.
    """

    directions: Float[np.ndarray, "T n"]
    isotropic: Float[np.ndarray, "T"]
    first_order: Float[np.ndarray, "T"]
    perturbation: Float[np.ndarray, "T"]
    cumulative: Float[np.ndarray, "T_and_1"]


def history(gains: Float[np.ndarray, "T n"], multiplicity: Float[np.ndarray, "n"]) -> History:
    """Follow an isotropic perturbation through steps that share their eigendirections, exactly.

    gains: signed, a row a step, in order. multiplicity: number of directions that share each column.

    The steps commute, so after k of them direction i has shrunk by the product of its gains. Raises ValueError where
    a step leaves nothing of the perturbation, because later rates are then 0 / 0.

    >>> followed = history(np.array([[1.0, 0.1]] * 3), np.array([1.0, 99.0]))
    >>> followed.perturbation.round(3).tolist(), followed.isotropic.round(3).tolist()
    ([0.141, 0.712, 0.995], [0.141, 0.141, 0.141])
    """
    weights = multiplicity / multiplicity.sum()
    rms = lambda g: np.sqrt(g**2 @ weights)
    cumulative = rms(np.cumprod(np.concatenate([np.ones_like(gains[:1]), gains]), axis=0))
    if not cumulative[:-1].all():
        raise ValueError(f"step {int(np.argmin(cumulative))} leaves nothing of the perturbation; stop before it")
    return History(gains, rms(gains), gains @ weights, cumulative[1:] / cumulative[:-1], cumulative)
