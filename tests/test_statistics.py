"""Intervals, ranks, tests and sample sizes against formulas, permutations and simulated coverage."""

import itertools

import numpy as np
import pytest

from purimetry.compression import statistics

RANDOM = np.random.default_rng(0)


def test_spearman_is_the_correlation_of_ranks_and_one_minus_its_textbook_form():
    a, b = RANDOM.permutation(9).astype(float), RANDOM.permutation(9).astype(float)
    textbook = 1 - 6 * ((a - b) ** 2).sum() / (9 * (81 - 1))
    assert statistics.spearman(np.exp(a), b**3) == pytest.approx(textbook, rel=1e-12)
    assert statistics.spearman(a, -a) == pytest.approx(-1)
    assert statistics.spearman(np.array([1, 1, 2]), np.array([1, 1, 5])) == pytest.approx(1)  # ties
    assert statistics.spearman(a, np.zeros(9)) == 0


def test_bootstrap_error_of_a_mean_is_that_of_the_formula():
    values = RANDOM.normal(size=100)
    found = statistics.bootstrap(np.mean, values, resamples=4000)
    # Its expectation is the plug-in standard error; 4000 resamples know a standard deviation to 1.1 %.
    assert found.se == pytest.approx(values.std() / 10, rel=0.05)
    assert found.value == values.mean()
    np.testing.assert_allclose([found.low, found.high], values.mean() + np.array([-1.96, 1.96]) * found.se, atol=0.02)
    assert statistics.bootstrap(np.mean, values) == statistics.bootstrap(np.mean, values)


def test_halves_spread_as_the_whole_and_repeat_no_row():
    values = RANDOM.normal(size=100)
    found = statistics.halved(np.mean, values, resamples=4000)
    assert found.std() == pytest.approx(values.std(ddof=1) / 10, rel=0.05)  # 4000 know a deviation to 1.1 %
    assert (statistics.halved(lambda rows: len(np.unique(rows)), np.arange(9.0), resamples=20) == 4).all()


def test_bootstrap_intervals_cover():
    """Of 300 intervals, 95 % contain the truth, give or take 4 sqrt(0.95 0.05 / 300) and 2 % for n = 40."""
    found = [statistics.bootstrap(np.mean, RANDOM.normal(size=40), resamples=200) for _ in range(300)]
    assert np.mean([i.low < 0 < i.high for i in found]) == pytest.approx(0.95, abs=0.05 + 0.02)


def test_bootstrap_keeps_rows_together():
    a = RANDOM.normal(size=30)
    found = statistics.bootstrap(statistics.spearman, a, 2 * a, resamples=50)
    assert found.low == pytest.approx(1) and found.se < 1e-12
    assert statistics.bootstrap(statistics.spearman, a, RANDOM.normal(size=30)).se > 0.1


def mantel(x, x_censored, y, y_censored):
    """The log-rank statistic from its definition, one event time after the other."""
    observed, expected, variance = 0.0, 0.0, 0.0
    for t in np.unique(np.concatenate([x[~x_censored], y[~y_censored]])):
        in_x, at_risk = (x >= t).sum(), (x >= t).sum() + (y >= t).sum()
        events_x = ((x == t) & ~x_censored).sum()
        events = events_x + ((y == t) & ~y_censored).sum()
        observed, expected = observed + events_x, expected + events * in_x / at_risk
        if at_risk > 1:
            variance += events * in_x * (at_risk - in_x) * (at_risk - events) / (at_risk**2 * (at_risk - 1))
    return (observed - expected) / variance**0.5


def test_log_rank_is_mantels_statistic_with_ties_zeros_and_censoring():
    x, y = RANDOM.exponential(size=40).round(1), 1.5 * RANDOM.exponential(size=30).round(1)
    x[:5] = 0
    x_censored, y_censored = x > 1.5, y > 1.5
    x, y = np.minimum(x, 1.6), np.minimum(y, 1.6)
    found = statistics.log_rank(x, x_censored, y, y_censored)
    assert found.statistic == pytest.approx(mantel(x, x_censored, y, y_censored), rel=1e-9)
    swapped = statistics.log_rank(y, y_censored, x, x_censored)
    assert swapped.statistic == pytest.approx(-found.statistic) and swapped.p == pytest.approx(found.p)


def test_log_rank_rejects_the_truth_as_often_as_it_says():
    """Of 400 pairs of equal groups 5 % are rejected, give or take four standard errors of 1.1 %."""
    p = []
    for _ in range(400):
        values = RANDOM.exponential(size=(2, 40))
        censored = values > 1.2
        (x, y), (cx, cy) = np.minimum(values, 1.2), censored
        p.append(statistics.log_rank(x, cx, y, cy).p)
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.044)


def test_kolmogorov_smirnov_is_exact_for_small_samples():
    """The p-value is the fraction of all relabellings with a distance as large."""
    a, b = RANDOM.normal(size=5), RANDOM.normal(size=4) + 1
    distance = lambda x, y: max(abs((x <= t).mean() - (y <= t).mean()) for t in np.concatenate([x, y]))
    together, found = np.concatenate([a, b]), statistics.kolmogorov_smirnov(a, b)
    assert found.statistic == pytest.approx(distance(a, b))
    relabelled = [distance(together[list(c)], np.delete(together, c)) for c in itertools.combinations(range(9), 5)]
    assert found.p == pytest.approx(np.mean(np.array(relabelled) >= found.statistic - 1e-9))


