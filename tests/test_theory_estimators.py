"""Every estimator of `compression` against theory, to within its own standard error, in dimensions from 2 to 3072.

The purifiers are real ones, `diffusion` with the optimal noise predictor of low-rank data, in pixels.
"""

from functools import partial

import jax
import numpy as np
import pytest
from jax.tree_util import Partial

import purimetry as pm
from purimetry.compression.samplers import SAMPLERS
from purimetry.theory import low_rank, survival

SHAPES = {2: (1, 2, 1), 64: (8, 8, 1), 3072: (32, 32, 3)}
RANKS = {2: 1, 64: 8, 3072: 40}
SCHEDULE = pm.respaced(pm.linear(), 100)
EPS = 8 / 255
KEY = pm.configuration(0, 0)

# Purifiers and classifiers are pytrees, so the samplers share one program a shape.
expected_rates = jax.jit(pm.expected_rates, static_argnames="draws")
rms_rate_hutchinson = jax.jit(pm.rms_rate_hutchinson, static_argnames="draws")
jacobian = jax.jit(pm.jacobian)
adversarial_rate = jax.jit(pm.adversarial_rate)
apply = jax.jit(lambda purifier, x: purifier(x, KEY))


def logits(weights, bias, x):
    return weights @ x.reshape(-1) + bias


def linear(weights, bias):
    return Partial(logits, np.float32(weights), np.float32(bias))


def purifier_of(d, kind="ddpm", t_star=10):
    """A purifier, its closed form, and an image whose outputs stay clear of the clip to [0, 1]."""
    generator = np.random.default_rng(d)
    mean = generator.uniform(-0.1, 0.1, SHAPES[d])
    data = low_rank.low_rank(mean, generator.normal(size=(d, RANKS[d])), 0.05, 0.001)
    steps = SAMPLERS[kind](SCHEDULE, t_star)
    purifier = pm.diffusion(low_rank.noise_predictor(data, SCHEDULE), steps)
    x = (low_rank.sample(data, 1, generator)[0] + 1) / 2
    purified = np.asarray(apply(purifier, x))
    assert 0.1 < purified.min() and purified.max() < 0.9
    return purifier, low_rank.purification(data, SCHEDULE, steps), x


def over_the_square(closed):
    """E ||J eta|| / ||eta|| for eta uniform in a square, by its angle: each of 4 sides is a tangent in [-1, 1]."""
    side = np.linspace(-1, 1, 20_002)[:-1] + 1e-4 / 2  # midpoints
    etas = np.concatenate([np.stack([np.ones_like(side), side]), np.stack([side, np.ones_like(side)])], axis=1)
    on = closed.data.basis.T @ etas
    square = np.square(closed.along.gain)
    total = (etas**2).sum(0)
    return np.sqrt((square[0] * on[0] ** 2 + square[1] * (total - on[0] ** 2)) / total).mean()


@pytest.mark.parametrize("d, draws", [(2, 4000), (64, 1000), (3072, 200)])
@pytest.mark.parametrize("kind", sorted(SAMPLERS))
def test_expected_rate(kind, d, draws):
    purifier, closed, x = purifier_of(d, kind)
    found = jax.device_get(expected_rates(purifier, x, KEY, EPS, draws=draws).l2)
    # In two dimensions uniform noise is far from isotropic, so it is integrated; in 64 and more its kurtosis changes
    # Jensen's gap by about 0.6 k / d of itself, which is below the standard error.
    exact = over_the_square(closed) if d == 2 else closed.spectrum.expected_rate
    assert abs(found.mean - exact) < 4 * found.se + 1e-5  # float32, of outputs near 0.5 that differ by 0.01
    assert 0 < found.se < 0.02 * exact
    assert closed.spectrum.expected_rate < closed.spectrum.rms_rate


@pytest.mark.parametrize("d, draws", [(2, 1000), (64, 300), (3072, 30)])
@pytest.mark.parametrize("kind", sorted(SAMPLERS))
def test_hutchinsons_rms_rate(kind, d, draws):
    purifier, closed, x = purifier_of(d, kind)
    found = jax.device_get(rms_rate_hutchinson(purifier, x, KEY, draws=draws))
    assert abs(found.mean - closed.spectrum.rms_rate) < 4 * found.se + 1e-5  # float32
    assert 0 < found.se < 0.05 * closed.spectrum.rms_rate


