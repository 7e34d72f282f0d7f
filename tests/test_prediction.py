"""Predictors against linear defences, where each of them is exact, and the extrapolation against geometric series."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression.prediction import (
    CANDIDATES, RIVALS, SEGMENT, STEP_SIZES, by_survival, extrapolated_margin, fit_sigmoid, image_wise, likely_rivals,
    linear_gain,
)

KEY = pm.configuration(0, 0)
WEIGHTS = np.float32(np.random.default_rng(0).normal(size=(4, 16)))
MATRIX = np.float32(np.random.default_rng(1).normal(size=(16, 16)) / 6)
X = np.float32(np.random.default_rng(2).uniform(0.4, 0.6, (4, 4, 1)))


def classifier(x):
    return WEIGHTS @ x.ravel()


def purifier(x, key):
    return (MATRIX @ x.ravel()).reshape(x.shape)


LABEL = int(classifier(purifier(X, KEY)).argmax())


def exact_margins(eps):
    """Each class's largest margin within eps of X, far from the box."""
    slopes = (WEIGHTS - WEIGHTS[LABEL]) @ MATRIX
    at_x = classifier(purifier(X, KEY)) - classifier(purifier(X, KEY))[LABEL]
    return np.where(np.arange(4) == LABEL, -np.inf, at_x + eps * np.abs(slopes).sum(1))


def test_first_order_is_exact_for_the_nearest_class_of_a_linear_defence():
    found = jax.jit(partial(pm.first_order_margin, classifier, purifier))(X, LABEL, KEY, 0.05)
    np.testing.assert_allclose(found, exact_margins(0.05)[exact_margins(0.0).argmax()], rtol=1e-4)


def test_linear_gain_respects_the_box():
    gradient, x, gain = np.array([[[1.0, -2.0]]]), np.array([[[0.9, 0.05]]]), jax.jit(linear_gain)
    assert float(gain(gradient, x, x, 0.5)) == pytest.approx(0.1 + 2 * 0.05)
    assert float(gain(gradient, np.array([[[1.0, 0.0]]]), x, 0.5)) == 0


def attacked(eps, classifier=classifier, purifier=purifier, rivals=None):
    """The short attack on X."""
    rivals = [r for r in range(4) if r != LABEL] if rivals is None else rivals
    return pm.short_attack(classifier, purifier, X[None], np.array([LABEL]), pm.configurations(0, np.zeros(1, int)),
                           eps, np.array([rivals]))


def test_short_attack_reaches_the_optimum_of_a_linear_defence_at_once():
    found = attacked(0.05)
    np.testing.assert_allclose(found.gained, found.promised, rtol=1e-3)
    np.testing.assert_allclose(found.margins[:, :, 1].max(), exact_margins(0.05).max(), rtol=1e-3)
    # Nothing is left to gain after the first corner, so nothing is extrapolated.
    np.testing.assert_allclose(extrapolated_margin(found.margins).max(), exact_margins(0.05).max(), rtol=1e-3)


def breaking(rival):
    """The budget at which a class overtakes the true one of the linear defence."""
    slope = (WEIGHTS[rival] - WEIGHTS[LABEL]) @ MATRIX
    logits = classifier(purifier(X, KEY))
    return float((logits[LABEL] - logits[rival]) / np.abs(slope).sum())


def test_an_image_leaves_the_short_attack_when_it_is_broken():
    order = sorted((r for r in range(4) if r != LABEL), key=breaking)
    eps = 1.01 * breaking(order[0])
    assert attacked(eps, rivals=order).gradients == SEGMENT
    assert attacked(eps, rivals=order).margins.max() >= 0
    missed = attacked(eps, rivals=order[1:2])
    assert missed.gradients == 2 * SEGMENT and missed.margins.max() < 0  # the second segment gains nothing


def test_an_image_leaves_the_short_attack_when_it_is_out_of_reach():
    flat = lambda x, key: purifier(X, key) + 0.01 * (purifier(x, key) - purifier(X, key))
    found = attacked(0.05, purifier=flat)
    assert found.gradients == 2 * SEGMENT  # half a path
    assert (found.margins[0, 1:] == found.margins[0, 0, 0]).all()  # steps that were not taken
    near = attacked(0.9 * min(map(breaking, {*range(4)} - {LABEL})))
    assert near.gradients == RIVALS * 2 * SEGMENT  # near, but a linear defence gains nothing after the first corner


def test_an_image_takes_all_steps_while_they_gain():
    """The margin's maximum lies inside the budget, so that steps cross it and come back until they are small."""
    optimum = X + 0.1 * np.random.default_rng(4).uniform(-1, 1, X.shape)
    peaked = lambda x: jnp.array([0.0, -0.001 - jnp.sum((x - optimum) ** 2)])
    found = pm.short_attack(peaked, pm.identity, X[None], np.array([0]), pm.configurations(0, np.arange(1)),
                            0.1, np.array([[1]]))
    assert found.gradients == len(STEP_SIZES) and -0.003 < found.margins.max() < 0


