"""Low-rank-plus-noise data in closed form: the paper's data manifold, in any dimension (compression_paper Sec. 6).

x_0 ~ N(mu, s_on^2 U U^T + s_off^2 (I - U U^T)), with U an orthonormal basis of k directions, the manifold. Its
covariance has two eigenvalues (Eqs. 14, 18), so a purifier does two things only, one on and one off the manifold.
Everything costs O(d k): no d x d matrix is formed.

Images are in the diffusion's range [-1, 1]; gains and rates are the same in pixels, where nothing is clipped.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ..compression.schedules import Schedule
from ..compression.types import Image, NoisePredictor, Scalar
from . import directions
from .directions import Along, NoiseLevels
from .spectrum import History, Spectrum, history


class LowRank(NamedTuple):
    """Data near a flat manifold of k dimensions.

    mean: mu, [h, w, c] in [-1, 1]. basis: U, [d, k], orthonormal columns, d = h w c.
    variances: (s_on^2, s_off^2), along the manifold and away from it.
    """

    mean: Float[np.ndarray, "height width channel"]
    basis: Float[np.ndarray, "d k"]
    variances: Float[np.ndarray, "2"]

    @property
    def multiplicity(self) -> Float[np.ndarray, "2"]:
        """Number of directions on and off the manifold, (k, d - k)."""
        d, k = self.basis.shape
        return np.array([k, d - k], np.float64)


class LowRankMap(NamedTuple):
    """A purifier of low-rank data: an affine map and noise, on and off the manifold.

    along: gain, offset and noise, each (on, off).
    """

    data: LowRank
    along: Along

    @property
    def spectrum(self) -> Spectrum:
        """The rates (on, off), their means over isotropic perturbations, and the variances behind Eq. 7."""
        return Spectrum(self.along.gain, self.along.noise, self.data.multiplicity)

    def jacobian_product(self, v: np.ndarray | Array) -> np.ndarray:
        """J v, [h, w, c]; J is symmetric, so it is also J^T v. The same at every x and xi."""
        return apply(self.data.basis, *self.along.gain, np.asarray(v, np.float64))

    def mean(self, x: np.ndarray | Array) -> np.ndarray:
        """E_xi f_xi(x) for x [h, w, c] in [-1, 1]; apart from the clip, f_xi(x) minus this is the same at every x."""
        return self.jacobian_product(x) + apply(self.data.basis, *self.along.offset, self.data.mean)


def low_rank(mean: np.ndarray | Array, vectors: np.ndarray | Array, on: float, off: float) -> LowRank:
    """Data with variance `on` along the span of the columns of `vectors` [d, k], and `off` across it.

    mean: [h, w, c] in [-1, 1], d = h w c. on, off: variances (squares, not standard deviations), >= 0.

    Raises ValueError for other shapes, vectors that are linearly dependent, and negative variances.

    >>> generator = np.random.default_rng(0)
    >>> low_rank(np.zeros((32, 32, 3)), generator.normal(size=(3072, 40)), 1.0, 0.01).multiplicity.tolist()
    [40.0, 3032.0]
    """
    mean, vectors = np.asarray(mean, np.float64), np.asarray(vectors, np.float64)
    if mean.ndim != 3 or vectors.ndim != 2 or len(vectors) != mean.size or not 0 < vectors.shape[1] <= mean.size:
        raise ValueError(f"expected a mean [h, w, c] and 1..hwc vectors [hwc, k], got {mean.shape}, {vectors.shape}")
    if not 0 <= min(on, off):
        raise ValueError(f"variances must be >= 0, got on = {on:g}, off = {off:g}; square standard deviations")
    basis, triangle = np.linalg.qr(vectors)
    sizes = np.abs(np.diag(triangle))
    if sizes.min() <= 1e-9 * sizes.max():
        raise ValueError(f"the {len(sizes)} vectors are linearly dependent; leave out column {int(sizes.argmin())}")
    return LowRank(mean, basis, np.array([on, off], np.float64))


def sample(data: LowRank, n: int, generator: np.random.Generator) -> Float[np.ndarray, "n height width channel"]:
    """n draws of the data in float32.

    >>> sample(low_rank(np.ones((1, 2, 1)), np.eye(2, 1), 0.0, 0.0), 3, np.random.default_rng(0)).ravel().tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    z = generator.normal(size=(n, data.mean.size))
    on = z @ data.basis @ data.basis.T
    spread = np.sqrt(data.variances[0]) * on + np.sqrt(data.variances[1]) * (z - on)
    return (data.mean + spread.reshape(n, *data.mean.shape)).astype(np.float32)


