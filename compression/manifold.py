"""Directions on and off the data manifold: tangent spaces, and how a vector or another space lies to them.

A tangent space is an orthonormal basis, columns of [d, m], in images flattened in C order. Pixels and the diffusion's
range have the same directions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .decompositions import eigh, singular_values, svd
from .jacobian import largest_eigenvectors
from .randomness import PROBE, step_key
from .schedules import Schedule
from .types import Image, Key, NoisePredictor, Scalar

Basis = Float[Array, "d m"]
Images = Float[Array, "n height width channel"]


class Tangent(NamedTuple):
    """A tangent space, with the spectrum that it was cut from, descending.

    spectrum: variances of the neighbours along all principal axes, or the eigenvalues that belong to the basis.
    """

    basis: Basis
    spectrum: Float[Array, "k"]


def local_pca(images: Images, x: Image, *, neighbours: int, dimension: int) -> Tangent:
    """The first `dimension` principal axes of the `neighbours` images nearest to x in l2; x itself may be among them.

    >>> line = jnp.linspace(0, 1, 9)[:, None, None, None] * jnp.array([0.6, 0.8]).reshape(1, 2, 1)
    >>> tangent = local_pca(line, line[3], neighbours=5, dimension=1)
    >>> [round(abs(float(component)), 3) for component in tangent.basis[:, 0]]
    [0.6, 0.8]
    """
    if not 1 <= dimension < neighbours <= len(images) or dimension > x.size:
        raise ValueError(
            f"expected 1 <= dimension < neighbours <= {len(images)} images, and dimension <= {x.size} pixel values, "
            f"got dimension {dimension} and neighbours {neighbours}"
        )
    rows = images.reshape(len(images), -1)
    # Not of differences: over many images and a whole data set at once those would not fit in memory.
    squared_distances = (rows**2).sum(1) - 2 * rows @ x.ravel()
    nearest = rows[jax.lax.top_k(-squared_distances, neighbours)[1]]
    _, spread, axes = svd(nearest - nearest.mean(0))
    return Tangent(axes[:dimension].T, spread**2 / (neighbours - 1))


def denoiser_tangent(
    noise_predictor: NoisePredictor, schedule: Schedule, x: Image, key: Key, *, t: int, dimension: int,
    iterations: int | None = None,
) -> Tangent:
    """The directions in which a denoiser believes that clean images lie around x, by its own Jacobian at a small t.

    Of the posterior mean E[x_0 | x_t] at x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) z, the eigenvectors of the Jacobian's
    symmetric part with the largest eigenvalues; for an optimal denoiser it is sqrt(ab_t) / (1 - ab_t) Cov[x_0 | x_t].

    x: in pixels. t: step of the schedule, 1..T. iterations: of Lanczos' method; None forms the Jacobian.

    >>> import purimetry as pm
    >>> line = lambda x_t, t: jnp.array([0.0, 1.0]).reshape(1, 2, 1) * x_t  # noise is what leaves the first axis
    >>> x, key = jnp.ones((1, 2, 1)), pm.configuration(0, 0)
    >>> jnp.abs(denoiser_tangent(line, pm.linear(), x, key, t=10, dimension=1).basis).ravel().tolist()
    [1.0, 0.0]
    """
    if not 1 <= t <= schedule.steps or not 1 <= dimension <= x.size:
        raise ValueError(f"expected t in 1..{schedule.steps} and dimension in 1..{x.size}, got {t} and {dimension}")
    signal, time = (jnp.asarray(table, x.dtype)[t] for table in schedule)
    z = jax.random.normal(step_key(key, PROBE, 3), x.shape, x.dtype)
    x_t = jnp.sqrt(signal) * (2 * x - 1) + jnp.sqrt(1 - signal) * z
    posterior_mean = lambda x_t: (x_t - jnp.sqrt(1 - signal) * noise_predictor(x_t, time)) / jnp.sqrt(signal)

    def symmetric(v):
        _, pull = jax.vjp(posterior_mean, x_t)
        return (jax.jvp(posterior_mean, (x_t,), (v,))[1] + pull(v)[0]) / 2

    if iterations is not None:
        values, vectors = largest_eigenvectors(symmetric, x, key, k=dimension, iterations=iterations)
        return Tangent(vectors.reshape(dimension, -1).T, values)
    whole = jax.jacfwd(lambda flat: posterior_mean(flat.reshape(x.shape)).ravel())(x_t.ravel())
    values, vectors = eigh((whole + whole.T) / 2)
    return Tangent(vectors[:, ::-1][:, :dimension], values[::-1][:dimension])


def isotropic(x: Image, key: Key, draws: int) -> Images:
    """Random signs: directions with E v v^T = I and ||v||^2 = d."""
    return jax.random.rademacher(step_key(key, PROBE, 4), (draws, *x.shape), x.dtype)


def inside(basis: Basis, x: Image, key: Key, draws: int) -> Images:
    """Random directions of a tangent space: E v v^T projects onto it, and ||v||^2 = m."""
    signs = jax.random.rademacher(step_key(key, PROBE, 5), (draws, basis.shape[1]), x.dtype)
    return (signs @ basis.T).reshape(draws, *x.shape)


def outside(basis: Basis, x: Image, key: Key, draws: int) -> Images:
    """Random directions of the normal space: E v v^T projects onto it, and E ||v||^2 = d - m."""
    signs = isotropic(x, key, draws).reshape(draws, -1)
    return (signs - signs @ basis @ basis.T).reshape(draws, *x.shape)


def share(basis: Basis, v: Image) -> Scalar:
    """The share of ||v||^2 that lies inside a tangent space; by chance it is `chance(basis)`.

    >>> round(float(share(jnp.eye(2)[:, :1], jnp.array([3.0, 4.0]).reshape(1, 2, 1))), 4)
    0.36
    """
    return ((v.ravel() @ basis) ** 2).sum() / (v**2).sum()


def chance(basis: Basis) -> float:
    """m / d, the mean share of a vector of random direction.

    >>> chance(jnp.eye(4)[:, :1])
    0.25
    """
    return basis.shape[1] / basis.shape[0]


def principal_cosines(a: Basis, b: Float[Array, "d k"]) -> Float[Array, "angles"]:
    """Cosines of the min(m, k) principal angles between two tangent spaces, descending; 1 is a common direction.

    >>> principal_cosines(jnp.eye(3)[:, :2], jnp.eye(3)[:, 1:]).tolist()
    [1.0, 0.0]
    """
    return singular_values(a.T @ b)
