"""Predictors against linear defences, where each of them is exact, and the extrapolation against geometric series."""

import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression.prediction import (
    by_survival, extrapolated_margin, fit_sigmoid, image_wise, linear_gain, nearest_rivals,
)

KEY = pm.configuration(0, 0)
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16)), jnp.float32)
MATRIX = jnp.asarray(np.random.default_rng(1).normal(size=(16, 16)) / 6, jnp.float32)
X = jnp.asarray(np.random.default_rng(2).uniform(0.4, 0.6, (4, 4, 1)), jnp.float32)


def classifier(x):
    return WEIGHTS @ x.ravel()


def purifier(x, key):
    return (MATRIX @ x.ravel()).reshape(x.shape)


LABEL = jnp.argmax(classifier(purifier(X, KEY)))


def exact_margins(eps):
    """Each class's largest margin within eps of X, far from the box."""
    slopes = (WEIGHTS - WEIGHTS[LABEL]) @ MATRIX
    at_x = classifier(purifier(X, KEY)) - classifier(purifier(X, KEY))[LABEL]
    return np.where(np.arange(4) == LABEL, -np.inf, at_x + eps * np.abs(slopes).sum(1))


def test_first_order_is_exact_for_the_nearest_class_of_a_linear_defence():
    found = pm.first_order_margin(classifier, purifier, X, LABEL, KEY, 0.05)
    rival = np.argmax(pm.margins(classifier(purifier(X, KEY)), LABEL))
    np.testing.assert_allclose(found, exact_margins(0.05)[rival], rtol=1e-4)


def test_linear_gain_respects_the_box():
    gradient, x = jnp.array([[[1.0, -2.0]]]), jnp.array([[[0.9, 0.05]]])
    assert linear_gain(gradient, x, x, 0.5) == pytest.approx(0.1 + 2 * 0.05)
    assert linear_gain(gradient, jnp.array([[[1.0, 0.0]]]), x, 0.5) == 0


def test_short_attack_reaches_the_optimum_of_a_linear_defence_at_once():
    rivals = jnp.array([r for r in range(4) if r != int(LABEL)])
    found = pm.short_attack(classifier, purifier, X, LABEL, KEY, 0.05, rivals)
    np.testing.assert_allclose(found.gained, found.promised, rtol=1e-3)
    np.testing.assert_allclose(found.margins[:, 1].max(), exact_margins(0.05).max(), rtol=1e-3)
    # Nothing is left to gain after the first corner, so nothing is extrapolated.
    np.testing.assert_allclose(extrapolated_margin(found.margins), exact_margins(0.05).max(), rtol=1e-3)


def test_extrapolation_is_the_limit_of_a_geometric_approach():
    """m_k = L - c r^k with r^2 = 1/2 ends at L."""
    margins = 3.0 - 8.0 * 0.5 ** (np.arange(5) / 2)
    assert extrapolated_margin(margins[None]) == pytest.approx(3.0)


def test_extrapolation_takes_the_best_rival_and_never_falls_back():
    assert extrapolated_margin(np.array([[-4, -3, -2, -5, -6.0], [-4, -5, -5, -5, -5]])) == pytest.approx(-2)


def test_adversarial_rate_predicts_a_linear_defence_image_by_image():
    """With two classes, d_i > CRadv_i eps is exactly the linear defence's robustness."""
    two = lambda x: classifier(x)[jnp.array([int(LABEL), (int(LABEL) + 1) % 4])]
    slope = WEIGHTS[(int(LABEL) + 1) % 4] - WEIGHTS[LABEL]
    anchor_margin = float(pm.margin(two(purifier(X, KEY)), jnp.int32(0)))
    distance = -anchor_margin / np.abs(slope).sum()
    rate = float(pm.adversarial_rate(purifier, two, X, jnp.int32(0), KEY))
    breaking = -anchor_margin / np.abs(slope @ MATRIX).sum()
    assert image_wise(np.array([distance]), np.array([rate]), 0.99 * breaking).all()
    assert not image_wise(np.array([distance]), np.array([rate]), 1.01 * breaking).any()


def test_survival_prediction_reads_the_curve_at_rate_times_eps():
    curve = pm.kaplan_meier(np.array([0.0, 0.1, 0.2, 0.3]), np.zeros(4, bool))
    assert by_survival(curve, np.array([0.4, 0.6]), 0.3) == 0.5
    assert by_survival(curve, np.array([0.0]), 0.3) == curve.clean


def test_nearest_rival_is_nearest_in_linf():
    slopes = np.abs(np.asarray(WEIGHTS - WEIGHTS[LABEL])).sum(1)
    x = purifier(X, KEY)
    gap = np.asarray(classifier(x)[LABEL] - classifier(x))
    expected = np.argsort(np.where(np.arange(4) == int(LABEL), np.inf, gap / np.maximum(slopes, 1e-30)))
    np.testing.assert_array_equal(nearest_rivals(classifier, x, LABEL), expected)


def test_sigmoid_fit_recovers_its_parameters():
    rates = np.linspace(0.1, 0.9, 9)
    fit = fit_sigmoid(rates, 95 / (1 + np.exp((rates - 0.5) / 0.1)))
    np.testing.assert_allclose(fit, (95, 0.5, 0.1), rtol=1e-3)
    assert fit.intercept == pytest.approx(95 / (1 + np.exp(-5)), rel=1e-3)


def test_sigmoid_needs_cells():
    with pytest.raises(ValueError, match="at least 4 cells"):
        fit_sigmoid(np.zeros(3), np.zeros(3))
