"""Rates and Jacobians against linear maps, whose rates are known, and against each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import purimetry as pm
from purimetry.experiments import rates as experiment
from purimetry.experiments.configuration import Configuration
from purimetry.experiments.workbench import Cell, Workbench

KEY = pm.configuration(0, 0)
X = jnp.full((4, 4, 1), 0.5)


expected_rates = jax.jit(pm.expected_rates, static_argnames="draws")
rms_rate_hutchinson = jax.jit(pm.rms_rate_hutchinson, static_argnames="draws")


def product(matrix, x, key):
    return (matrix @ x.ravel()).reshape(x.shape)


def linear(matrix):
    return Partial(product, np.float32(matrix))


def drawn(seed):
    return np.float32(np.random.default_rng(seed).normal(size=(16, 16)) / 4)


def test_a_multiple_of_the_identity_has_its_factor_in_every_norm():
    rates = jax.device_get(expected_rates(linear(0.3 * np.eye(16)), X, KEY, 0.1, draws=8))
    # Exact in mathematics; float32 cancels in f(x + eta) - f(x), about 1e-7 / 0.03.
    np.testing.assert_allclose([rates.l2.mean, rates.linf.mean], 0.3, rtol=1e-5)
    assert rates.l2.se < 1e-5


def test_rotation_keeps_l2_and_not_linf():
    rates = jax.device_get(expected_rates(linear(np.linalg.qr(drawn(1))[0]), X, KEY, 0.1, draws=64))
    np.testing.assert_allclose(rates.l2.mean, 1, rtol=1e-5)
    assert abs(rates.linf.mean - 1) > 5 * rates.linf.se


def test_rms_rate_is_the_frobenius_norm_and_bounds_the_expected_rate():
    matrix = drawn(2)
    exact = jax.jit(pm.jacobian)(linear(matrix), X, KEY)
    np.testing.assert_allclose(exact, matrix, atol=1e-6)
    rms = float(jax.jit(pm.rms_rate)(exact))
    np.testing.assert_allclose(rms, np.linalg.norm(matrix) / 4, rtol=1e-6)
    expected = jax.device_get(expected_rates(linear(matrix), X, KEY, 0.01, draws=256).l2)
    assert expected.mean < rms + 4 * expected.se  # Jensen
    # The gap of Jensen's inequality is O(1 / effective rank): for 16 similar directions below 10 %.
    assert expected.mean > 0.9 * rms


def test_hutchinson_agrees_within_its_standard_error():
    matrix = drawn(3)
    estimate = jax.device_get(rms_rate_hutchinson(linear(matrix), X, KEY, draws=512))
    assert abs(estimate.mean - np.linalg.norm(matrix) / 4) < 4 * estimate.se
    assert 0 < estimate.se < 0.05
    assert [float(part) for part in rms_rate_hutchinson(linear(0 * matrix), X, KEY)] == [0, 0]


def test_hutchinson_standard_error_is_the_spread_of_its_estimates():
    measure = partial(pm.rms_rate_hutchinson, linear(drawn(4)), X, draws=16)
    found = jax.device_get(jax.jit(jax.vmap(measure))(pm.configurations(0, np.arange(400))))
    # The relative error of a standard deviation from 400 values is 1 / sqrt(800) = 3.5 %, and of each
    # estimate's own from 16 draws about 18 % / sqrt(400); 15 % is beyond four of both.
    np.testing.assert_allclose(found.mean.std(), found.se.mean(), rtol=0.15)


def test_adversarial_rate_of_a_linear_classifier():
    matrix, weights = drawn(5), drawn(6)[:2]
    found = jax.jit(partial(pm.adversarial_rate, lambda x: weights @ x.ravel(), linear(matrix)))(X, 0, KEY)
    gradient = weights[1] - weights[0]
    np.testing.assert_allclose(found, np.abs(matrix.T @ gradient).sum() / np.abs(gradient).sum(), rtol=1e-5)


def test_standard_error_falls_as_the_root_of_draws():
    purifier = linear(np.diag(np.linspace(0, 1, 16)))
    few, many = (float(expected_rates(purifier, X, KEY, 0.1, draws=n).l2.se) for n in (64, 1024))
    np.testing.assert_allclose(few / many, 4, rtol=0.4)  # a standard deviation from 64 values is known to 9 %


@pytest.mark.parametrize("measure", [partial(pm.expected_rates, eps=0.1), pm.rms_rate_hutchinson])
def test_one_draw_has_no_standard_error(measure):
    with pytest.raises(ValueError, match="at least 2 draws, got 1"):
        measure(linear(np.eye(16)), X, KEY, draws=1)


def test_rate_is_the_purifiers_and_not_the_probes():
    """The random probes are apart from xi: a purifier that adds the noise of its key has rate 1."""
    noisy = Partial(lambda x, key: x + jax.random.normal(key, x.shape))
    np.testing.assert_allclose(expected_rates(noisy, X, KEY, 0.1, draws=8).l2.mean, 1, rtol=1e-5)


def test_the_mean_over_seeds_and_how_far_they_lie_apart(monkeypatch):
    """Of two seeds and two images, whose numbers are known."""
    margins, l2 = {0: [-1, -1], 1: [-1, 1]}, {0: [0.2, 0.4], 1: [0.4, 0.6]}
    monkeypatch.setattr(experiment, "anchors", lambda bench, cell, seed: {"margin": np.array(margins[seed])})
    monkeypatch.setattr(experiment, "rates", lambda bench, cell, eps, seed: dict.fromkeys(("l2", "linf"),
                                                                                          np.array(l2[seed])))
    bench = object.__new__(Workbench)
    bench.configuration, bench.__dict__["_provenance"] = Configuration(seeds=(0, 1), eps=(0.1,)), {}
    found = {m.quantity: m for m in experiment._over_seeds(bench, Cell("ddim", 2))}
    assert found["rate_l2_over_seeds"].value == pytest.approx(0.4)
    assert found["rate_l2_over_seeds"].se == pytest.approx(0.1)  # of 0.3 and 0.5
    assert found["rate_l2_seed_spread"].value == pytest.approx(0.2 / 2**0.5)  # of 0.3 and 0.5
    assert found["clean_accuracy_over_seeds"].value == 75 and found["clean_accuracy_seed_spread"].n == 2
