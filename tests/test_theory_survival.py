"""Survival curves and minimum perturbations against sampling, numerical derivatives and exhaustive search."""

import itertools

import numpy as np
import pytest

from purimetry.theory import survival as theory

RANDOM = np.random.default_rng(0)
WEIGHTS, BIAS, X = RANDOM.normal(size=(4, 6)), RANDOM.normal(size=4), RANDOM.normal(size=6)
LABEL = int((WEIGHTS @ X + BIAS).argmax())
MATRIX, OFFSET = RANDOM.normal(size=(6, 6)) / 3, RANDOM.normal(size=6)
ZERO, MEAN, STD = 0.06, 0.009, 0.003


def test_survival_is_that_of_draws():
    n = 20_000
    distance = np.where(RANDOM.random(n) < ZERO, 0, RANDOM.normal(MEAN, STD, n))
    for eps in (0.002, 0.009, 0.015):
        expected = theory.survival(eps, ZERO, MEAN, STD)
        assert abs((distance > eps).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    assert theory.survival(0, ZERO, MEAN, STD) == pytest.approx(1 - ZERO, abs=2e-3)  # Phi(3) = 0.9987
    assert theory.survival(1, ZERO, MEAN, STD) == 0


def test_robust_accuracy_is_survival_of_the_compressed_budget():
    np.testing.assert_array_equal(theory.robust_accuracy(np.array([0.0, 0.5]), 0.02, ZERO, MEAN, STD),
                                  theory.survival(np.array([0.0, 0.01]), ZERO, MEAN, STD))


@pytest.mark.parametrize("eps", [4 / 255, 8 / 255])
def test_logistic_has_the_midpoint_slope_and_limits_of_the_curve(eps):
    curve = lambda rate: theory.robust_accuracy(rate, eps, ZERO, MEAN, STD)
    found, h = theory.logistic(eps, ZERO, MEAN, STD), 1e-4
    assert found(found.center) == pytest.approx(curve(found.center)) == pytest.approx((1 - ZERO) / 2)
    slopes = [(f(found.center + h) - f(found.center - h)) / (2 * h) for f in (curve, found)]
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-4)  # the next term of the difference quotient, h^2 / width^2
    rates = np.linspace(-10, 10, 20_001)
    gap = curve(rates) - found(rates)
    assert np.abs(gap).max() == pytest.approx(0.0177 * (1 - ZERO), rel=5e-3)
    assert rates[gap.argmax()] == pytest.approx((MEAN - 1.73 * STD) / eps, abs=2e-3)
    assert found(-1e9) == 1 - ZERO and found(1e9) == 0
    assert 0 < curve(0.0) - found(0.0) < 0.018


def broken(points):
    return (points @ WEIGHTS.T + BIAS).argmax(1) != LABEL


def test_linear_distance_in_linf_is_where_the_first_corner_breaks():
    """A linear margin is largest at a corner of the cube, so its 64 corners stand for the whole ball."""
    distance = theory.linear_distance(WEIGHTS, BIAS, X, LABEL, np.inf)
    corners = np.array(list(itertools.product([-1.0, 1.0], repeat=6)))
    assert not broken(X + 0.9999 * distance * corners).any() and broken(X + 1.0001 * distance * corners).any()


def test_linear_distance_in_l2_is_where_the_first_gradient_breaks():
    distance = theory.linear_distance(WEIGHTS, BIAS, X, LABEL, 2)
    random = RANDOM.normal(size=(5000, 6))
    best = np.delete(WEIGHTS - WEIGHTS[LABEL], LABEL, 0)  # a linear margin is largest along its gradient
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    assert not broken(X + 0.9999 * distance * unit(np.concatenate([random, best]))).any()
    assert broken(X + 1.0001 * distance * unit(best)).any()


def composed(weights, bias, order, matrix=MATRIX):
    margins, gradients = theory.linear_rivals(weights, bias, matrix @ X + OFFSET, 0)
    return theory.composed_distance(margins, gradients, gradients @ matrix, order)