def test_an_image_that_is_wrong_already_costs_the_first_steps_only():
    wrong = lambda x: -classifier(x)
    found = attacked(0.05, classifier=wrong)
    assert (found.margins[:, :, 0] >= 0).all() and found.gradients == SEGMENT


def test_a_short_attack_on_an_image_does_not_depend_on_the_others():
    """They leave at different times, each from its own budget and towards its own rivals."""
    bent = lambda x: jnp.tanh(WEIGHTS @ x.ravel()) + jnp.sin(3 * WEIGHTS[::-1] @ x.ravel())
    n, xis = 12, pm.configurations(0, np.arange(12))
    images = np.random.default_rng(5).uniform(0.3, 0.7, (n, 4, 4, 1)).astype(np.float32)
    labels = np.asarray(jax.jit(jax.vmap(lambda x: bent(purifier(x, KEY))))(images)).argmax(1)
    labels[3] = (labels[3] + 1) % 4  # which is wrong already
    rivals = np.array([[r for r in np.roll(range(4), i) if r != label] for i, label in enumerate(labels)])
    eps = np.linspace(0.002, 0.05, n).astype(np.float32)
    together = pm.short_attack(bent, purifier, images, labels, xis, eps, rivals, size=4)
    assert len(set(together.gradients.tolist())) > 3
    for i in range(n):
        one = slice(i, i + 1)
        alone = pm.short_attack(bent, purifier, images[one], labels[one], xis[one], eps[one], rivals[one], size=4)
        for name, values in alone._asdict().items():
            np.testing.assert_array_equal(values[0], getattr(together, name)[i], err_msg=name)


@pytest.mark.parametrize("change, message", [
    ({"eps": 8.0}, "eps"),
    ({"rivals": np.zeros(2, int)}, r"\[2 images, at least 1\], got shape \(2,\)"),
    *(({"rivals": np.array([[1], [other]])}, "classes from 0 to 3 other than the label, got labels or other numbers "
       "among them; take those of likely_rivals") for other in (0, -1, 4)),
    ({"labels": np.array([0, 9])}, "labels"),
    ({"images": np.full((2, 4, 4, 1), 255.0, np.float32)}, r"\[0, 1\]"),
    ({"purifier": lambda x, key: x[:2]}, "shape"),
])
def test_a_short_attack_refuses_what_it_cannot_mean(change, message):
    given = dict(classifier=classifier, purifier=purifier, images=np.full((2, 4, 4, 1), 0.5, np.float32),
                 labels=np.zeros(2, int), keys=pm.configurations(0, np.arange(2)), eps=0.1, rivals=np.ones((2, 2), int))
    with pytest.raises(ValueError, match=message):
        pm.short_attack(**{**given, **change})


def test_likely_rivals_are_the_candidates_that_a_linear_classifier_can_be_driven_to_furthest():
    """Ranked by the margin after the whole budget, which is known; a class below the candidates is not tried."""
    weights = np.random.default_rng(3).normal(size=(8, 16))
    weights[7] *= 30  # reached furthest, had it a chance
    shift = np.array([4.0, 1.5, 1.2, 1.0, 0.8, 0.6, 0.2, -40.0])
    offset, slopes = np.float32(weights @ np.full(16, -0.5) + shift), np.float32(weights)
    many = lambda x: offset + slopes @ x.ravel()
    x, eps = np.full((4, 4, 1), 0.5, np.float32), 0.3
    np.testing.assert_allclose(many(x), shift, atol=1e-4)
    reach = shift - shift[0] + eps * np.abs(weights - weights[0]).sum(1)
    candidates = np.arange(1, CANDIDATES + 1)
    expected = candidates[np.argsort(-reach[candidates])][:RIVALS].tolist()
    assert jax.jit(partial(likely_rivals, many))(x, 0, eps).tolist() == expected
    assert expected != candidates[:RIVALS].tolist() and reach[7] == reach.max()
    two = lambda x: classifier(x)[:2]
    assert jax.jit(partial(likely_rivals, two))(X, 0, eps).tolist() == [1]


def test_extrapolation_is_the_limit_of_a_geometric_approach():
    """m_k = L - c r^k with r^4 = 1/2 ends at L."""
    margins = 3.0 - 8.0 * 0.5 ** (np.arange(9) / 4)
    assert extrapolated_margin(margins) == pytest.approx(3.0)


def test_extrapolation_never_falls_back():
    assert extrapolated_margin(np.array([-4, -3, -2, -5, -6.0])) == pytest.approx(-2)


