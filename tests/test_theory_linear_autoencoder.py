"""Linear autoencoders of Gaussian images: closed forms against numerical optimisation, training and the estimators."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.optimize import minimize, minimize_scalar

import purimetry as pm
from purimetry.compression.networks.autoencoder import PACE, Posterior
from purimetry.compression.training import autoencoders, loop
from purimetry.theory.gaussian import gaussian
from purimetry.theory.linear_autoencoder import learned_sigma, learned_sigmas, noisy, pca

RANDOM = np.random.default_rng(0)
SHAPE, K, S = (2, 3, 1), 3, 0.05
BASIS = np.linalg.qr(RANDOM.normal(size=(6, 6)))[0]
VARIANCES = np.array([0.16, 0.09, 0.04, 0.01, 0.004, 0.002])
DATA = gaussian(RANDOM.uniform(-0.2, 0.2, SHAPE), (BASIS * VARIANCES) @ BASIS.T)
COVARIANCE = (BASIS * VARIANCES) @ BASIS.T
KEEPS_ALL, DROPS_SOME = 0.05, 0.17
"""Pixel noises at which all three directions are worth keeping, and at which they are not."""


def descended(objective, size, starts=5):
    """Where gradient descent ends from random starts, in a function of `size` unknowns, and its minima there."""
    with jax.enable_x64(True):
        both = jax.jit(jax.value_and_grad(objective))
        found = [minimize(lambda p: tuple(map(np.float64, both(p))), np.random.default_rng(i).normal(size=size),
                          jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}) for i in range(starts)]
    return [(result.x, result.fun) for result in found]


def unpacked(p):
    return p[:18].reshape(3, 6), p[18:36].reshape(6, 3)


def left(encoder, decoder):
    gap = jnp.eye(6) - decoder @ encoder
    return jnp.trace(gap @ COVARIANCE @ gap.T)


def objective(s, p):
    """E |x - D(z)|^2 / (2 s^2) + KL for z = A x + sigma xi and D = B, in matrices; p ends with log sigma."""
    encoder, decoder = unpacked(p)
    sigma = jnp.broadcast_to(jnp.exp(p[36:]), 3)
    distortion = left(encoder, decoder) + ((decoder * sigma) ** 2).sum()
    rate = jnp.trace(encoder @ COVARIANCE @ encoder.T) + (sigma**2 - 1 - 2 * jnp.log(sigma)).sum()
    return distortion / (2 * s**2) + rate / 2


def test_the_best_linear_autoencoder_is_pca():
    closed = pca(DATA, K)
    for p, least in descended(lambda p: left(*unpacked(p)), 36, starts=2):
        encoder, decoder = unpacked(p)
        np.testing.assert_allclose(decoder @ encoder, closed.purification.matrix, atol=1e-5)  # root of gtol
        np.testing.assert_allclose(least, closed.squared_error, rtol=1e-6)
    np.testing.assert_allclose(closed.squared_error, VARIANCES[3:].sum())
    np.testing.assert_allclose(closed.purification.spectrum.rms_rate, np.sqrt(3 / 6))
    assert closed.rate == np.inf and closed.purification.spectrum.variances(0.01).snr == np.inf


@pytest.mark.parametrize("pixel_noise", [KEEPS_ALL, DROPS_SOME])
def test_one_learned_sigma_is_the_same_from_every_start(pixel_noise):
    closed, s = noisy(DATA, K, pixel_noise), 2 * pixel_noise
    assert (closed.decoder > 0).all() == (pixel_noise == KEEPS_ALL)
    for p, least in descended(partial(objective, s), 37):
        encoder, decoder = unpacked(p)
        np.testing.assert_allclose(np.exp(p[36]), closed.sigma, rtol=1e-5)  # root of gtol
        np.testing.assert_allclose(decoder @ encoder, closed.purification.matrix, atol=1e-4)
        np.testing.assert_allclose(least, closed.squared_error / (2 * s**2) + closed.rate, rtol=1e-6)


@pytest.mark.parametrize("ratios", [(10, 1), (10, 0.15), (3, 2, 1), (1.5, 0.9, 0.7, 0.1), (0.5, 0.2)])
def test_one_learned_sigma_is_the_objectives_minimum(ratios):
    """Whatever is kept: an r_i may lie between the optimum and 1, or on either side of both."""
    data, k = gaussian(np.zeros((1, len(ratios), 1)), np.diag(np.square(ratios) * (2 * S) ** 2)), len(ratios)

    def objective(log_sigma):
        found = noisy(data, k, S, np.exp(log_sigma))
        return found.squared_error / (2 * (2 * S) ** 2) + found.rate

    best = minimize_scalar(objective, (-3, 1), options={"xtol": 1e-10}).x
    np.testing.assert_allclose(learned_sigma(data, k, S), np.exp(best), rtol=1e-6)


def test_one_sigma_a_channel_is_that_of_probabilistic_pca():
    s, sigmas = 2 * DROPS_SOME, learned_sigmas(DATA, K, DROPS_SOME)
    np.testing.assert_allclose(sigmas, [s / 0.4, 1, 1])  # of standard deviations 0.4, 0.3 and 0.2 one exceeds 0.34
    closed = noisy(DATA, K, DROPS_SOME, sigmas)
    np.testing.assert_allclose(closed.encoder * closed.decoder, [1 - s**2 / 0.16, 0, 0], atol=1e-12)
    for p, _ in descended(partial(objective, s), 39, starts=2):
        encoder, decoder = unpacked(p)
        np.testing.assert_allclose(np.sort(np.exp(p[36:])), np.sort(sigmas), rtol=1e-4)
        np.testing.assert_allclose(decoder @ encoder, closed.purification.matrix, atol=1e-4)


def test_sigma_is_the_pixel_noise_over_the_mean_deviation_and_vanishes_with_it():
    for pixel_noise in (0.05, 0.005, 0.0005):
        closed = noisy(DATA, K, pixel_noise)
        np.testing.assert_allclose(closed.sigma, 2 * pixel_noise / np.mean([0.4, 0.3, 0.2]))
        np.testing.assert_allclose(closed.rate, -K * np.log(closed.sigma[0]))
        np.testing.assert_allclose(closed.squared_error, K * (2 * pixel_noise) ** 2 + VARIANCES[3:].sum())
        gain, noise = closed.encoder * closed.decoder, (closed.decoder * closed.sigma) ** 2
        np.testing.assert_allclose((1 - gain) ** 2 * VARIANCES[:3] + noise,  # of each direction: s^2 r_i sigma
                                   (2 * pixel_noise) ** 2 * np.array([0.4, 0.3, 0.2]) / np.mean([0.4, 0.3, 0.2]))
    np.testing.assert_allclose(closed.purification.matrix, pca(DATA, K).purification.matrix, atol=0.01)
    np.testing.assert_allclose(learned_sigma(DATA, K, 10.0), 1)  # nothing is worth telling, and z is the prior's


def test_given_sigma_sets_the_gain():
    closed = noisy(DATA, K, S, 2.0)
    np.testing.assert_allclose(closed.encoder * closed.decoder, 1 - 2.0 * 0.1 / np.array([0.4, 0.3, 0.2]))


UNIT = 0.15
"""Of pixels around 0.5 in which the optimal weights are of order 1, so that training has no long way to go."""


class Linear(nnx.Module):
    """As `networks.autoencoder.Autoencoder`, without anything that is not linear."""

    def __init__(self, k, sigma, rngs):
        self.down, self.up = nnx.Linear(6, k, rngs=rngs), nnx.Linear(k, 6, rngs=rngs)
        self.log_sigma = nnx.Param(jnp.log(jnp.float32(sigma)) / PACE)

    @property
    def sigma(self):
        return jnp.exp(PACE * self.log_sigma[...])

    def encode(self, x):
        return Posterior(self.down((x.reshape(-1) - 0.5) / UNIT).reshape(1, 1, -1), self.sigma)

    def decode(self, z):
        return UNIT * self.up(z.reshape(-1)).reshape(SHAPE) + 0.5


DRAWS = RANDOM.multivariate_normal(DATA.mean.ravel(), COVARIANCE, 2000, method="cholesky")
IMAGES = jnp.asarray(np.float32((DRAWS.reshape(-1, *SHAPE) + 1) / 2))
SEEN = gaussian(DRAWS.mean(0).reshape(SHAPE), np.cov(DRAWS.T, bias=True))
LABELS = jnp.zeros(2000, int)


@jax.jit
def untrained(sigma, seed):
    return pm.pure(Linear(K, sigma, nnx.Rngs(jax.random.key(seed))))


def fit(loss, sigma, seed):
    recipe = loop.Recipe(steps=600, batch=256, learning_rate=0.1, ema=0.98)
    return loop.fit(untrained(sigma, seed), loss, IMAGES, LABELS, recipe, seed).module


def test_training_reaches_the_closed_forms_sigma_from_five_starts():
    """To 2 %: what Adam's noise leaves after 600 steps; the starts are a factor of 40 apart."""
    loss, closed = autoencoders.distortion_rate(S), noisy(SEEN, K, S)
    for seed, start in enumerate((0.05, 0.2, 0.5, 1.0, 2.0)):
        module = fit(loss, start, seed)
        np.testing.assert_allclose(module.sigma, closed.sigma[0], rtol=0.02)
    matrix = (np.asarray(module.down.kernel[...]) @ np.asarray(module.up.kernel[...])).T
    np.testing.assert_allclose(matrix, closed.purification.matrix, atol=0.05)