def test_the_two_rates_differ_by_jensens_gap_and_an_estimator_can_tell():
    """64 dimensions, 1 on the manifold: the gap is over 10 standard errors, so neither rate passes for the other."""
    generator = np.random.default_rng(0)
    data = low_rank.low_rank(np.zeros((8, 8, 1)), generator.normal(size=(64, 1)), 0.05, 1e-6)
    steps = pm.ddpm(SCHEDULE, 10)
    purifier = pm.diffusion(low_rank.noise_predictor(data, SCHEDULE), steps)
    spectrum = low_rank.purification(data, SCHEDULE, steps).spectrum
    x = np.full((8, 8, 1), 0.5, np.float32)
    found = jax.device_get(expected_rates(purifier, x, KEY, EPS, draws=2000).l2)
    # Uniform noise along one random direction of 64 has the excess kurtosis -1.2 * 3 / 64, which changes E |z|, and
    # with it the rate, by a 24th of that, 0.23 %.
    assert abs(found.mean - spectrum.expected_rate) < 4 * found.se + 0.003 * spectrum.expected_rate
    assert spectrum.rms_rate - spectrum.expected_rate > 10 * found.se


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("kind", sorted(SAMPLERS))
def test_jacobian_and_its_rms_rate(kind, d):
    purifier, closed, x = purifier_of(d, kind)
    found = jacobian(purifier, x, KEY)
    on = closed.data.basis @ closed.data.basis.T
    expected = closed.along.gain[0] * on + closed.along.gain[1] * (np.eye(d) - on)
    np.testing.assert_allclose(found, expected, atol=2e-6)  # float32, 10 steps
    np.testing.assert_allclose(pm.rms_rate(found), closed.spectrum.rms_rate, rtol=1e-5)


@pytest.mark.parametrize("d", SHAPES)
@pytest.mark.parametrize("kind", sorted(SAMPLERS))
def test_adversarial_rate_of_a_linear_classifier(kind, d):
    purifier, closed, x = purifier_of(d, kind)
    weights = np.random.default_rng(1).normal(size=(2, d))
    found = adversarial_rate(linear(weights, np.zeros(2)), purifier, x, 0, KEY)
    gradient = weights[1] - weights[0]
    pulled = closed.jacobian_product(gradient.reshape(x.shape)).ravel()
    exact = survival.directional_rate(gradient, pulled, np.inf)
    np.testing.assert_allclose(found, exact, rtol=1e-4)  # float32, sums of d terms


@pytest.mark.parametrize("d", [2, 3072])
def test_minimum_perturbation_of_the_defence_is_the_anchors_over_its_adversarial_rate(d):
    purifier, closed, x = purifier_of(d, t_star=2)
    generator = np.random.default_rng(2)
    images = x + generator.uniform(-0.02, 0.02, (4, *x.shape)).astype(np.float32)
    anchors = np.stack([apply(purifier, image) for image in images])
    weights = generator.normal(size=(2, d))
    gradient = weights[1] - weights[0]
    pulled = closed.jacobian_product(gradient.reshape(x.shape)).ravel()
    # The bias puts the boundary at an l_inf distance of 0.05 from the first image, measured through the purifier.
    bias = np.array([gradient @ anchors[0].ravel() + 0.05 * np.abs(pulled).sum(), 0.0])
    classifier, labels = linear(weights, bias), np.zeros(len(images), np.int32)
    attack = partial(pm.converged_pgd, steps=4, restarts=1)
    found = pm.minimum_perturbations(attack, lambda x: classifier(purifier(x, KEY)), images, labels,
                                     eps_max=0.1, halvings=5)
    for image, anchor, distance in zip(images, anchors, found.distance, strict=True):
        margins, gradients = survival.linear_rivals(weights, bias, anchor, 0)
        exact = survival.composed_distance(margins, gradients, pulled[None], np.inf).exact
        # The bisection resolves 0.1 / 2^5; logits are float32 of size sqrt(d), over a slope of size d.
        assert abs(distance - exact) < 0.1 / 2**5 + 1e-5
        rate = float(adversarial_rate(classifier, purifier, image, 0, KEY))
        of_anchor = survival.linear_distance(weights, bias, anchor, 0, np.inf)
        assert of_anchor / rate == pytest.approx(exact, rel=1e-3)  # the margin is a difference of larger float32
