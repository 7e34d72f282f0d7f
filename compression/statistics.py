"""From values of images or cells to what may be said of them: intervals, ranks, tests, and how many images it takes.

NumPy in, Python numbers out. Every bootstrap is seeded, so a report is the same each time.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A statistic with its 95 % percentile-bootstrap interval, and the standard deviation over resamples."""

    value: float
    low: float
    high: float
    se: float


class Comparison(NamedTuple):
    """A test of two samples: its statistic and two-sided p-value."""

    statistic: float
    p: float


class Rise(NamedTuple):
    """The clearest rise along a curve: between which of its points, how much, and a simultaneous 95 % interval."""

    start: int
    end: int
    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[..., float], *samples: np.ndarray, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Resample rows (images, or cells) with replacement, the same rows of every sample.

    statistic: of the samples, to one number. samples: arrays of one length n >= 2 along the first axis.

    >>> bootstrap(np.mean, np.array([1.0, 1.0, 1.0]))
    Interval(value=1.0, low=1.0, high=1.0, se=0.0)
    """
    values = resampled(statistic, *samples, resamples=resamples, seed=seed)
    return percentile_interval(float(statistic(*map(np.asarray, samples))), values)


def resampled(
    statistic: Callable[..., Any], *samples: np.ndarray, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """The statistic, a number or an array, of each of `bootstrap`'s resamples, [resamples, ...].

    From one dear statistic (all cells' distances) several cheap ones follow, each with its `percentile_interval`.
    """
    samples, n = _rows(samples, 2)
    rows = np.random.default_rng(seed).integers(0, n, (resamples, n))
    return np.array([statistic(*(sample[which] for sample in samples)) for which in rows], np.float64)


def halved(
    statistic: Callable[..., Any], *samples: np.ndarray, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """The statistic of random halves of the rows, [resamples, ...]; their spread is that of the whole's statistic.

    For statistics in which a row that is drawn twice means something else, such as distances of sets: no half holds a
    row twice. The variance of a mean over a half is (1 - 1/2) / (n/2) = 1/n times that of a row, as in a bootstrap.
    """
    samples, n = _rows(samples, 4)
    random = np.random.default_rng(seed)
    halves = [random.permutation(n)[: n // 2] for _ in range(resamples)]
    return np.array([statistic(*(sample[which] for sample in samples)) for which in halves], np.float64)


def percentile_interval(value: float, values: np.ndarray) -> Interval:
    """A statistic with the 95 % interval that its resampled values [resamples] give."""
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(value), float(low), float(high), float(np.std(values, ddof=1)))


def student(values: np.ndarray) -> Interval:
    """A mean of few independent normal values, n >= 2, with Student's 95 % interval and its standard error.

    >>> [round(part, 3) for part in student(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))]
    [3.0, 1.037, 4.963, 0.707]
    """
    from scipy.special import stdtrit

    (values,), n = _rows((values,), 2)
    mean, se = float(np.mean(values)), float(np.std(values, ddof=1) / n**0.5)
    half = float(stdtrit(n - 1, 0.975)) * se
    return Interval(mean, mean - half, mean + half, se)


def row_spread(table: np.ndarray, resamples: int = 1000, seed: int = 0) -> Interval:
    """The standard deviation of rows' expectations, without what the noise of n columns adds to that of their means.

    table: [rows, columns], at least 2 each, the same columns in every row: outcomes of trainings on the same images.

    With random effects of rows and columns (as in `variance.variances`) the variance of a row's mean is sigma^2 +
    interaction / n, beside what the columns add to all rows alike; n times it over the residual mean square is
    1 + n sigma^2 / interaction times an F variable, which gives the 95 % interval. It is exact at sigma = 0, else
    wider than it need be where columns are few; 0 is what is left where the estimate of sigma^2 lies below.
    se: of resampled mean squares.

    >>> [round(part, 3) for part in row_spread(np.array([[0.0, 1.0, 0.0], [2.0, 2.0, 2.0], [4.0, 5.0, 5.0]]))]
    [2.173, 0.627, 13.692, 1.004]
    """
    from scipy.special import fdtri

    table = np.asarray(table, np.float64)
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError(f"rows spread in a table [rows, columns], at least 2 of each, got shape {table.shape}")
    rows, n = table.shape
    degrees = rows - 1, (rows - 1) * (n - 1)
    residual = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    between, noise = n * table.mean(1).var(ddof=1), (residual**2).sum() / degrees[1]
    deviation = lambda between, noise: np.sqrt(np.maximum(between - noise, 0) / n)
    low, high = (float(deviation(between / fdtri(*degrees, below), noise)) for below in (0.975, 0.025))
    drawn = [np.random.default_rng((seed, of)).chisquare(of, resamples) / of for of in degrees]
    return Interval(float(deviation(between, noise)), low, high,
                    float(np.std(deviation(between * drawn[0], noise * drawn[1]), ddof=1)))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation, ties with their mean rank; 0 where one side is constant, nan where one has nan.

    `bootstrap(spearman, a, b)` gives its interval.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 100.0, 1000.0]))
    1.0
    """
    from scipy.stats import rankdata

    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (a, b))
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale != 0 else 0.0