def test_reconstruction_alone_drives_sigma_to_zero():
    """In units of the latent's deviation, for at any sigma reconstruction improves by scaling E up and D down."""
    module = fit(autoencoders.reconstruction, 0.5, 0)
    means = np.asarray(jax.jit(jax.vmap(lambda x: module.encode(x).mean))(IMAGES))
    assert float(module.sigma) / means.std() < 0.01 * noisy(SEEN, K, S).sigma[0]


def test_the_objective_is_the_closed_forms():
    """At the optimum, over the images and their noise, within 4 standard errors."""
    closed = noisy(SEEN, K, S)
    network = untrained(closed.sigma[0], 0).module
    basis, mean = SEEN.directions[:, np.argsort(-SEEN.variances)[:K]], SEEN.mean.ravel()
    unit = 2 * UNIT  # a pixel is 2 in the range [-1, 1]
    network.down.kernel[...], network.down.bias[...] = unit * basis * closed.encoder, -mean @ basis * closed.encoder
    network.up.kernel[...], network.up.bias[...] = (basis * closed.decoder).T / unit, mean / unit
    loss, keys = autoencoders.distortion_rate(S), jax.random.split(jax.random.key(0), 2000)
    values = np.asarray(jax.jit(jax.vmap(partial(loss, pm.pure(network))))(IMAGES, LABELS, keys))
    expected = (closed.squared_error / 4 + 2 * S**2 * closed.rate) / 6
    assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(2000)


