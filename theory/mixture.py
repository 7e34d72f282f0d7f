"""Mixtures of isotropic Gaussians in closed form, and the empirical distribution of a training set as their limit.

The optimal noise predictor is not linear here: posterior means of the components, weighted by their posterior
probabilities. It is what a denoiser with unlimited capacity learns (App. A.1, Eqs. 11, 17); on a training set it
memorises. Any purifier takes it in place of a network.

Everything is in the diffusion's range [-1, 1]. Work and memory are O(m d) an image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ..compression.schedules import Schedule
from ..compression.types import Image, NoisePredictor, Scalar
from . import tweedie
from .directions import NoiseLevels, noise_levels


class Mixture(NamedTuple):
    """sum_j weights_j N(means_j, variances_j I).

    weights: [m], positive, of sum 1. means: [m, h, w, c]. variances: of each pixel, [m], >= 0.
    """

    weights: Float[np.ndarray, "m"]
    means: Float[np.ndarray, "m height width channel"]
    variances: Float[np.ndarray, "m"]


def mixture(weights: np.ndarray | Array, means: np.ndarray | Array, variances: float | np.ndarray | Array) -> Mixture:
    """A mixture from weights [m] > 0 (any sum), means [m, h, w, c] in [-1, 1] and one variance or [m] of them.

    Raises ValueError for other shapes, weights that are not positive and variances that are negative.

    >>> mixture(np.ones(4), np.zeros((4, 2, 2, 1)), 0.1).weights.tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    weights, means, variances = (np.asarray(value, np.float64) for value in (weights, means, variances))
    m = len(weights) if weights.ndim == 1 else 0
    if m == 0 or means.ndim != 4 or len(means) != m or variances.shape not in ((), (m,)):
        raise ValueError(
            "expected m >= 1 weights [m], means [m, h, w, c] and one variance or m of them, "
            f"got {weights.shape}, {means.shape}, {variances.shape}"
        )
    if not (weights > 0).all() or not (variances >= 0).all():
        raise ValueError(
            f"weights must be > 0 and variances >= 0, their smallest are {weights.min():g} and {variances.min():g}; "
            "leave out components of no weight"
        )
    return Mixture(weights / weights.sum(), means, np.broadcast_to(variances, m))


def empirical(images: np.ndarray | Array) -> Mixture:
    """The distribution of a training set, images [m, h, w, c] in [0, 1]: equal weights, no variance.

    Its posterior mean is a softmax over squared distances, and its samplers end in training images.

    >>> empirical(np.array([0.0, 1.0]).reshape(2, 1, 1, 1)).means.ravel().tolist()
    [-1.0, 1.0]
    """
    return mixture(np.ones(len(images)), 2 * np.asarray(images, np.float64) - 1, 0.0)


def sample(data: Mixture, n: int, generator: np.random.Generator) -> Float[np.ndarray, "n height width channel"]:
    """n draws of the data in float32.

    >>> sample(empirical(np.ones((1, 1, 1, 1))), 2, np.random.default_rng(0)).ravel().tolist()
    [1.0, 1.0]
    """
    component = generator.choice(len(data.weights), n, p=data.weights)
    z = generator.normal(size=(n, *data.means.shape[1:]))
    return (data.means[component] + np.sqrt(data.variances)[component, None, None, None] * z).astype(np.float32)


def noise_predictor(data: Mixture, schedule: Schedule) -> NoisePredictor:
    """The optimal noise predictor, a pytree: eps(x_t) = sqrt(1-ab) sum_j r_j (x_t - sqrt(ab) mu_j) / v_j.

    v_j = ab s_j^2 + 1 - ab, and r_j the posterior probability of component j. Its t is the network's time, one of
    `schedule.time[1:]`.

    >>> import purimetry as pm
    >>> images = np.random.default_rng(0).uniform(size=(20, 8, 8, 1))
    >>> predictor = noise_predictor(empirical(images), pm.linear())
    >>> purified = pm.diffusion(predictor, pm.ddim(pm.linear(), 100))(jnp.asarray(images[3]), pm.configuration(0, 0))
    >>> bool(abs(purified - images[3]).max() < 1e-3)
    True
    """
    return Partial(_predict, data, noise_levels(schedule))