def log_rank(
    distance: np.ndarray, censored: np.ndarray, other: np.ndarray, other_censored: np.ndarray
) -> Comparison:
    """Whether two groups have one survival curve, from right-censored distances (Mantel 1966).

    distance, other: minimum perturbations; censored: the true one lies beyond. The statistic is standard normal if
    the curves are equal, and positive where the first group is broken earlier.

    Needs an uncensored distance that does not break the last image at risk; otherwise ValueError.

    >>> near, far = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5, 0.6])
    >>> test = log_rank(near, np.zeros(3, bool), far, np.array([False, False, True]))
    >>> test.statistic > 1.9, test.p < 0.05
    (True, True)
    """
    from scipy.stats import CensoredData, logrank

    groups = []
    for values, beyond in ((distance, censored), (other, other_censored)):
        values, beyond = np.asarray(values, np.float64), np.asarray(beyond, bool)
        if values.ndim != 1 or values.shape != beyond.shape or len(values) == 0:
            raise ValueError(f"expected two vectors of one length >= 1, got shapes {values.shape}, {beyond.shape}")
        groups.append(CensoredData(uncensored=values[~beyond], right=values[beyond]))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = logrank(*groups)
    if not np.isfinite(found.statistic):
        raise ValueError("the log-rank test has no events to compare: raise the search's limit, or use more images")
    return Comparison(float(found.statistic), float(found.pvalue))


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> Comparison:
    """Whether two samples have one distribution, by the largest difference of their distribution functions.

    Distances censored at one common limit may be given as that limit: the functions are then compared below it.

    >>> kolmogorov_smirnov(np.arange(4.0), np.arange(4.0)).statistic
    0.0
    """
    from scipy.stats import ks_2samp

    found = ks_2samp(a, b)
    return Comparison(float(found.statistic), float(found.pvalue))


def signed_rank(a: np.ndarray, b: np.ndarray) -> Comparison:
    """Whether paired values differ (Wilcoxon 1945); the statistic is the rank-biserial correlation, in [-1, 1].

    It is 1 where every a is above its b, and equal pairs are left out. Distances censored at one common limit may be
    given as that limit: the sign of a difference is right where one of the two is below it.

    >>> signed_rank(np.arange(8.0) + 1, np.arange(8.0)).statistic, signed_rank(np.ones(8), np.ones(8)).p
    (1.0, 1.0)
    """
    from scipy.stats import rankdata, wilcoxon

    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    difference = difference[difference != 0]
    if len(difference) == 0:
        return Comparison(0.0, 1.0)
    ranks = rankdata(np.abs(difference))
    return Comparison(float((ranks * np.sign(difference)).sum() / ranks.sum()), float(wilcoxon(difference).pvalue))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values of several tests, adjusted so that rejecting those below a level keeps it for all of them (Holm 1979).

    >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def clearest_rise(
    values: np.ndarray, resamples: int = 1000, seed: int = 0, *, center: Callable[..., np.ndarray] = np.mean
) -> Rise:
    """The rise of a mean curve, from one of its points to a later one, that is largest in its own standard errors.

    values: [points, n] in the order of the curve, the same n >= 2 images at every point, of which there are >= 2.
    center: of images, given the axis, to a point of the curve; np.median for the curve of a typical image.

    The interval holds for all pairs of points at once, by the bootstrap of the largest deviation of any of them, so
    that choosing the clearest is no selection. Where `low` > 0 the curve is not monotone; where `high` < 0 it falls
    everywhere; else its monotony is open.

    >>> clearest_rise(np.array([[3.0, 3.0], [1.0, 1.0], [2.0, 2.0]]))
    Rise(start=1, end=2, value=1.0, low=1.0, high=1.0)
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"a rise needs values [points, images], at least 2 of each, got shape {values.shape}")
    points, n = values.shape
    start, end = np.triu_indices(points, 1)
    rises = lambda curve: curve[..., end] - curve[..., start]
    found = rises(center(values, axis=1))
    rows = np.random.default_rng(seed).integers(0, n, (resamples, n))
    deviation = rises(center(values[:, rows], axis=2).T) - found
    se = np.maximum(deviation.std(0, ddof=1), np.finfo(float).eps * np.abs(values).max() + np.finfo(float).tiny)
    relative, best = deviation / se, (found / se).argmax()
    over, under = np.quantile(relative.max(1), 0.975), np.quantile(-relative.min(1), 0.975)
    low, high = found[best] - over * se[best], found[best] + under * se[best]
    return Rise(int(start[best]), int(end[best]), float(found[best]), float(low), float(high))


def images_to_decide(values: np.ndarray, z: float = 1.959964) -> float:
    """How many images it takes until the 95 % half-width of the mean is below the mean effect itself.

    values: the effect on each of n >= 2 images, for example a difference of two predictors. Infinite where the mean
    is 0, nan where a value is. It is itself an estimate: far below the number of images at hand, the sign is decided;
    far above, it is open.

    >>> images_to_decide(np.array([0.0, 1.0, 2.0]))
    4.0
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"a spread needs a vector of at least 2 values, got shape {values.shape}")
    mean, spread = abs(values.mean()), values.std(ddof=1)
    return float(np.floor((z * spread / mean) ** 2)) + 1.0 if mean != 0 else math.inf


def _rows(samples, least: int) -> tuple[list[np.ndarray], int]:
    samples = [np.asarray(sample) for sample in samples]
    lengths = {len(sample) for sample in samples}
    if len(lengths) != 1 or min(lengths) < least:
        raise ValueError(f"resampling needs samples of one length >= {least}, got lengths {sorted(lengths)}")
    return samples, min(lengths)