WIDE = gaussian(np.zeros((8, 8, 1)), np.diag(np.linspace(0.002, 0.06, 64)))


@pytest.mark.parametrize("closed", [pca(WIDE, 16), noisy(WIDE, 16, 0.03)], ids=["pca", "noisy"])
def test_measured_rates_and_noise_are_the_closed_forms(closed):
    purifier = pm.autoencoder(closed.encode, closed.decode, closed.sigma)
    x, key, spectrum = np.full((8, 8, 1), 0.5), pm.configuration(0, 0), closed.purification.spectrum
    rms_rate, rates = jax.device_get(jax.jit(lambda x, key: (
        pm.rms_rate(pm.jacobian(purifier, x, key)), pm.expected_rates(purifier, x, key, 0.01, draws=1000).l2))(x, key))
    np.testing.assert_allclose(rms_rate, spectrum.rms_rate, rtol=1e-4)  # float32
    assert abs(rates.mean - spectrum.expected_rate) < 4 * rates.se
    n = 4000
    purified = jax.jit(jax.vmap(purifier, (None, 0)))(x, pm.configurations(0, np.arange(n)))
    spread = np.asarray(purified).var(0).sum()
    internal = spectrum.variances(0.0).internal
    assert abs(spread - internal) <= 4 * internal * np.sqrt(2 / (16 * n)) * 2  # of at least 4 equal directions


def test_pca_compresses_isotropic_perturbations_to_the_root_of_k_over_d():
    assert pca(WIDE, 16).purification.spectrum.rms_rate == np.sqrt(16 / 64)


def test_what_has_no_optimum_is_refused():
    with pytest.raises(ValueError, match=r"1\.\.6 channels has an optimum here, got k = 7"):
        pca(DATA, 7)
    with pytest.raises(ValueError, match="pixel_noise is a standard deviation in pixel units > 0, got 0"):
        noisy(DATA, 2, 0.0)
    with pytest.raises(ValueError, match="needs sigma > 0, got 0"):
        noisy(DATA, 2, 0.1, 0.0)
