"""The Jacobian of f_xi for a mixture whose components share one variance, in closed form and in any dimension.

The optimal noise predictor's Jacobian is J_eps = lambda (I - ab / v C(x_t)), with C the posterior covariance of the
component means, v = ab s^2 + 1 - ab and lambda = sqrt(1 - ab) / v. Outside of the span of the means' differences all
steps are one scalar each, as for a single Gaussian; inside it they are matrices of at most m - 1 dimensions. Where the
posterior is sure of a component, C is 0, and the mixture compresses like that component alone.

Everything is in the diffusion's range [-1, 1]; gains and rates are the same in pixels, where nothing is clipped.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import directions
from .directions import NoiseLevels
from .mixture import Mixture
from .spectrum import Spectrum


class MixtureJacobian(NamedTuple):
    """J = basis within basis^T + outside (I - basis basis^T) at one image.

    basis: orthonormal, of the span of the differences of means, [d, r]. within: [r, r]. outside: a scalar gain.
    isotropic: ||J_t||_F / sqrt(d) of each reverse step, in order of use, [t*]; first_order: tr J_t / d (Eq. 16), [t*].
    """

    basis: Float[np.ndarray | Array, "d r"]
    within: Float[np.ndarray | Array, "r r"]
    outside: Float[np.ndarray | Array, ""]
    isotropic: Float[np.ndarray | Array, "t_star"]
    first_order: Float[np.ndarray | Array, "t_star"]

    @property
    def spectrum(self) -> Spectrum:
        """The rates over isotropic perturbations, from the singular values: without noise, and without Eq. 16's trace,
        which needs the eigenvalues (`first_order` has it of each step)."""
        d, r = self.basis.shape
        gains = np.append(np.linalg.svd(np.asarray(self.within, np.float64), compute_uv=False), abs(self.outside))
        return Spectrum(gains, np.zeros(r + 1), np.append(np.ones(r), float(d - r)))

    def pull(self, v: Float[np.ndarray | Array, "*rows d"]) -> np.ndarray:
        """J^T v of flattened images v."""
        basis, v, outside = np.asarray(self.basis, np.float64), np.asarray(v, np.float64), float(self.outside)
        inside = v @ basis
        return (inside @ np.asarray(self.within, np.float64) - outside * inside) @ basis.T + outside * v


def mean_differences(data: Mixture) -> Float[np.ndarray, "d r"]:
    """An orthonormal basis of the span of the differences of the components' means.

    Raises ValueError unless all components share one variance, for then the basis says nothing of the Jacobian.

    >>> from purimetry.theory.mixture import empirical
    >>> mean_differences(empirical(np.array([[0.0, 0.5], [1.0, 0.5]]).reshape(2, 1, 2, 1))).round(6).ravel().tolist()
    [1.0, 0.0]
    """
    if np.ptp(data.variances):
        raise ValueError(f"components must share one variance, got {data.variances.min():g}..{data.variances.max():g}; "
                         "differentiate the purifier itself")
    means = data.means.reshape(len(data.means), -1)
    _, sizes, axes = np.linalg.svd(means - means.mean(0), full_matrices=False)
    axes = axes[sizes > 1e-9 * sizes.max()].T
    return axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])


def purification_jacobian(
    data: Mixture, levels: NoiseLevels, steps, basis: Float[np.ndarray | Array, "d r"],
    states: Float[Array, "t_star height width channel"],
) -> MixtureJacobian:
    """The Jacobian of a sampler's f_xi along the states x_t*..x_1 that it went through, apart from the clip.

    levels: `directions.noise_levels(schedule)`. steps: a `Steps` of `compression.samplers` made from that schedule.
    basis: `mean_differences(data)`.

    Raises ValueError for steps with memory, which are no maps of the state alone.
    """
    if steps.memory:
        raise ValueError("steps that recall former predictions have no own Jacobian; differentiate the purifier")
    dtype, (d, r) = states.dtype, basis.shape
    basis, variance = jnp.asarray(basis, dtype), jnp.asarray(data.variances, dtype)[0]
    coordinates = jnp.asarray(data.means.reshape(len(data.means), -1), dtype) @ basis

    def step(whole, row):
        x, c = row
        within, outside = whole
        signal, noise = levels.at(c.time, dtype)
        noisy = signal * variance + noise
        covariance = _posterior_covariance_of_means(data, coordinates, basis, x, signal, noisy)
        change = c.prediction * directions.eigenvalue(variance, signal, noise)
        across = c.state + change
        here = across * jnp.eye(r, dtype=dtype) - change * signal / noisy * covariance
        isotropic = jnp.sqrt(((here**2).sum() + (d - r) * across**2) / d)
        return (here @ within, across * outside), (isotropic, (jnp.trace(here) + (d - r) * across) / d)

    forward = jnp.asarray(steps.forward_state, dtype).prod()
    start = forward * jnp.eye(r, dtype=dtype), forward
    (within, outside), (isotropic, first_order) = jax.lax.scan(step, start, (states, steps.astype(dtype)))
    return MixtureJacobian(basis, within, outside, isotropic, first_order)


def _posterior_covariance_of_means(data, coordinates, basis, x, signal, noisy):
    at = x.ravel() @ basis  # outside of the basis the residuals of all components are equal and cancel
    residuals = at - signal**0.5 * coordinates
    weights = jax.nn.softmax(jnp.log(jnp.asarray(data.weights, x.dtype)) - 0.5 * (residuals**2).sum(1) / noisy)
    spread = coordinates - weights @ coordinates
    return (weights[:, None] * spread).T @ spread
