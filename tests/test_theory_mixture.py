"""Mixtures and the empirical distribution against autodiff, integration, sampling and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.theory import gaussian, mixture, tweedie

SHAPE, D = (1, 3, 2), 6
RANDOM = np.random.default_rng(0)
MIXED = mixture.mixture(np.arange(1, 4), RANDOM.uniform(-1, 1, (3, *SHAPE)), np.array([0.05, 0.2, 0.0]))
X = RANDOM.uniform(-1, 1, SHAPE)
LEVELS = [0.1, 0.5, 0.9, 0.99]


def log_density(data, x, ab):
    """log p(x_t) by its definition, a sum of normal densities."""
    v = ab * data.variances + 1 - ab
    square = jnp.sum((x - np.sqrt(ab) * data.means) ** 2, (1, 2, 3))
    return jax.nn.logsumexp(-square / (2 * v) - D / 2 * jnp.log(2 * np.pi * v), b=data.weights)


@pytest.mark.parametrize("ab", LEVELS)
def test_score_is_the_gradient_of_the_log_density(ab):
    with jax.enable_x64(True):
        score = jax.grad(lambda x: log_density(MIXED, x, ab))
        found, expected = jax.jit(lambda x: (mixture.score(MIXED, x, ab), score(x)))(X)
        np.testing.assert_allclose(found, expected, rtol=1e-10)  # float64


@pytest.mark.parametrize("ab", LEVELS)
def test_jacobian_of_the_posterior_mean_is_the_scaled_posterior_covariance(ab):
    with jax.enable_x64(True):
        mean = lambda flat: mixture.posterior_mean(MIXED, flat.reshape(SHAPE), ab).ravel()
        by_autodiff, found, covariance = jax.jit(lambda x: (jax.jacfwd(mean)(x.ravel()), *(
            f(MIXED, x, ab) for f in (mixture.posterior_mean_jacobian, mixture.posterior_covariance))))(X)
        np.testing.assert_allclose(found, by_autodiff, rtol=1e-8, atol=1e-12)  # float64; near the edges 1 - ab cancels
        np.testing.assert_allclose(tweedie.posterior_covariance(by_autodiff, ab), covariance, rtol=1e-8, atol=1e-12)
        assert np.linalg.eigvalsh(covariance).min() > -1e-12


def test_posterior_moments_are_those_of_draws_weighted_by_their_likelihood():
    ab, n = 0.3, 200_000
    draws = mixture.sample(MIXED, n, np.random.default_rng(1)).reshape(n, D)
    log_likelihood = -((X.ravel() - np.sqrt(ab) * draws) ** 2).sum(1) / (2 * (1 - ab))
    weights = np.exp(log_likelihood - log_likelihood.max())
    weights /= weights.sum()
    mean = weights @ draws
    spread = np.sqrt(weights**2 @ (draws - mean) ** 2)  # standard error of a self-normalised estimate
    found, found_covariance = jax.jit(lambda x: (
        mixture.posterior_mean(MIXED, x, ab).ravel(), mixture.posterior_covariance(MIXED, x, ab)))(np.float32(X))
    assert (np.abs(np.asarray(found) - mean) < 4 * spread).all()
    products = (draws - mean)[:, :, None] * (draws - mean)[:, None]
    covariance = np.einsum("n,nij->ij", weights, products)
    spread = np.sqrt(np.einsum("n,nij->ij", weights**2, (products - covariance) ** 2))
    assert (np.abs(np.asarray(found_covariance) - covariance) < 5 * spread).all()  # 5, as there are 36 of them


def test_one_component_is_a_gaussian():
    mean = RANDOM.uniform(-1, 1, SHAPE)
    schedule = pm.linear()
    one = mixture.noise_predictor(mixture.mixture(np.array([2.0]), mean[None], 0.3), schedule)
    dense = gaussian.noise_predictor(gaussian.gaussian(mean, 0.3 * np.eye(D)), schedule)
    both = jax.jit(lambda x, t: (one(x, t), dense(x, t)))
    for t in (0.0, 50.0, 999.0):
        # The predicted noise is up to 100 at t = 0, whose float32 has steps of 8e-6.
        np.testing.assert_allclose(*both(np.float32(X), np.float32(t)), rtol=2e-6, atol=1e-6)


def test_predictor_is_a_pytree_that_agrees_with_its_parts():
    schedule, x = pm.linear(), np.float32(X)
    predictor = mixture.noise_predictor(MIXED, schedule)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(predictor))
    predicted = jax.jit(lambda predictor, x, t: predictor(x, t))(predictor, x, np.float32(99))
    ab = schedule.alpha_bar[100]
    tolerance = dict(rtol=1e-5, atol=1e-5)  # float32
    noise, x_0 = jax.jit(lambda x: (mixture.noise(MIXED, x, ab), mixture.posterior_mean(MIXED, x, ab)))(x)
    np.testing.assert_allclose(predicted, noise, **tolerance)
    np.testing.assert_allclose(predicted, tweedie.noise_from_posterior_mean(x, np.asarray(x_0), ab), **tolerance)


def test_empirical_posterior_mean_is_between_the_mean_of_all_and_the_nearest():
    images = RANDOM.uniform(0, 1, (50, *SHAPE))
    data, x = mixture.empirical(images), np.float32(2 * images[7] - 1)
    far, near, covariance = jax.jit(lambda x: (
        mixture.posterior_mean(data, 1e-4 * x, 1e-8), mixture.posterior_mean(data, x, 1 - 1e-4),
        mixture.posterior_covariance(data, x, 1 - 1e-4)))(x)
    np.testing.assert_allclose(far, data.means.mean(0), atol=2e-4)  # all are as likely, up to sqrt(alpha_bar)
    np.testing.assert_allclose(near, x, atol=1e-4)  # itself, up to sqrt(alpha_bar)
    assert np.abs(covariance).max() < 1e-6


def test_posterior_survives_distances_whose_exponentials_vanish():
    images = RANDOM.uniform(0, 1, (5, 32, 32, 3))
    data = mixture.empirical(images)
    predicted = jax.jit(mixture.noise_predictor(data, pm.linear()))(np.float32(2 * images[2] - 1), np.float32(0))
    assert np.isfinite(predicted).all() and np.abs(predicted).max() < 0.02  # (1 - sqrt(ab)) x / sqrt(1 - ab)


def test_a_memorising_purifier_collapses_on_the_training_image():
    """All perturbations are compressed to nothing, the extreme of App. A.3 with no direction on the manifold."""
    images = np.random.default_rng(2).uniform(0.2, 0.8, (30, 8, 8, 1))
    schedule = pm.respaced(pm.linear(), 100)
    purifier = pm.diffusion(mixture.noise_predictor(mixture.empirical(images), schedule), pm.ddpm(schedule, 20))
    x, key = np.float32(images[4]), pm.configuration(0, 4)
    purified, rates = jax.jit(lambda x, key: (purifier(x, key), pm.expected_rates(purifier, x, key, 0.05)))(x, key)
    np.testing.assert_allclose(purified, x, atol=1e-4)  # float32, whose noise is divided by sqrt(1 - ab_1)
    assert float(rates.l2.mean) < 1e-3


def test_between_two_images_a_denoiser_expands():
    """Undecided, the posterior is as wide as the gap: the rate is sqrt(ab) / (1 - ab) Cov > 1 along it, 0 across."""
    two = mixture.mixture(np.ones(2), np.stack([-np.ones(SHAPE), np.ones(SHAPE)]), 0.0)
    ab = 0.5
    jacobian = jax.jit(lambda x: mixture.posterior_mean_jacobian(two, x, ab))(np.zeros(SHAPE))
    np.testing.assert_allclose(np.linalg.eigvalsh(jacobian), [0] * 5 + [np.sqrt(ab) / (1 - ab) * D], atol=1e-5)


def test_draws_are_of_the_components():
    draws = mixture.sample(MIXED, 6000, np.random.default_rng(3))
    fixed = (np.abs(draws - MIXED.means[2]) < 1e-6).all((1, 2, 3)).mean()  # the component without variance
    assert abs(fixed - 0.5) < 4 * np.sqrt(0.25 / 6000)
    error = 4 * draws.std(0) / np.sqrt(6000)
    assert (np.abs(draws.mean(0) - np.tensordot(MIXED.weights, MIXED.means, 1)) < error).all()


@pytest.mark.parametrize("ab", LEVELS)
def test_tweedies_conversions_invert_each_other(ab):
    eps = RANDOM.normal(size=SHAPE)
    score, x_0 = tweedie.score_from_noise(eps, ab), tweedie.posterior_mean_from_noise(X, eps, ab)
    np.testing.assert_allclose(tweedie.noise_from_score(score, ab), eps, rtol=1e-12)
    np.testing.assert_allclose(tweedie.posterior_mean_from_score(X, score, ab), x_0, rtol=1e-12)
    np.testing.assert_allclose(tweedie.score_from_posterior_mean(X, x_0, ab), score, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(tweedie.noise_from_posterior_mean(X, x_0, ab), eps, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(np.sqrt(ab) * x_0 + np.sqrt(1 - ab) * eps, X, rtol=1e-12)  # Eq. 3


@pytest.mark.parametrize("weights, means, variances, message", [
    (np.ones(2), np.zeros((3, *SHAPE)), 0.1, "expected m >= 1 weights"),
    (np.ones(0), np.zeros((0, *SHAPE)), 0.1, "expected m >= 1 weights"),
    (np.ones(2), np.zeros((2, 6)), 0.1, "expected m >= 1 weights"),
    (np.ones(2), np.zeros((2, *SHAPE)), np.ones(3), "expected m >= 1 weights"),
    (np.array([1.0, 0.0]), np.zeros((2, *SHAPE)), 0.1, "weights must be > 0"),
    (np.ones(2), np.zeros((2, *SHAPE)), -0.1, "variances >= 0"),
])
def test_what_is_no_mixture_is_refused(weights, means, variances, message):
    with pytest.raises(ValueError, match=message):
        mixture.mixture(weights, means, variances)
