"""Survival curves against SciPy, fits against what they were drawn from, minimum perturbations against geometry."""

from functools import partial
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import purimetry as pm
from purimetry.experiments import minimum_perturbation
from purimetry.experiments.workbench import Cell


def censored_sample(n=60, seed=0):
    generator = np.random.default_rng(seed)
    time, limit = generator.exponential(1, n).round(1), generator.exponential(2, n).round(1)
    return np.minimum(time, limit), time > limit


def test_kaplan_meier_equals_scipy_with_censoring_and_ties():
    distance, censored = censored_sample()
    ours = pm.kaplan_meier(distance, censored)
    theirs = stats.ecdf(stats.CensoredData(uncensored=distance[~censored], right=distance[censored])).sf
    np.testing.assert_allclose(ours(theirs.quantiles), theirs.probabilities, atol=1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        band = theirs.confidence_interval(0.95, method="log-log")
    inside = (ours(theirs.quantiles) < 1) & (ours(theirs.quantiles) > 0)
    events = np.isin(theirs.quantiles, ours.at) & inside
    for mine, bound in ((ours.lower, band.low), (ours.upper, band.high)):
        expected = bound.probabilities[events]
        np.testing.assert_allclose(mine[np.isin(ours.at, theirs.quantiles[events])], expected, atol=1e-6)


def test_without_censoring_it_is_the_empirical_survival():
    distance = np.array([0.0, 0.0, 0.1, 0.3, 0.3])
    curve = pm.kaplan_meier(distance, np.zeros(5, bool))
    for eps in (0.0, 0.05, 0.1, 0.2, 0.3, 1.0):
        assert curve(eps) == pytest.approx((distance > eps).mean())
    assert curve.clean == pytest.approx(0.6)


def test_band_covers_the_truth_as_often_as_it_says():
    """At the median of an exponential, the 95 % band covers in 95 % of samples (binomial error 1.5 % over 200)."""
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        curve = pm.kaplan_meier(generator.exponential(1, 80), np.zeros(80, bool))
        step = np.searchsorted(curve.at, np.log(2), side="right") - 1
        covered += curve.lower[step] <= 0.5 <= curve.upper[step]
    assert 0.89 < covered / 200 <= 1


def test_gaussian_fit_recovers_what_it_was_drawn_from():
    generator = np.random.default_rng(0)
    distance = np.where(generator.random(4000) < 0.1, 0, generator.normal(0.3, 0.05, 4000))
    censored = distance > 0.35
    fit = pm.fit_zero_inflated_gaussian(np.minimum(distance, 0.35), censored)
    for found, true, se in zip(fit[:3], (0.1, 0.3, 0.05), fit.se, strict=True):
        assert abs(found - true) < 4 * se
        assert se < 0.01


@pytest.mark.parametrize("distance, censored", [
    (np.zeros(0), np.zeros(0, bool)), (np.zeros((2, 2)), np.zeros((2, 2), bool)), (np.zeros(3), np.zeros(2, bool)),
])
def test_kaplan_meier_refuses_other_shapes(distance, censored):
    with pytest.raises(ValueError, match="two vectors of one length"):
        pm.kaplan_meier(distance, censored)


@pytest.mark.parametrize("distance", [np.zeros(10), np.array([0.1, 0.1, 0.1, 0.2])])
def test_gaussian_needs_different_positive_distances(distance):
    with pytest.raises(ValueError, match="at least 3 different uncensored positive"):
        pm.fit_zero_inflated_gaussian(distance, np.zeros(len(distance), bool))


def test_band_of_a_curve_that_has_reached_zero_is_not_certain():
    curve = pm.kaplan_meier(np.array([0.1, 0.2, 0.3]), np.zeros(3, bool))
    assert curve.value[-1] == 0 and curve.lower[-1] == 0 and curve.upper[-1] == curve.upper[-2] > 0.5
    assert pm.kaplan_meier(np.full(3, 0.1), np.zeros(3, bool)).upper.tolist() == [1.0]


def test_minimum_perturbation_of_a_linear_classifier_is_its_distance():
    """For logits W x the l_inf distance to the boundary is -margin / ||w||_1 while the box does not bind."""
    weights = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
    images = np.random.default_rng(2).uniform(0.4, 0.6, (20, 4, 4, 1)).astype(np.float32)
    labels = np.arange(20, dtype=np.int32) % 3
    logits = images.reshape(20, -1) @ weights.T
    slopes = np.abs(weights[None] - weights[labels][:, None]).sum(-1)
    others = np.arange(3)[None] != labels[:, None]
    gap = (logits[np.arange(20), labels][:, None] - logits) / np.where(others, slopes, np.inf)
    nearest = np.where(others, gap, np.inf).min(1)
    exact = np.maximum(nearest, 0)
    attack = partial(pm.converged_pgd, steps=8, restarts=3)
    found = pm.minimum_perturbations(attack, Linear(weights), images, labels, eps_max=0.4, halvings=8)
    seen = exact < 0.35
    assert (~found.censored[seen]).all()
    # The bisection resolves 0.4 / 2^8; the search can only overestimate, but for float32 rounding.
    np.testing.assert_allclose(found.distance[seen], exact[seen], atol=0.4 / 2**8 + 1e-6)
    assert (found.distance[seen] > exact[seen] - 1e-6).all()
    reached = seen & (exact > 0)
    np.testing.assert_array_equal(found.rival[reached], np.where(others, gap, np.inf).argmin(1)[reached])


def test_minimum_perturbations_are_in_the_norm_of_the_attack_and_of_any_precision():
    """The l2 distance to the boundary of two classes is -margin / ||w||_2; float64 images give the same."""
    weights = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
    images = np.random.default_rng(2).uniform(0.4, 0.6, (6, 4, 4, 1))
    logits, labels = images.reshape(6, -1) @ weights.T, np.arange(6, dtype=np.int32) % 2
    margin = np.where(labels == 0, 1, -1) * (logits[:, 0] - logits[:, 1])
    exact = np.maximum(margin, 0) / np.linalg.norm(weights[0] - weights[1])
    search = partial(pm.minimum_perturbations, partial(pm.pgd, steps=20, step_size=0.25, norm=pm.l2), Linear(weights),
                     eps_max=1.0, halvings=8)
    found = search(images, labels)
    np.testing.assert_allclose(found.distance, exact, atol=1 / 2**8)  # what the bisection resolves
    assert (found.distance > exact - 1e-5).all() and (found.distance[margin < 0] == 0).all()  # float32
    np.testing.assert_array_equal(found.distance, search(images.astype(np.float32), labels).distance)


def test_a_minimum_perturbation_belongs_to_the_image_and_its_key():
    """Behind a random start too, wherever the image stands."""
    weights = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
    images, labels = np.random.default_rng(2).uniform(0.4, 0.6, (5, 4, 4, 1)).astype(np.float32), np.arange(5) % 3
    search = partial(pm.minimum_perturbations, partial(pm.pgd, steps=2), Linear(weights), halvings=4)
    keys = pm.configurations(3, np.arange(5))
    found, backwards = search(images, labels, keys), search(images[::-1], labels[::-1], keys[::-1])
    np.testing.assert_array_equal(found.distance, backwards.distance[::-1])


def test_at_a_tie_the_rival_is_not_the_label():
    image = np.array([0.75, 0.25], np.float32).reshape(1, 1, 2, 1)
    found = pm.minimum_perturbations(pm.converged_pgd, lambda x: 4 * x.reshape(-1), image, np.array([0]))
    assert found.rival.tolist() == [1] and found.distance == pytest.approx(0.25, abs=1e-3)


def test_what_is_never_broken_is_attacked_once_and_censored_at_the_limit():
    images = np.full((3, 2, 2, 1), 0.5, np.float32)
    attacked, done = [], []
    attack = lambda eps: attacked.append(eps) or pm.converged_pgd(eps, steps=2, restarts=1)
    found = pm.minimum_perturbations(attack, lambda x: jnp.array([2.0, 0.0]), images, np.array([0, 1, 0], np.int32),
                                     eps_max=0.25, halvings=3, on_step=done.append)
    assert done == [0.25, 0.5, 0.75, 1.0]
    assert found.censored.tolist() == [True, False, True]
    assert found.distance.tolist() == [0.25, 0.0, 0.25]
    assert found.rival.tolist() == [-1, 0, -1]


class Linear:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, x):
        return jnp.asarray(self.weights) @ x.reshape(-1)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_without_censoring_the_fit_has_the_moments_and_their_textbook_errors_at_any_scale(scale):
    distance = scale * (0.5 + 0.1 * np.random.default_rng(0).normal(size=200))
    fit = pm.fit_zero_inflated_gaussian(distance, np.zeros(200, bool))
    assert (fit.mean, fit.std) == pytest.approx((distance.mean(), distance.std()), rel=1e-4)  # where BFGS stops
    assert fit.se[1:] == pytest.approx((fit.std / 200**0.5, fit.std / 400**0.5), rel=1e-3)


def test_a_run_whose_images_are_nearly_all_broken_has_a_curve_and_no_fit(monkeypatch):
    found = np.array([0.0, 0.0, 0.1, 0.2]), np.zeros(4, bool), None
    monkeypatch.setattr(minimum_perturbation, "distances", lambda bench, cell: found)
    bench = SimpleNamespace(
        configuration=SimpleNamespace(eps=(0.05,), eps_max=0.5), mean=lambda name, quantity, *rest: quantity,
        measurement=lambda name, quantity, *rest: quantity)
    said = list(minimum_perturbation._measure(bench, Cell("ddpm", 5)))
    assert said == ["clean_accuracy", "censored", "survival"]


@pytest.mark.parametrize("bad", [np.nan, -0.1])
@pytest.mark.parametrize("estimate", [pm.kaplan_meier, pm.fit_zero_inflated_gaussian])
def test_what_is_no_distance_is_refused(estimate, bad):
    """And does not count as misclassified, or not at all."""
    with pytest.raises(ValueError, match=f"distances are >= 0, got {bad}"):
        estimate(np.array([0.0, 0.1, 0.2, 0.3, bad]), np.zeros(5, bool))
