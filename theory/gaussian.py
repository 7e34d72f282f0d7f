"""Purification of Gaussian data in closed form (compression_paper Sec. 6 and App. A, Eqs. 11-19).

For x_0 ~ N(mu, Sigma) the score of x_t is linear, and with it every sampler: x -> f_xi(x) is affine, its matrix
does not depend on xi, and it has the eigenvectors of Sigma. Each eigendirection v_i therefore compresses on its
own, by a product of scalars over the steps; no approximation to first order (Eqs. 13, 16) is needed.

Everything is in the diffusion's range [-1, 1]; matrices and rates are the same in pixels, where nothing is clipped.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ..compression.schedules import Schedule
from ..compression.types import Image, NoisePredictor, Scalar
from . import directions
from .directions import NoiseLevels
from .spectrum import Spectrum


class Gaussian(NamedTuple):
    """Data distributed as N(mu, Sigma), with Sigma = V diag(variances) V^T.

    mean: mu, [h, w, c] in [-1, 1]. variances: sigma_i^2, [d], d = h w c. directions: V, [d, d], columns v_i.
    """

    mean: Float[np.ndarray, "height width channel"]
    variances: Float[np.ndarray, "d"]
    directions: Float[np.ndarray, "d d"]


class AffineMap(NamedTuple):
    """x -> directions diag(gains) directions^T x + offset (+ noise of zero mean), on flattened images.

    gains: signed, [d], one for each column of `directions`, [d, d]; offset: [d].
    noise: variance over xi of the output along each direction, [d].
    """

    gains: Float[np.ndarray, "d"]
    directions: Float[np.ndarray, "d d"]
    offset: Float[np.ndarray, "d"]
    noise: Float[np.ndarray, "d"]

    @property
    def matrix(self) -> Float[np.ndarray, "d d"]:
        """J = V diag(gains) V^T, the Jacobian at every x and xi."""
        return (self.directions * self.gains) @ self.directions.T

    @property
    def spectrum(self) -> Spectrum:
        """The rate of each eigendirection, their means over isotropic perturbations, and the variances of Eq. 7."""
        return Spectrum(self.gains, self.noise, np.ones_like(self.gains))


def gaussian(mean: np.ndarray | Array, covariance: np.ndarray | Array) -> Gaussian:
    """N(mean, covariance) in float64: mean [h, w, c], covariance [d, d] over images flattened in C order, d = h w c.

    Raises ValueError unless these are the shapes and the covariance is symmetric and positive semidefinite.

    >>> gaussian(np.zeros((1, 2, 1)), np.diag([0.25, 0.01])).variances.tolist()
    [0.01, 0.25]
    """
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    d = mean.size
    if mean.ndim != 3 or covariance.shape != (d, d):
        raise ValueError(f"expected a mean [h, w, c] and a covariance [hwc, hwc], got {mean.shape}, {covariance.shape}")
    tolerance = 1e-9 * np.abs(covariance).max()
    variances, directions = np.linalg.eigh(covariance)
    if np.abs(covariance - covariance.T).max() > tolerance or variances[0] < -tolerance:
        raise ValueError(
            f"covariance must be symmetric and positive semidefinite, its smallest eigenvalue is {variances[0]:g}; "
            "estimate it with np.cov"
        )
    return Gaussian(mean, np.maximum(variances, 0), directions)


def noise_predictor(data: Gaussian, schedule: Schedule) -> NoisePredictor:
    """The optimal noise predictor, a pytree: eps(x_t) = sqrt(1-ab) (ab Sigma + (1-ab) I)^-1 (x_t - sqrt(ab) mu).

    It is -sqrt(1-ab) times the score of x_t (Eqs. 11, 17). Its t is the network's time, one of `schedule.time[1:]`.

    >>> data = gaussian(np.zeros((1, 2, 1)), np.eye(2))
    >>> from purimetry.compression.schedules import linear
    >>> predicted = noise_predictor(data, linear())(jnp.ones((1, 2, 1)), jnp.float32(99))  # sqrt(1 - alpha_bar[100])
    >>> predicted.ravel().round(3).tolist() == np.full(2, 0.321, np.float32).tolist()
    True
    """
    return Partial(_predict, data, directions.noise_levels(schedule))


def _predict(data: Gaussian, levels: NoiseLevels, x: Image, t: Scalar) -> Image:
    signal, noise = levels.at(t, x.dtype)
    mean, variances, vectors = (jnp.asarray(value, x.dtype) for value in data)
    centred = (x - jnp.sqrt(signal) * mean).reshape(-1)
    return (vectors @ (directions.eigenvalue(variances, signal, noise) * (vectors.T @ centred))).reshape(x.shape)


def purification(data: Gaussian, schedule: Schedule, steps) -> AffineMap:
    """f_xi of a sampler with the optimal noise predictor, in float64: its linear part, and its mean over xi.

    Each eigendirection is multiplied by one factor a step (`directions.sampler_steps`; App. A.3, Eqs. 15-19).
    Constants and the variances of the independent eps_t and z_t are carried along.

    steps: a `Steps` of `compression.samplers` or `solvers`, made from `schedule`; otherwise ValueError.

    >>> from purimetry.compression import samplers, schedules
    >>> data = gaussian(np.zeros((1, 2, 1)), np.diag([1.0, 0.0]))
    >>> steps = samplers.ddpm(schedules.linear(), 100)
    >>> purification(data, schedules.linear(), steps).spectrum.rates.round(3).tolist()  # 0 and alpha_bar
    [0.0, 0.897]
    """
    along = directions.purified(data.variances, schedule, steps)
    mean = data.directions.T @ data.mean.reshape(-1)
    return AffineMap(along.gain, data.directions, data.directions @ (along.offset * mean), along.noise)
