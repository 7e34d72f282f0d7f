"""Singular values, effective ranks, tangent spaces and angles against exact decompositions and known spaces."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import batches, jacobian, manifold, randomness
from purimetry.theory import low_rank, mixture

SHAPE, D = (4, 5, 2), 40
RANDOM = np.random.default_rng(0)
KEY = pm.configuration(0, 0)
X = jnp.asarray(np.float32(RANDOM.uniform(0.3, 0.7, SHAPE)))
MATRIX = np.float32(RANDOM.normal(size=(D, D)) * 0.8 ** np.arange(D))
SCHEDULE = pm.linear()
principal_cosines = jax.jit(manifold.principal_cosines)


def curved(x, key):
    return jnp.tanh(MATRIX @ x.ravel()).reshape(x.shape) + jax.random.normal(key, x.shape)


exact_jacobian = jax.jit(partial(pm.jacobian, curved))


def at_x(measure, *given, **settings):
    """What it measures at X under KEY, in one program."""
    return jax.device_get(jax.jit(partial(measure, *given, **settings))(X, KEY))


def orthonormal(m, d=D):
    return np.float32(np.linalg.qr(RANDOM.normal(size=(d, m)))[0])


def test_largest_singular_values_are_those_of_the_exact_jacobian():
    u, s, vt = np.linalg.svd(np.asarray(exact_jacobian(X, KEY), np.float64))
    found = at_x(jacobian.largest_singular_values, curved, k=5, iterations=25)
    np.testing.assert_allclose(found.values, s[:5], rtol=1e-4)  # what the rest of the space would add, and rounding
    assert (found.residual < 1e-3 * s[0]).all()
    for vectors, true in ((found.right, vt[:5]), (found.left, u[:, :5].T)):
        np.testing.assert_allclose(np.abs(np.sum(np.reshape(vectors, (5, D)) * true, 1)), 1, atol=1e-4)


def test_residuals_bound_the_error_of_singular_values():
    s = np.linalg.svd(np.asarray(exact_jacobian(X, KEY), np.float64), compute_uv=False)
    found = at_x(jacobian.largest_singular_values, curved, k=6, iterations=8)
    nearest = np.abs(s - found.values[:, None]).min(1)
    assert (nearest <= found.residual + 1e-5).all() and nearest.max() > 1e-3  # not converged, and said so


@jax.jit
def of_multiples(scale):
    return (jacobian.largest_singular_values(lambda x, key: scale * x, X, KEY, k=3, iterations=8).values,
            *jacobian.largest_eigenvectors(lambda v: scale * v, X, KEY, k=3, iterations=8))


@pytest.mark.parametrize("scale, expected", [(1.0, [1, 1, 1]), (0.0, [0, 0, 0]), (np.arange(D) < 2, [1, 1, 0])])
def test_equal_singular_values_and_missing_ranks_are_found(scale, expected):
    singular, values, vectors = of_multiples(np.broadcast_to(np.float32(scale), D).reshape(SHAPE))
    np.testing.assert_allclose(singular, expected, atol=3e-6)
    np.testing.assert_allclose(values, expected, atol=3e-6)
    np.testing.assert_allclose(np.einsum("ihwc,jhwc->ij", vectors, vectors), np.eye(3), atol=1e-4)


def test_largest_eigenvectors_are_those_of_the_exact_decomposition():
    symmetric = np.float64(MATRIX + MATRIX.T)
    values, vectors = np.linalg.eigh(symmetric)
    product = lambda v: jnp.asarray(symmetric, jnp.float32).dot(v.ravel()).reshape(v.shape)
    found, spanned = at_x(jacobian.largest_eigenvectors, product, k=3, iterations=30)
    np.testing.assert_allclose(found, values[::-1][:3], rtol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(np.reshape(spanned, (3, D)) * vectors[:, ::-1][:, :3].T, 1)), 1, atol=1e-3)


@pytest.mark.parametrize("k, iterations", [(0, 5), (6, 5), (3, 41)])
def test_a_krylov_space_that_cannot_be_is_refused(k, iterations):
    with pytest.raises(ValueError, match="1 <= k <= iterations <= d"):
        jacobian.largest_singular_values(curved, X, KEY, k=k, iterations=iterations)


def test_spectrum_of_the_symmetric_part():
    """Of a rotation by an angle it is the cosine, twice, where all singular values are 1."""
    angle = 0.3
    rotation = np.float32([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    spectrum = jax.jit(jacobian.symmetric_spectrum)
    np.testing.assert_allclose(spectrum(rotation), [np.cos(angle)] * 2, rtol=1e-6)
    values = np.linalg.eigvalsh(np.float64(MATRIX + MATRIX.T) / 2)
    np.testing.assert_allclose(spectrum(MATRIX), values, atol=1e-5)


def test_effective_ranks():
    """Both are r for r equal singular values; in general 1 <= participation <= entropy <= number of values."""
    ranks = jax.jit(lambda s: (jacobian.participation_ratio(s), jacobian.entropy_rank(s)))
    for r in (1, 4, 7):
        np.testing.assert_allclose(ranks(np.float32([0.3] * r + [0] * (9 - r))), r, rtol=1e-5)
    participating, entropy = map(float, ranks(np.linalg.svd(MATRIX, compute_uv=False)))
    assert 1 < participating < entropy < D


def test_retained_is_the_limit_of_the_compression_rate():
    measured = jax.jit(lambda v: (jacobian.push(curved, X, KEY, v).ravel(), jacobian.retained(curved, X, KEY, v),
                                  pm.compression_rate(curved, X, 1e-3 * v, KEY)))
    v = np.float32(RANDOM.normal(size=SHAPE))
    exact = np.asarray(exact_jacobian(X, KEY)) @ v.ravel()
    pushed, found, difference = measured(v)
    np.testing.assert_allclose(pushed, exact, atol=1e-5)
    np.testing.assert_allclose(found, np.linalg.norm(exact) / np.linalg.norm(v), rtol=1e-5)
    # A finite difference in float32 is off by its step and by 1e-7 over it.
    np.testing.assert_allclose(difference, found, rtol=1e-2)
    top = at_x(jacobian.largest_singular_values, curved, k=1, iterations=20)
    np.testing.assert_allclose(measured(top.right[0])[1], top.values[0], rtol=1e-3)


def test_directions_are_random_in_the_space_that_they_are_asked_for():
    basis, n = orthonormal(7), 20_000
    into = np.float64(basis @ basis.T)
    isotropic, inside, outside, few = jax.jit(lambda basis, key: (
        manifold.isotropic(X, key, n), *(f(basis, X, key, n) for f in (manifold.inside, manifold.outside)),
        manifold.inside(basis, X, key, 9)))(basis, KEY)
    for draws, projection in ((isotropic, np.eye(D)), (inside, into), (outside, np.eye(D) - into)):
        rows = np.asarray(draws, np.float64).reshape(n, D)
        # Products of signs have variance at most 1, and 1600 are compared: 5 standard errors.
        np.testing.assert_allclose(rows.T @ rows / n, projection, atol=5 / n**0.5)
        np.testing.assert_allclose(rows - rows @ projection, 0, atol=1e-5)
    np.testing.assert_allclose((np.asarray(few) ** 2).sum((1, 2, 3)), 7, rtol=1e-5)


def test_shares_of_a_space_and_their_chance_level():
    basis, random = jnp.asarray(orthonormal(6)), np.float32(RANDOM.normal(size=(5000, *SHAPE)))
    known, found = jax.device_get(jax.jit(lambda basis, random: (
        [manifold.share(basis, draw(basis, X, KEY, 1)[0]) for draw in (manifold.inside, manifold.outside)],
        jax.vmap(partial(manifold.share, basis))(random)))(basis, random))
    np.testing.assert_allclose(known, [1, 0], atol=1e-5)
    assert abs(found.mean() - manifold.chance(basis)) < 4 * found.std() / 5000**0.5


def test_principal_angles_of_known_spaces():
    """Two planes with one common direction, and an angle of 0.4 between the others."""
    q, turned = orthonormal(4), orthonormal(2, 2)
    tilted = np.stack([q[:, 0], np.cos(0.4) * q[:, 1] + np.sin(0.4) * q[:, 2]], 1)
    np.testing.assert_allclose(principal_cosines(q[:, :2] @ turned, tilted), [1, np.cos(0.4)], rtol=1e-5)
    assert principal_cosines(orthonormal(3), orthonormal(5)).shape == (3,)


def test_local_pca_finds_the_tangent_plane_of_a_curved_surface():
    """Of a sphere in 3 of the 40 dimensions, near a point: the plane across its radius, up to the curvature."""
    space = np.float64(orthonormal(3))
    points = RANDOM.normal(size=(4000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    images = np.float32((0.5 + points @ space.T).reshape(-1, *SHAPE))
    found = batches.over_images(partial(manifold.local_pca, neighbours=30, dimension=2), (images,), images[:5])
    for point, basis, spectrum in zip(points[:5], found.basis, found.spectrum, strict=True):
        np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-5)
        assert np.abs(basis.T @ space @ point).max() < 0.05  # a cap of 30 of 4000 points is 0.17 wide; its square
        assert spectrum[2] < 0.05 * spectrum[1] and spectrum[3] < 1e-10


def test_local_pca_takes_the_nearest():
    images = np.float32(RANDOM.uniform(size=(50, *SHAPE)))
    order = np.argsort(np.linalg.norm((images - np.asarray(X)).reshape(50, -1), axis=1))[:8]
    nearest = np.asarray(images, np.float64).reshape(50, -1)[order]
    _, s, axes = np.linalg.svd(nearest - nearest.mean(0), full_matrices=False)
    found = jax.jit(partial(manifold.local_pca, neighbours=8, dimension=4))(images, X)
    np.testing.assert_allclose(found.spectrum, s**2 / 7, atol=1e-5)
    cosines = principal_cosines(found.basis, np.float32(axes[:4].T))
    np.testing.assert_allclose(cosines, 1, atol=1e-4)


@pytest.mark.parametrize("neighbours, dimension", [(5, 5), (51, 3), (5, 0)])
def test_a_tangent_space_that_the_neighbours_cannot_span_is_refused(neighbours, dimension):
    with pytest.raises(ValueError, match="1 <= dimension < neighbours <= 50 images"):
        manifold.local_pca(jnp.zeros((50, *SHAPE)), X, neighbours=neighbours, dimension=dimension)


@pytest.mark.parametrize("iterations", [None, 12])
def test_the_optimal_denoiser_of_flat_data_knows_their_manifold(iterations):
    data = low_rank.low_rank(np.zeros(SHAPE), RANDOM.normal(size=(D, 4)), 0.3, 1e-4)
    predictor = low_rank.noise_predictor(data, SCHEDULE)
    found = at_x(manifold.denoiser_tangent, predictor, SCHEDULE, t=20, dimension=4, iterations=iterations)
    cosines = principal_cosines(found.basis, np.float32(data.basis))
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    ab = SCHEDULE.alpha_bar[20]
    gain = np.sqrt(ab) * 0.3 / (ab * 0.3 + 1 - ab)  # sqrt(ab) / (1 - ab) times the posterior variance
    np.testing.assert_allclose(found.spectrum, gain, rtol=1e-3)  # 1 - ab in float32


def test_the_denoiser_of_a_mixture_has_the_eigenvectors_of_its_posterior_covariance():
    data = mixture.mixture(np.ones(5), RANDOM.uniform(-0.5, 0.5, (5, *SHAPE)), 0.01)
    t = 400
    found = at_x(manifold.denoiser_tangent, mixture.noise_predictor(data, SCHEDULE), SCHEDULE, t=t, dimension=2)
    ab = float(SCHEDULE.alpha_bar[t])

    def posterior(x, key):
        z = jax.random.normal(randomness.step_key(key, randomness.PROBE, 3), SHAPE)
        return mixture.posterior_mean_jacobian(data, ab**0.5 * (2 * x - 1) + (1 - ab) ** 0.5 * z, ab)

    values, vectors = np.linalg.eigh(at_x(posterior))
    np.testing.assert_allclose(found.spectrum, values[::-1][:2], rtol=1e-3)
    np.testing.assert_allclose(principal_cosines(found.basis, vectors[:, -2:]), 1, atol=1e-3)


@pytest.mark.parametrize("t, dimension", [(0, 2), (1001, 2), (5, 0), (5, 41)])
def test_a_denoisers_tangent_space_that_cannot_be_is_refused(t, dimension):
    with pytest.raises(ValueError, match="expected t in 1..1000 and dimension in 1..40"):
        manifold.denoiser_tangent(lambda x, t: x, SCHEDULE, X, KEY, t=t, dimension=dimension)
