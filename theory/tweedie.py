"""Tweedie's formula: score, predicted noise and posterior mean are one quantity (compression_paper App. A.1, Eq. 17).

All are exact for the optimal predictor and definitions for a learned one. They are linear, so they also convert
Jacobians: with J the Jacobian of any of the three and x_t replaced by the identity matrix.

x_t, score, noise, x_0: arrays of one shape, NumPy or JAX, in the diffusion's range. alpha_bar: in (0, 1), a Python
float or a float64, because 1 - alpha_bar in float32 is wrong by 0.1 % at the first step of DDPM's schedule.
"""

import numpy as np


def posterior_mean_from_score(x_t, score, alpha_bar):
    """E[x_0 | x_t] = (x_t + (1 - ab) s(x_t)) / sqrt(ab) (App. A.1).

    >>> posterior_mean_from_score(np.ones(1), -np.ones(1), 0.25).tolist()  # unit variance: sqrt(ab) x_t
    [0.5]
    """
    return (x_t + (1 - alpha_bar) * score) / alpha_bar**0.5


def score_from_posterior_mean(x_t, x_0, alpha_bar):
    """s(x_t) = (sqrt(ab) E[x_0 | x_t] - x_t) / (1 - ab) (App. A.1).

    >>> score_from_posterior_mean(np.ones(1), np.array([0.5]), 0.25).tolist()
    [-1.0]
    """
    return (alpha_bar**0.5 * x_0 - x_t) / (1 - alpha_bar)


def score_from_noise(noise, alpha_bar):
    """s(x_t) = -eps(x_t) / sqrt(1 - ab) (Eq. 17).

    >>> score_from_noise(np.ones(1), 0.75).tolist()
    [-2.0]
    """
    return -noise / (1 - alpha_bar) ** 0.5


def noise_from_score(score, alpha_bar):
    """eps(x_t) = -sqrt(1 - ab) s(x_t) (Eq. 17).

    >>> noise_from_score(np.array([-2.0]), 0.75).tolist()
    [1.0]
    """
    return -score * (1 - alpha_bar) ** 0.5


def posterior_mean_from_noise(x_t, noise, alpha_bar):
    """E[x_0 | x_t] = (x_t - sqrt(1 - ab) eps(x_t)) / sqrt(ab), the one-step denoiser (App. A.1).

    >>> posterior_mean_from_noise(np.ones(1), np.ones(1), 0.75).round(3).tolist()
    [0.577]
    """
    return (x_t - (1 - alpha_bar) ** 0.5 * noise) / alpha_bar**0.5


def noise_from_posterior_mean(x_t, x_0, alpha_bar):
    """eps(x_t) = (x_t - sqrt(ab) E[x_0 | x_t]) / sqrt(1 - ab).

    >>> noise_from_posterior_mean(np.ones(1), np.zeros(1), 0.75).tolist()
    [2.0]
    """
    return (x_t - alpha_bar**0.5 * x_0) / (1 - alpha_bar) ** 0.5


def posterior_covariance(jacobian, alpha_bar):
    """Cov[x_0 | x_t] = (1 - ab) / sqrt(ab) J, J [d, d] the Jacobian of E[x_0 | x_t]: Tweedie's formula of second order.

    So the Jacobian of an optimal denoiser is symmetric and positive semidefinite, and it compresses the more the
    surer the posterior is of a direction.

    >>> posterior_covariance(np.array([[0.5]]), 0.25).tolist()  # unit variance: 1 - ab
    [[0.75]]
    """
    return (1 - alpha_bar) / np.sqrt(alpha_bar) * jacobian