def test_signed_rank_is_exact_for_small_samples():
    """The p-value is the fraction of all 2^n sign patterns with a sum of signed ranks as large."""
    a, b = RANDOM.normal(size=7) + 0.8, RANDOM.normal(size=7)
    found, ranks = statistics.signed_rank(a, b), np.argsort(np.argsort(np.abs(a - b))) + 1
    observed = (ranks * np.sign(a - b)).sum()
    sums = [(ranks * np.array(signs)).sum() for signs in itertools.product([-1, 1], repeat=7)]
    assert found.statistic == pytest.approx(observed / ranks.sum())
    assert found.p == pytest.approx(np.mean(np.abs(sums) >= abs(observed)))
    assert statistics.signed_rank(b, a).statistic == -found.statistic


def test_holm_is_the_smallest_level_at_which_his_procedure_rejects():
    p = RANDOM.random(6) ** 3
    adjusted = statistics.holm(p)

    def rejected(level):
        steps = [p[i] <= level / (6 - k) for k, i in enumerate(np.argsort(p))]
        return set(np.argsort(p)[: steps.index(False) if False in steps else 6])

    for i in range(6):
        assert i in rejected(adjusted[i] + 1e-9)
        assert adjusted[i] == 1 or i not in rejected(adjusted[i] - 1e-9)


def test_the_clearest_rise_of_a_curve_is_between_its_lowest_and_a_later_point():
    falling = np.arange(5.0, 0, -1)[:, None] + RANDOM.normal(0, 0.01, (5, 40))
    found = statistics.clearest_rise(falling)
    assert found.high < 0 and found.end == found.start + 1
    found = statistics.clearest_rise(np.array([4.0, 1.0, 2.0, 3.0, 0.0])[:, None] + RANDOM.normal(0, 0.01, (5, 40)))
    assert (found.start, found.end) == (1, 3) and found.low < 2 < found.high and found.low > 1.9


def test_the_rise_of_a_typical_image_is_not_that_of_the_mean():
    """One image of 40 that rises by 100 moves the mean by 2.5 and the median by nothing."""
    values = np.array([3.0, 2.0])[:, None] + RANDOM.normal(0, 0.01, (2, 40))
    values[1, 0] += 100
    assert statistics.clearest_rise(values).value == pytest.approx(1.5, abs=0.01)
    assert statistics.clearest_rise(values, center=np.median).high < -0.9


def test_a_flat_curve_seems_to_rise_in_at_most_one_run_of_forty():
    """The interval is two-sided, so 2.5 % of flat curves have low > 0, give or take 4 sqrt(0.025 0.975 / 300)."""
    found = [statistics.clearest_rise(RANDOM.normal(size=(6, 50)), 200, seed) for seed in range(300)]
    assert np.mean([rise.low > 0 for rise in found]) <= 0.025 + 0.036 + 0.01  # 200 resamples of 50 images


def test_that_many_images_decide():
    values = RANDOM.normal(0.2, 1.0, 500)
    n = statistics.images_to_decide(values)
    half_width = lambda n: 1.959964 * values.std(ddof=1) / n**0.5
    assert half_width(n) < values.mean() <= half_width(n - 1)
    assert statistics.images_to_decide(-values) == n and statistics.images_to_decide(10 * values) == n
    assert statistics.images_to_decide(np.array([-1.0, 1.0])) == np.inf
    assert statistics.images_to_decide(np.ones(3)) == 1


@pytest.mark.parametrize("call, message", [
    (lambda: statistics.bootstrap(np.mean, np.zeros(1)), "one length >= 2"),
    (lambda: statistics.bootstrap(statistics.spearman, np.zeros(3), np.zeros(4)), r"lengths \[3, 4\]"),
    (lambda: statistics.halved(np.mean, np.ones(3)), "one length >= 4"),
    (lambda: statistics.images_to_decide(np.ones(1)), "at least 2 values"),
    (lambda: statistics.clearest_rise(np.ones((1, 9))), r"at least 2 of each, got shape \(1, 9\)"),
    (lambda: statistics.log_rank(np.ones(2), np.ones(3, bool), np.ones(2), np.ones(2, bool)), "one length >= 1"),
    (lambda: statistics.log_rank(np.ones(2), np.ones(2, bool), np.ones(2), np.ones(2, bool)), "no events to compare"),
])
def test_what_says_nothing_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nan_stays_nan():
    values = np.array([1.0, np.nan, 2.0])
    assert np.isnan(statistics.spearman(values, np.arange(3.0))) and np.isnan(statistics.images_to_decide(values))


def test_the_largest_of_rises_without_spread_is_the_clearest():
    found = statistics.clearest_rise(np.array([[3.0, 3.0], [9.0, 9.0], [30.0, 30.0]]))
    assert (found.start, found.end, found.value) == (0, 2, 27.0)
