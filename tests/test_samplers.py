"""Samplers and the diffusion purifier: exact limits, gradients, memory, compilations, independence of batching."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from purimetry.compression import batches, losses, randomness, samplers, schedules
from purimetry.compression.attacks.pgd import pgd
from purimetry.compression.attacks.search import attack_images
from purimetry.compression.networks.convolution import convolve
from purimetry.compression.networks.pure import blueprint, pure
from purimetry.compression.networks.unet import UNet
from purimetry.compression.purifiers.diffusion import diffusion

SCHEDULE = schedules.linear(100, 1e-3, 0.05)
SHAPE = (8, 8, 1)
UNET = pure(blueprint(partial(UNet, 1, channels=(8,), groups=4)))
IMAGES = np.random.default_rng(0).uniform(size=(64, *SHAPE)).astype(np.float32)
XIS = randomness.configurations(0, np.arange(64))
KINDS = sorted(samplers.SAMPLERS)


def _two_layers(kernels, x, t):
    return convolve(jnp.tanh(convolve(x, kernels[0]) + t / 100), kernels[1])


SMALL = Partial(_two_layers, [jax.device_put(np.random.default_rng(i).normal(size=shape) / 3)
                              for i, shape in enumerate([(3, 3, 1, 4), (3, 3, 4, 1)])])
"""A predictor that is far from linear and quick to compile."""


DRAW = np.random.default_rng(2)
STIRRED = jax.device_put(jax.tree.map(lambda leaf: 0.6 * DRAW.normal(size=leaf.shape), UNET))
"""Weights none of which are small, as initial ones of last layers are, so that its output is far from constant."""


def purify(purifier, x, xi):
    return purifier(x, xi)


def classifier(x):
    weights = jnp.sin(jnp.arange(3.0 * x.size)).reshape(x.size, 3)
    return x.reshape(-1) @ weights.astype(x.dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_steps_are_the_identity_bit_for_bit(kind):
    images = IMAGES**3  # with digits below 2^-24, which the way to [-1, 1] and back would lose
    purify_all = jax.vmap(diffusion(SMALL, samplers.SAMPLERS[kind](SCHEDULE, 0)))
    np.testing.assert_array_equal(purify_all(images, XIS), images)
    np.testing.assert_array_equal(jax.jit(purify_all)(images, XIS), images)


@pytest.mark.parametrize("schedule", [SCHEDULE, schedules.cosine(50)], ids=["linear", "cosine"])
def test_ddpm_and_ddim_coincide_at_one_step(schedule):
    """sigma_1 = 0, and both then return the predicted x_0; from two steps on they differ."""
    run = jax.jit(lambda steps, x: samplers.run(steps, SMALL, x, XIS[0]))
    at = lambda make, t_star: run(make(schedule, t_star), 2 * IMAGES[0] - 1)
    upper = partial(samplers.ddpm, sigma=samplers.beta_sigma)
    for ddpm in (samplers.ddpm, upper):
        np.testing.assert_allclose(at(ddpm, 1), at(samplers.ddim, 1), atol=2e-6)  # float32 coefficients
        assert np.abs(np.subtract(at(ddpm, 2), at(samplers.ddim, 2))).max() > 1e-3


def test_forward_process_has_the_marginal_of_the_schedule():
    """x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) N(0, I), whose sample mean and variance have known standard errors."""
    steps, n = samplers.ddim(SCHEDULE, 60), 4000
    ab = SCHEDULE.alpha_bar[60]
    xis = randomness.configurations(1, np.arange(n))
    x_t = np.asarray(jax.jit(jax.vmap(lambda xi: samplers.diffuse(steps, jnp.full(SHAPE, 0.7), xi)))(xis))
    count = x_t.size
    assert abs(x_t.mean() - np.sqrt(ab) * 0.7) < 4 * np.sqrt((1 - ab) / count)
    assert abs(x_t.var() - (1 - ab)) < 4 * (1 - ab) * np.sqrt(2 / count)


def test_reverse_only_leaves_the_image_alone_and_reverses_like_ddpm():
    reverse, ddpm = samplers.reverse_only(SCHEDULE, 7), samplers.ddpm(SCHEDULE, 7)
    np.testing.assert_array_equal(jax.jit(samplers.diffuse)(reverse, IMAGES[0], XIS[0]), IMAGES[0])
    for name in ("state", "prediction", "noise", "t", "time"):
        np.testing.assert_array_equal(getattr(reverse, name), getattr(ddpm, name))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t_star, message", [
    (-1, "counts steps of the schedule, 0..100, got -1"), (101, "0..100, got 101"), (np.nan, "0..100, got nan"),
    (0.1, "whole number of steps, got 0.1"), (10.5, "whole number of steps, got 10.5"),
])
def test_t_star_outside_the_schedule_or_as_a_fraction_is_refused(kind, t_star, message):
    with pytest.raises(ValueError, match=message):
        samplers.SAMPLERS[kind](SCHEDULE, t_star)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_float_is_a_t_star(kind):
    whole, integer = (samplers.SAMPLERS[kind](SCHEDULE, t_star) for t_star in (5.0, 5))
    jax.tree.map(np.testing.assert_array_equal, whole, integer)


def test_purification_does_not_depend_on_the_batch():
    """Bit for bit within one compiled shard size; between sizes the compiler may reorder sums (float32, 10 steps)."""
    purifier = diffusion(STIRRED, samplers.ddpm(SCHEDULE, 10))
    over = lambda n, size: batches.over_images(purify, (purifier,), IMAGES[:n], XIS[:n], size=size)
    whole = over(64, 64)
    assert 0.01 < ((whole > 0) & (whole < 1)).mean()  # not all clipped away
    for n in (1, 7):
        np.testing.assert_array_equal(over(n, 64), whole[:n])
    np.testing.assert_array_equal(over(64, 7)[:7], over(7, 7))
    for size in (1, 7):
        np.testing.assert_allclose(over(9, size), whole[:9], atol=1e-5)


def test_gradient_of_the_attack_equals_finite_differences():
    """Through classifier, clip, scan, checkpoints and UNet, in float64, where the difference is exact to 1e-8."""
    with jax.enable_x64(True):
        double = lambda tree: jax.device_put(jax.tree.map(np.float64, tree))
        purifier = diffusion(double(STIRRED), samplers.ddpm(SCHEDULE, 6))
        loss = losses.defended(classifier, purifier, jnp.int32(1), losses.cross_entropy)
        both = jax.jit(jax.value_and_grad(lambda x: loss(x, XIS[0]).ascent))
        value, x = lambda x: float(both(x)[0]), IMAGES[0].astype(np.float64)
        gradient = np.asarray(both(x)[1])
        assert gradient.dtype == np.float64
        for direction in np.random.default_rng(3).normal(size=(3, *SHAPE)):
            h = 1e-5
            central = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
            slope = (gradient * direction).sum()
            # Central differences are off by h^2 times a third derivative (1e-10) and by rounding over h (1e-11).
            np.testing.assert_allclose(central, slope, rtol=1e-7, atol=1e-8)
            assert abs(slope) > 1e-3


def test_memory_of_a_gradient_grows_only_with_the_trajectory():
    def temporary(t_star):
        ascent = lambda x, steps, network: samplers.run(steps, network, x, XIS[0]).sum()
        lowered = jax.jit(jax.grad(ascent)).lower(IMAGES[0], samplers.ddpm(SCHEDULE, t_star), UNET)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    few, kept, recomputed, many = map(temporary, (10, samplers.SHORT, samplers.SHORT + 1, 100))
    assert many < 1.5 * few
    assert many < 1.5 * recomputed
    assert kept < 10 * recomputed  # of what convolutions gave in SHORT steps


def test_what_a_gradient_keeps_does_not_change_it(monkeypatch):
    steps = samplers.ddpm(SCHEDULE, samplers.SHORT)

    def gradient():
        ascent = lambda x, network: samplers.run(steps, network, x, XIS[0]).sum()
        return jax.jit(jax.grad(ascent))(IMAGES[0], STIRRED)

    kept = gradient()
    monkeypatch.setattr(samplers, "SHORT", 0)
    recomputed = gradient()
    assert np.abs(kept).max() > 0.1
    # The same sums in another order: float32's rounding, grown through 16 steps.
    np.testing.assert_allclose(kept, recomputed, rtol=1e-4, atol=1e-5)


def test_purification_compiles_once_for_all_samplers_shards_and_seeds():
    def compilations(kind, t_star, n, seed, schedule=SCHEDULE):
        before = batches._over_shard._cache_size()
        purifier = diffusion(SMALL, samplers.SAMPLERS[kind](schedule, t_star))
        batches.over_images(purify, (purifier,), IMAGES[:n], randomness.configurations(seed, np.arange(n)), size=5)
        return batches._over_shard._cache_size() - before

    assert compilations("ddpm", 4, 5, 0) == 1
    assert not any(compilations(kind, 4, n, seed) for kind in KINDS for n, seed in ((5, 1), (12, 2), (1, 3)))
    assert compilations("ddpm", 4, 5, 0, schedules.cosine(50)) == 0
    assert compilations("ddpm", 5, 5, 0) == 1  # t* is static


def test_attack_compiles_once_for_all_budgets_samplers_shards_and_seeds():
    def compilations(kind, eps, n, seed):
        before = batches._over_shard._cache_size()
        purifier = diffusion(SMALL, samplers.SAMPLERS[kind](SCHEDULE, 2))
        attack_images(ATTACK, classifier, purifier, IMAGES[:n], np.zeros(n, int),
                      randomness.configurations(seed, np.arange(n)), eps, size=4)
        return batches._over_shard._cache_size() - before

    compilations("ddpm", 1e-4, 9, 0)
    assert [compilations(*setting) for setting in (
        ("ddpm", 2e-4, 9, 0), ("ddpm", 0.5, 9, 0), ("ddim", 1e-4, 3, 1), ("reverse", 1e-3, 6, 2))] == [0, 0, 0, 0]


ATTACK = partial(pgd, steps=2)