def _predict(data: Mixture, levels: NoiseLevels, x: Image, t: Scalar) -> Image:
    return _noise(data, x, *levels.at(t, x.dtype))


def noise(data: Mixture, x_t: Image, alpha_bar: float) -> Image:
    """E[eps | x_t], what `noise_predictor` gives at the step of this alpha_bar in (0, 1).

    >>> noise(mixture(np.ones(1), np.zeros((1, 1, 1, 1)), 1.0), jnp.ones((1, 1, 1)), 0.75).tolist()
    [[[0.5]]]
    """
    return _noise(data, x_t, alpha_bar, 1 - alpha_bar)


def score(data: Mixture, x_t: Image, alpha_bar: float) -> Image:
    """grad log p(x_t) (Eqs. 11, 17).

    >>> score(mixture(np.ones(1), np.zeros((1, 1, 1, 1)), 1.0), jnp.ones((1, 1, 1)), 0.75).tolist()
    [[[-1.0]]]
    """
    return tweedie.score_from_noise(noise(data, x_t, alpha_bar), alpha_bar)


def posterior_mean(data: Mixture, x_t: Image, alpha_bar: float) -> Image:
    """E[x_0 | x_t], the optimal denoiser (App. A.1).

    >>> two = empirical(np.array([0.0, 1.0]).reshape(2, 1, 1, 1))
    >>> round(posterior_mean(two, jnp.full((1, 1, 1), 0.5), 0.5).item(), 3)  # tanh(sqrt(ab) x_t / (1 - ab))
    0.609
    """
    return tweedie.posterior_mean_from_noise(x_t, noise(data, x_t, alpha_bar), alpha_bar)


def posterior_covariance(data: Mixture, x_t: Image, alpha_bar: float) -> Float[Array, "d d"]:
    """Cov[x_0 | x_t]: the components' own, and the spread of their posterior means.

    >>> two = empirical(np.array([0.0, 1.0]).reshape(2, 1, 1, 1))
    >>> posterior_covariance(two, jnp.zeros((1, 1, 1)), 0.5).tolist()  # undecided between -1 and 1
    [[1.0]]
    """
    weights, noisy, residuals = _posterior(data, x_t, alpha_bar, 1 - alpha_bar)
    gains = jnp.sqrt(alpha_bar) * jnp.asarray(data.variances, x_t.dtype) / noisy
    means = jnp.asarray(data.means.reshape(len(weights), -1), x_t.dtype) + gains[:, None] * residuals
    spread = means - weights @ means
    own = (weights * jnp.asarray(data.variances, x_t.dtype) * (1 - alpha_bar) / noisy).sum()
    return own * jnp.eye(x_t.size, dtype=x_t.dtype) + (weights[:, None] * spread).T @ spread


def posterior_mean_jacobian(data: Mixture, x_t: Image, alpha_bar: float) -> Float[Array, "d d"]:
    """dE[x_0 | x_t] / dx_t = sqrt(ab) / (1 - ab) Cov[x_0 | x_t]: how one-step denoising compresses (App. A.3).

    >>> two = empirical(np.array([0.0, 1.0]).reshape(2, 1, 1, 1))
    >>> round(posterior_mean_jacobian(two, jnp.zeros((1, 1, 1)), 0.5).item(), 3)
    1.414
    """
    return alpha_bar**0.5 / (1 - alpha_bar) * posterior_covariance(data, x_t, alpha_bar)


def _posterior(data, x, signal, noise):
    """Posterior probabilities [m], variances of x_t [m], and its residuals x_t - sqrt(ab) mu_j, [m, d]."""
    weights, means, variances = (jnp.asarray(value, x.dtype) for value in data)
    noisy = signal * variances + noise
    residuals = (x - signal**0.5 * means).reshape(len(weights), -1)
    logits = jnp.log(weights) - 0.5 * (residuals.shape[1] * jnp.log(noisy) + (residuals**2).sum(1) / noisy)
    return jax.nn.softmax(logits), noisy, residuals


def _noise(data, x, signal, noise):
    weights, noisy, residuals = _posterior(data, x, signal, noise)
    return (noise**0.5 * ((weights / noisy) @ residuals)).reshape(x.shape)
