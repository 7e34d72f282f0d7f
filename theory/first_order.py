"""One step to first order and exactly: what Eqs. 13, 16 and 19 approximate (compression_paper Sec. 6, App. A.2, A.3).

A step x -> state x + prediction s(x) + const has the Jacobian J_f = state I + prediction J_s, with s the score
(Eq. 12: state 1, prediction h) or the noise predictor (Eq. 4: state kappa, prediction -kappa gamma). The rms rate of
isotropic perturbations is ||J_f||_F / sqrt(d). The paper drops its second order, which leaves tr J_f / d. The
squares of the two differ by the variance of J_f's eigenvalues over directions (and ||.||_F^2 / d of its antisymmetric
part), so the approximation is good in a step that is small or compresses all directions alike, and not in a purifier
as a whole. Both are given side by side, so that the error is itself a result.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from ..compression.schedules import Schedule


class StepRate(NamedTuple):
    """Rate of one step over isotropic perturbations: the rms rate, and the paper's first-order form of it.

    The two are arrays if the moments that they come from are.
    """

    exact: float | np.ndarray | Array
    first_order: float | np.ndarray | Array


class DirectionRates(NamedTuple):
    """Rates of one step along single directions.

    eigenvalues: of the symmetric part of the Jacobian of score or noise predictor, ascending, [d].
    model: |state + prediction eigenvalue|, App. A.3's form, exact where that Jacobian is symmetric, [d].
    exact: ||J_f v|| along the same eigenvectors of the symmetric part, [d].
    singular_values: of J_f, descending, [d]; its largest and smallest rates over all directions.
    """

    eigenvalues: Float[np.ndarray, "d"]
    model: Float[np.ndarray, "d"]
    exact: Float[np.ndarray, "d"]
    singular_values: Float[np.ndarray, "d"]


class ManifoldRates(NamedTuple):
    """The paper's approximations of one step on and off the manifold (Eq. 19)."""

    on: float
    off: float


class Coefficients(NamedTuple):
    """kappa_t = 1 / sqrt(alpha_t) and gamma_t = (1 - alpha_t) / sqrt(1 - alpha_bar_t) for t = 1..T, at t - 1."""

    kappa: Float[np.ndarray, "T"]
    gamma: Float[np.ndarray, "T"]


def coefficients(schedule: Schedule) -> Coefficients:
    """kappa and gamma of DDPM's reverse step kappa (x - gamma eps(x)) + sigma z (Eq. 16, App. A.3).

    A `Steps` of any sampler holds them as state = kappa and prediction = -kappa gamma.

    >>> from purimetry.compression.schedules import linear
    >>> kappa, gamma = coefficients(linear())
    >>> round(float(kappa[99]), 4), round(float(gamma[99]), 4)
    (1.001, 0.0065)
    """
    alpha = schedule.alpha
    return Coefficients(1 / np.sqrt(alpha), (1 - alpha) / np.sqrt(1 - schedule.alpha_bar[1:]))


def forward_rates(schedule: Schedule, t_star: int) -> Float[np.ndarray, "t_star"]:
    """sqrt(alpha_t) for t = 1..t*: the rate of each forward step in every direction (Eq. 15).

    It is what Eq. 3 implies; App. A.3 prints alpha_t. Their product, the rate of the whole pass, is
    sqrt(alpha_bar_t*), where Sec. 6.2 prints alpha_bar_t*.

    >>> from purimetry.compression.schedules import linear
    >>> round(float(forward_rates(linear(), 100).prod()), 3)
    0.947
    """
    if not 0 <= t_star <= schedule.steps:
        raise ValueError(f"t_star counts steps of the schedule, 0..{schedule.steps}, got {t_star}")
    return np.sqrt(schedule.alpha[:t_star])


def rate_from_moments(state, prediction, divergence, frobenius_squared, d: int) -> StepRate:
    """The rate of a step from the divergence tr J_s and ||J_s||_F^2 (App. A.2, A.3; Eqs. 13, 16).

    Exactly sqrt(a^2 + 2 a b div / d + b^2 ||J_s||_F^2 / d), a = state, b = prediction; to first order in b it is
    a + b div / d. Takes arrays, a step or an image each; both moments can be Hutchinson estimates, if
    they are of the same probes of signs: of different ones the square may come out negative, and the rate as nan.

    >>> rate_from_moments(1.0, -0.5, 2.0, 2.0, 4)  # half of four directions are compressed by a half
    StepRate(exact=0.7905694150420949, first_order=0.75)
    """
    slope = prediction * divergence / d
    square = state**2 + 2 * state * slope + prediction**2 * frobenius_squared / d
    return StepRate(square**0.5, state + slope)


def rate(state: float, prediction: float, jacobian: np.ndarray | Array) -> StepRate:
    """The rate of a step from the Jacobian [d, d] of its score or noise predictor, symmetric or not.

    >>> float(rate(1.0, -0.5, np.diag([1.0, 1.0, 0.0, 0.0])).first_order)
    0.75
    """
    jacobian = _square(jacobian)
    return rate_from_moments(state, prediction, np.trace(jacobian), np.sum(jacobian**2), len(jacobian))


def direction_rates(state: float, prediction: float, jacobian: np.ndarray | Array) -> DirectionRates:
    """Rates of a step along eigendirections (App. A.3), from the Jacobian [d, d] of its score or noise predictor.

    A learned predictor's Jacobian is not exactly symmetric, so "eigendirections" are a model: those of the symmetric
    part are used, with their true rates beside the model's, and the singular values of J_f, which are always true.

    >>> direction_rates(1.0, -0.5, np.diag([1.0, 0.0])).exact.tolist()
    [1.0, 0.5]
    """
    jacobian = _square(jacobian)
    eigenvalues, vectors = np.linalg.eigh((jacobian + jacobian.T) / 2)
    step = state * np.eye(len(jacobian)) + prediction * jacobian
    exact = np.linalg.norm(step @ vectors, axis=0)
    return DirectionRates(eigenvalues, np.abs(state + prediction * eigenvalues), exact,
                          np.linalg.svd(step, compute_uv=False))


def manifold_rates(state: float, prediction: float, jacobian: np.ndarray | Array) -> ManifoldRates:
    """Eq. 19: on the manifold the step's state (kappa_t), off the manifold its first-order expected rate (Eq. 16).

    >>> manifold_rates(1.0, -0.5, np.diag([1.0, 1.0, 1.0, 0.0]))
    ManifoldRates(on=1.0, off=0.625)
    """
    return ManifoldRates(float(state), float(rate(state, prediction, jacobian).first_order))


def _square(jacobian):
    jacobian = np.asarray(jacobian, np.float64)
    if jacobian.ndim != 2 or jacobian.shape[0] != jacobian.shape[1]:
        raise ValueError(f"expected a Jacobian [d, d], got {jacobian.shape}; flatten images before differentiating")
    return jacobian