def apply(basis, on, off, v):
    """(on U U^T + off (I - U U^T)) v for an image v, in O(d k). NumPy or JAX.

    >>> apply(np.eye(2, 1), 1.0, 0.5, np.ones((1, 2, 1))).ravel().tolist()
    [1.0, 0.5]
    """
    flat = v.reshape(-1)
    along = basis @ (basis.T @ flat)
    return (on * along + off * (flat - along)).reshape(v.shape)


def noise_predictor(data: LowRank, schedule: Schedule) -> NoisePredictor:
    """The optimal noise predictor, a pytree of O(d k) work: lambda_i along and across the manifold (Eqs. 11, 17).

    Its t is the network's time, one of `schedule.time[1:]`.

    >>> import purimetry as pm
    >>> schedule, data = pm.linear(), low_rank(np.zeros((8, 8, 1)), np.eye(64, 4), 0.1, 0.001)
    >>> purifier = pm.diffusion(noise_predictor(data, schedule), pm.ddpm(schedule, t_star=10))
    >>> purifier(jnp.full((8, 8, 1), 0.5), pm.configuration(0, 0)).shape
    (8, 8, 1)
    """
    return Partial(_predict, data, directions.noise_levels(schedule))


def _predict(data: LowRank, levels: NoiseLevels, x: Image, t: Scalar) -> Image:
    signal, noise = levels.at(t, x.dtype)
    mean, basis, variances = (jnp.asarray(value, x.dtype) for value in data)
    return apply(basis, *directions.eigenvalue(variances, signal, noise), x - jnp.sqrt(signal) * mean)


def purification(data: LowRank, schedule: Schedule, steps) -> LowRankMap:
    """f_xi of a sampler with the optimal noise predictor, exactly (App. A.3 without its approximations).

    steps: a `Steps` of `compression.samplers` or `solvers`, made from `schedule`; otherwise ValueError.

    >>> from purimetry.compression import samplers, schedules
    >>> data = low_rank(np.zeros((32, 32, 3)), np.eye(3072, 40), 1.0, 0.0)
    >>> closed = purification(data, schedules.linear(), samplers.ddpm(schedules.linear(), 100))
    >>> closed.spectrum.rates.round(3).tolist(), round(closed.spectrum.rms_rate, 3)
    ([0.897, 0.0], 0.102)
    """
    return LowRankMap(data, directions.purified(data.variances, schedule, steps))


def rates_over_time(data: LowRank, schedule: Schedule, steps) -> History:
    """The rate at each step of a sampler of an isotropic perturbation, exactly (Fig. 4d): t* steps there, t* back.

    Its columns `directions` are (on, off). The paper's forms of a step are `first_order` (Eq. 16) and, on the
    manifold, the step's state (Eq. 19).

    >>> from purimetry.compression import samplers, schedules
    >>> data = low_rank(np.zeros((32, 32, 3)), np.eye(3072, 40), 1.0, 1e-4)
    >>> followed = rates_over_time(data, schedules.linear(), samplers.ddpm(schedules.linear(), 100))
    >>> followed.perturbation[[0, 100, 199]].round(3).tolist()  # one step forward, the first and the last one back
    [1.0, 0.981, 1.0]
    """
    return history(directions.sampler_steps(data.variances, schedule, steps).gain, data.multiplicity)


def flow(data: LowRank, schedule: Schedule, t_star: int) -> LowRankMap:
    """Forward noise to t*, then the exact probability flow: DDIM's limit of many steps.

    >>> from purimetry.compression import schedules
    >>> data = low_rank(np.zeros((1, 2, 1)), np.eye(2, 1), 1.0, 0.0)
    >>> flow(data, schedules.linear(), 100).spectrum.rates.round(3).tolist()  # sqrt(alpha_bar) of a unit variance
    [0.947, 0.0]
    """
    forward = directions.diffused(data.variances, schedule, t_star)
    return LowRankMap(data, forward.then(directions.reverse_flow(data.variances, schedule, t_star)))


def diffuse_and_denoise(data: LowRank, schedule: Schedule, t_star: int) -> LowRankMap:
    """Forward noise to t*, then the exact reverse SDE: DDPM's limit of many steps.

    >>> from purimetry.compression import schedules
    >>> data = low_rank(np.zeros((1, 2, 1)), np.eye(2, 1), 1.0, 0.0)
    >>> diffuse_and_denoise(data, schedules.linear(), 100).spectrum.rates.round(3).tolist()  # alpha_bar
    [0.897, 0.0]
    """
    forward = directions.diffused(data.variances, schedule, t_star)
    return LowRankMap(data, forward.then(directions.reverse_sde(data.variances, schedule, t_star)))
