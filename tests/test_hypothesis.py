"""Verdicts on claims whose truth is known: outcomes by interval, error rates by simulation, and sample sizes."""

import math

import numpy as np
import pytest

import purimetry as pm
from purimetry.compression.hypothesis import Hypothesis
from purimetry.compression.statistics import images_to_decide, spearman

RANDOM = np.random.default_rng(0)
POSITIVE = Hypothesis("positive", "The effect is above 0", above=0)
NOTHING = Hypothesis("nothing", "There is hardly an effect", above=-0.5, below=0.5)


@pytest.mark.parametrize("claim, mean, outcome", [
    (POSITIVE, 1.0, "supported"), (POSITIVE, -1.0, "contradicted"), (POSITIVE, 0.01, "undecided"),
    (NOTHING, 0.1, "supported"), (NOTHING, 1.0, "contradicted"), (NOTHING, -1.0, "contradicted"),
    (NOTHING, 0.5, "undecided"),
])
def test_an_outcome_is_on_which_side_of_the_bounds_the_whole_interval_lies(claim, mean, outcome):
    noise = RANDOM.normal(0, 0.5, 100)
    verdict = claim.judge(mean + noise - noise.mean())
    assert verdict.outcome == outcome
    assert verdict.effect.value == pytest.approx(mean) and verdict.n == 100
    assert f"{claim.name}: {outcome}, effect {mean:.3g}" in str(verdict)


def test_a_claim_on_its_bound_is_decided_in_one_run_of_twenty():
    """Of 300 true effects of 0, 2.5 % to either side, give or take 4 sqrt(0.05 0.95 / 300) and 2 % for n = 40."""
    found = [POSITIVE.judge(RANDOM.normal(size=40), resamples=200).outcome for _ in range(300)]
    assert np.mean([outcome != "undecided" for outcome in found]) == pytest.approx(0.05, abs=0.05 + 0.02)


def test_that_many_images_decide_a_claim_about_a_mean():
    values = RANDOM.normal(0.1, 1.0, 400)
    # A bootstrap of 4000 knows the ends of an interval to 2 % of its half-width, and n goes with its square.
    assert POSITIVE.judge(values, resamples=4000).needed == pytest.approx(images_to_decide(values), rel=0.15)
    shifted = Hypothesis("shifted", "The effect is above 1", above=1)
    assert shifted.judge(1 + values).needed == POSITIVE.judge(values).needed
    assert POSITIVE.judge(-values).needed == pytest.approx(POSITIVE.judge(values).needed, rel=0.2)  # the other end
    assert NOTHING.judge(values).needed == pytest.approx(images_to_decide(0.5 - values), rel=0.2)
    assert POSITIVE.judge(np.array([-1.0, 1.0])).needed == math.inf
    assert "would decide" in str(POSITIVE.judge(values[:30]))


@pytest.mark.parametrize("claim", [POSITIVE, NOTHING, Hypothesis("negative", "The effect is below 0", below=0)])
def test_more_images_are_asked_for_just_where_these_do_not_decide(claim):
    for mean in np.linspace(-1, 1, 21):
        verdict = claim.judge(mean + RANDOM.normal(size=40), resamples=200)
        assert (verdict.needed > verdict.n) == (verdict.outcome == "undecided")


def three_points(n, higher, lower):
    """Effects of 100, 0 and -100 with the given chances of the first and last, and a claim that is just true."""
    just = np.nextafter(100 * (higher - lower), -np.inf)
    draw = lambda: RANDOM.choice([100.0, 0.0, -100.0], n, p=[higher, 1 - higher - lower, lower])
    return pm.Hypothesis("points", "The effect is some points", above=just), draw


@pytest.mark.parametrize("n, higher, lower", [(20, 0.06, 0.03), (48, 0.05, 0.02), (128, 0.04, 0.01)])
def test_a_just_true_claim_about_rare_images_is_seldom_contradicted(n, higher, lower):
    """2.5 % of 400, give or take 4 sqrt(0.025 0.975 / 400); resamples alone contradict 15, 7 and 4 %."""
    claim, draw = three_points(n, higher, lower)
    found = [claim.judge(draw(), resamples=200).outcome for _ in range(400)]
    assert np.mean([outcome == "contradicted" for outcome in found]) <= 0.025 + 0.031


@pytest.mark.parametrize("bound, sign", [("above", 1), ("below", -1)])
def test_one_image_on_one_side_says_nothing_of_the_other(bound, sign):
    """None of 48 was 100 points across, so up to 1 - 0.025^(1 / 48) = 7.4 % may be; of 480 fewer than 1 %."""
    claim = pm.Hypothesis("points", "The effect is some points", **{bound: 3.0 * sign})
    one = lambda n: -100.0 * sign * (np.arange(n) == 0)
    verdict, share = claim.judge(one(48)), 1 - 0.025 ** (1 / 48)
    facing = verdict.effect.high if sign > 0 else verdict.effect.low
    assert facing == pytest.approx(sign * (106 * share - 100 / 48 * (1 - share)))
    assert verdict.outcome == "undecided" and claim.judge(one(480)).outcome == "contradicted"


@pytest.mark.parametrize("claim", [POSITIVE, NOTHING])
def test_images_that_are_all_alike_decide_nothing(claim):
    """None of 48 broken images says no more than that fewer than 7 % are."""
    verdict = claim.judge(np.full(48, -1.0))
    assert verdict.outcome == "undecided" and verdict.needed == math.inf
    assert str(verdict) == f"{claim.name}: undecided, effect -1 [-1, -1], n = 48"


def test_effects_across_purifiers_are_resampled_by_image():
    rate = np.array([0.2, 0.4, 0.6]) + RANDOM.normal(0, 0.01, (50, 3))
    robust = np.array([0.9, 0.5, 0.1]) > RANDOM.random((50, 3))
    claim = Hypothesis("law", "Robust accuracy falls with the rate", below=0)
    verdict = claim.judge(rate, robust, statistic=lambda rate, robust: spearman(rate.mean(0), robust.mean(0)))
    assert verdict.outcome == "supported" and verdict.effect.value == pytest.approx(-1)


@pytest.mark.parametrize("bounds", [{}, {"above": 1, "below": 1}, {"above": 1, "below": 0}])
def test_a_claim_that_nothing_or_everything_contradicts_is_refused(bounds):
    with pytest.raises(ValueError, match="give `above`, `below`, or both"):
        pm.Hypothesis("empty", "It is what it is", **bounds)


def test_an_effect_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="effect of positive must be finite"):
        POSITIVE.judge(np.array([1.0, np.nan]))


def test_an_effect_that_no_resample_changes_decides_nothing():
    """Whether it comes as one sample of differences or as two that are paired."""
    a = np.arange(8.0)
    claim = pm.Hypothesis("same", "nothing differs", above=-0.03, below=0.03)
    difference = lambda a, b: np.mean(a) - np.mean(b)
    for verdict in (claim.judge(a, a, statistic=difference), claim.judge(a - a)):
        assert verdict.outcome == "undecided" and verdict.effect.se == 0