@pytest.mark.parametrize("order", [1, 2, np.inf])
def test_distance_behind_an_affine_purifier_is_that_of_the_composed_linear_classifier(order):
    for seed in range(20):
        generator = np.random.default_rng(seed)
        weights, bias = generator.normal(size=(4, 6)), np.array([4.0, 0, 0, 0])
        found = composed(weights, bias, order)
        exact = theory.linear_distance(weights @ MATRIX, weights @ OFFSET + bias, X, 0, order)
        assert found.exact == pytest.approx(exact)
        assert found.lower <= found.exact * (1 + 1e-12) and found.exact <= found.upper * (1 + 1e-12)
        two = composed(weights[:2], bias[:2], order)
        assert two.lower == pytest.approx(two.upper) == pytest.approx(two.exact)


def test_a_uniform_rate_divides_the_anchors_distance():
    """The paper's rule exactly: behind f = CR x + b a budget eps breaks if and only if CR eps breaks the anchor."""
    bias = np.array([4.0, 0, 0, 0])
    for order in (2, np.inf):
        found = composed(WEIGHTS, bias, order, 0.25 * np.eye(6))
        anchor = theory.linear_distance(WEIGHTS, bias, 0.25 * X + OFFSET, 0, order)
        np.testing.assert_allclose(found, anchor / 0.25)


def test_what_is_misclassified_needs_nothing_and_what_is_erased_cannot_be_broken():
    assert composed(WEIGHTS, np.array([-9.0, 0, 0, 0]), 2) == (0, 0, 0)
    assert composed(WEIGHTS, np.array([-9.0, 0, 0, 0]), 2, np.zeros((6, 6))) == (0, 0, 0)
    assert composed(WEIGHTS, np.array([9.0, 0, 0, 0]), 2, np.zeros((6, 6))) == (np.inf, np.inf, np.inf)


def test_many_images_at_once():
    margins, gradients = -RANDOM.random((5, 3)), RANDOM.normal(size=(5, 3, 6))
    every = theory.composed_distance(margins, gradients, gradients @ MATRIX, np.inf)
    each = [theory.composed_distance(m, g, g @ MATRIX, np.inf) for m, g in zip(margins, gradients, strict=True)]
    np.testing.assert_allclose(every, np.transpose(each))


def test_rate_along_random_gradients_is_the_rms_rate():
    gradients = RANDOM.normal(size=(20_000, 6))
    gradients /= np.linalg.norm(gradients, axis=1, keepdims=True)
    squares = theory.directional_rate(gradients, gradients @ MATRIX, 2) ** 2
    assert abs(squares.mean() - np.linalg.norm(MATRIX) ** 2 / 6) < 4 * squares.std() / np.sqrt(20_000)


def test_dual_norms_are_the_largest_products():
    gradient = RANDOM.normal(size=6)
    for order, perturbation in ((np.inf, np.sign(gradient)), (2, gradient / np.linalg.norm(gradient)),
                                (1, np.eye(6)[np.abs(gradient).argmax()] * np.sign(gradient))):
        assert theory.dual_norm(gradient, order) == pytest.approx(gradient @ perturbation)


def test_bad_shapes_and_orders_are_refused():
    with pytest.raises(ValueError, match="expected weights"):
        theory.linear_distance(WEIGHTS, BIAS[:3], X, 0, 2)
    with pytest.raises(ValueError, match="order >= 1, got 0"):
        theory.dual_norm(X, 0)


def test_a_rival_without_a_gradient_is_out_of_reach_and_of_no_account():
    margins, gradients = np.array([-1.0, -2.0]), np.array([[1.0, 1.0], [0.0, 0.0]])
    found = theory.composed_distance(margins, gradients, 0.5 * gradients, np.inf)
    assert found == theory.composed_distance(margins[:1], gradients[:1], 0.5 * gradients[:1], np.inf) == (1, 1, 1)


def test_a_margin_that_is_nan_has_no_distance():
    assert np.isnan(theory.first_order_distance(np.nan, np.ones(2), 2))