def test_adversarial_rate_predicts_a_linear_defence_image_by_image():
    """With two classes, d_i > CRadv_i eps is exactly the linear defence's robustness."""
    two = lambda x: classifier(x)[np.array([LABEL, (LABEL + 1) % 4])]
    slope = WEIGHTS[(LABEL + 1) % 4] - WEIGHTS[LABEL]
    anchor_margin = float(jax.jit(pm.margin)(two(purifier(X, KEY)), 0))
    distance = -anchor_margin / np.abs(slope).sum()
    rate = float(jax.jit(partial(pm.adversarial_rate, two, purifier))(X, 0, KEY))
    breaking = -anchor_margin / np.abs(slope @ MATRIX).sum()
    seen = np.array([distance]), np.array([False])
    assert image_wise(*seen, np.array([rate]), 0.99 * breaking).all()
    assert not image_wise(*seen, np.array([rate]), 1.01 * breaking).any()
    never = np.array([distance]), np.array([True])
    assert image_wise(*never, np.array([rate]), 1.01 * breaking).all()


def test_survival_prediction_reads_the_curve_at_rate_times_eps():
    curve = pm.kaplan_meier(np.array([0.0, 0.1, 0.2, 0.3]), np.zeros(4, bool))
    assert by_survival(curve, np.array([0.4, 0.6]), 0.3) == 0.5
    assert by_survival(curve, np.array([0.0]), 0.3) == curve.clean


def test_sigmoid_fit_recovers_its_parameters():
    rates = np.linspace(0.1, 0.9, 9)
    fit = fit_sigmoid(rates, 95 / (1 + np.exp((rates - 0.5) / 0.1)))
    np.testing.assert_allclose(fit, (95, 0.5, 0.1), rtol=1e-3)
    assert fit.intercept == pytest.approx(95 / (1 + np.exp(-5)), rel=1e-3)


def test_sigmoid_needs_cells():
    with pytest.raises(ValueError, match="at least 4 cells"):
        fit_sigmoid(np.zeros(3), np.zeros(3))


def test_a_rate_that_is_nan_predicts_nothing():
    curve, rates = pm.kaplan_meier(np.array([0.1, 0.2]), np.zeros(2, bool)), np.array([0.5, np.nan])
    with pytest.raises(ValueError, match="rates hold nan, first in row 1"):
        pm.by_survival(curve, rates, 0.1)
    with pytest.raises(ValueError, match="rates hold nan, first in row 1"):
        pm.image_wise(np.array([0.1, 0.2]), np.zeros(2, bool), rates, 0.1)
    with pytest.raises(ValueError, match="distances hold nan, first in row 1"):
        pm.image_wise(rates, np.zeros(2, bool), np.array([0.5, 0.5]), 0.1)


@pytest.mark.parametrize("eps", [0.0, -0.1, np.nan, np.inf])
def test_a_budget_that_is_none_predicts_nothing(eps):
    distance, rates, seen = np.array([0.0, 0.2]), np.array([0.5, 0.5]), np.zeros(2, bool)
    with pytest.raises(ValueError, match="eps is a budget above 0"):
        pm.by_survival(pm.kaplan_meier(distance, seen), rates, eps)
    with pytest.raises(ValueError, match="eps is a budget above 0"):
        pm.image_wise(distance, seen, rates, eps)


def test_a_budget_beyond_the_search_is_warned_of():
    """Unless nothing survives the search, for then nothing does beyond it."""
    censored = pm.kaplan_meier(np.full(4, 0.05), np.ones(4, bool))
    with pytest.warns(UserWarning, match="compressed budget 0.9 is larger than any that was tried, 0.05"):
        assert pm.by_survival(censored, np.ones(4), 0.9) == 1
    assert pm.by_survival(pm.kaplan_meier(np.full(4, 0.05), np.zeros(4, bool)), np.ones(4), 0.9) == 0
    assert pm.by_survival(censored, np.ones(4), 0.04) == 1


@pytest.mark.parametrize("times, withstands", [(0.98, True), (1.02, False)])
def test_our_predictor_is_exact_for_a_linear_defence(times, withstands):
    """Up to the budget that breaks it, and for an image that is wrong as it is, at any."""
    others = np.arange(4) != LABEL
    at_x, at_one = exact_margins(0.0)[others], exact_margins(1.0)[others]
    breaking = np.min(-at_x / (at_one - at_x))
    images, labels = np.stack([X, X]), np.array([LABEL, (LABEL + 1) % 4])
    found = pm.predict_images(classifier, purifier, images, labels, pm.configurations(0, range(2)), times * breaking)
    assert found.withstands.tolist() == [withstands, False]
    assert (found.gradients <= RIVALS * len(STEP_SIZES)).all()
