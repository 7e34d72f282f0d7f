"""The paper's claims as hypotheses that these images can support or contradict: Eqs. 5 and 6, Secs. 3 and 5.

Command: purimetry run hypotheses
Time: 15 seconds, after `distribution` and what it joins.
Expect: (A) contradicted at eps = 0.1, where attacked images end 0.10 pixel (l2) further from their clean image, and
supported at 0.2, 0.08 closer; it is t* that decides: closer up to t* = 2, further from 10 on at 0.1. (B) supported:
distributions come closer at both budgets, and the closer, the more robust at 0.1 (-0.63), undecided at 0.2 (-0.88);
whether the rate orders purifiers better is undecided at 0.1 and hardly decided at 0.2 (-0.06 at both), for halves of
the images blur the distance's order more than the rate's, so the interval leans to the rate. (C) contradicted at 0.1: a
rank correlation of -0.69 is no law, and samplers lie 7 points apart around one sigmoid, since clean accuracy falls with
t* too; undecided at 0.2 (-0.94, 5 points). (D) contradicted: the bare classifier's survival is 12 and 23 points too
high.

Each claim says where an effect lies; it is supported or contradicted where the effect's whole 95 % bootstrap interval
over images is on one side, else undecided, with the number of images that would decide. Purifiers are those of the
grid and not resampled. Claims about distances use adversarial images of the paper's PGD; those about distributions the
kernel distance in the classifier's features, since the Fréchet distance of so few images is mostly bias. Robust
accuracy is that of the converged attack. A claim of no effect needs a bound below which an effect would not
matter: 3 percentage points here, and a rank correlation of -0.9 is what a law has to reach.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ..compression.hypothesis import Hypothesis, Verdict
from ..compression.prediction import by_survival, fit_sigmoid
from ..compression.records import Measurement
from ..compression.statistics import percentile_interval, resampled, spearman
from ..compression.survival import kaplan_meier
from .distribution import (
    IMAGES, PREDICTORS, QUANTITIES, moved_features, ordered, purified, rank_correlations, spaces,
)
from .minimum_perturbation import distances
from .pieces import Piece
from .rates import rates
from .robust_accuracy import attacked
from .verdicts import verdict
from .workbench import BARE, Cell, Workbench, each

POINTS = 3.0
"""Percentage points below which a difference in accuracy does not matter."""

LAW = -0.9
"""A rank correlation that deserves the name of a law; the paper's own 15 cells have -0.99 (Table 2)."""

RESAMPLES = 200
"""Bootstrap resamples, at most, of effects that take a fit or a survival curve for every cell."""

ATTRACTION = Hypothesis("attraction", "Purification brings an attacked image closer to its clean image (A, Eq. 5)",
                        below=0)
ALIGNMENT = Hypothesis("alignment", "Purification brings attacked images closer to the clean distribution (B, Eq. 6)",
                       below=0)
ALIGNED_ROBUST = Hypothesis("aligned_robust", "The closer to the clean distribution, the more robust (B)", below=0)
RATE_BEFORE_DISTANCE = Hypothesis(
    "rate_before_distance", "The rate orders purifiers better than the distance to the clean distribution", below=0)
LAWFUL = Hypothesis("lawful", "The lower the rate, the more robust, across samplers (C)", below=LAW)
ONE_CURVE = Hypothesis("one_curve", "One sigmoid of the rate serves all samplers (C)", below=POINTS)
CLASSIFIER_ALONE = Hypothesis("classifier_alone", "Survival of the bare classifier at the rate is robust accuracy (D)",
                              above=-POINTS, below=POINTS)
CLAIMS = (ATTRACTION, ALIGNMENT, ALIGNED_ROBUST, RATE_BEFORE_DISTANCE, LAWFUL, ONE_CURVE, CLASSIFIER_ALONE)
UNITS = {
    "attraction": "pixel (change of the l2 distance)", "alignment": "change of the kernel distance",
    "aligned_robust": "rank correlation", "rate_before_distance": "rank correlation (difference)",
    "lawful": "rank correlation", "one_curve": "percentage points between samplers",
    "classifier_alone": "percentage points (predicted - measured)",
}


def approach(clean: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Change of the l2 distance to the clean image, [n]; negative where Eq. 5 holds.

    >>> approach(np.zeros((1, 2, 2, 1)), np.ones((1, 2, 2, 1)), np.full((1, 2, 2, 1), 0.25)).tolist()
    [-1.5]
    """
    away = lambda images: np.linalg.norm((images - clean).reshape(len(clean), -1).astype(np.float64), axis=1)
    return away(after) - away(before)


def curve(rate: np.ndarray, robust: np.ndarray, samplers: np.ndarray) -> np.ndarray:
    """How far apart samplers lie from one sigmoid, then its plateau, center and width.

    rate: [n, cells]; robust: [n, cells] of 0 and 1; samplers: [cells] names. The first is the largest minus the
    smallest mean residual of a sampler, in percentage points.
    """
    x, y = rate.mean(0), 100 * robust.mean(0)
    fit = fit_sigmoid(x, y)
    residuals = [(y - fit(x))[samplers == sampler].mean() for sampler in np.unique(samplers)]
    return np.array([max(residuals) - min(residuals), *fit])


def survival_error(
    distance: np.ndarray, censored: np.ndarray, rate: np.ndarray, robust: np.ndarray, eps: float
) -> np.ndarray:
    """Signed error S(CR eps) - robust accuracy of each cell in percentage points; rate and robust: [n, cells]."""
    survival = kaplan_meier(distance, censored)
    return 100 * (np.array([by_survival(survival, cell, eps) for cell in rate.T]) - robust.mean(0))


def pieces(bench: Workbench) -> list[Piece]:
    """What the claims are judged by, where it is not there yet: each cell, and the clean images."""
    return bench.pieces([BARE, *bench.grid], _needed)


def _needed(bench: Workbench, cell: Cell) -> Iterator:
    if cell == BARE:
        yield distances(bench, cell)
        return
    for eps in bench.configuration.eps:
        yield moved_features(bench, cell, eps, spaces(bench)[0])
        yield rates(bench, cell, eps, bench.configuration.seeds[0])
        yield attacked(bench, cell, eps, "converged")


def run(bench: Workbench) -> list[Measurement]:
    """Judge every claim at every budget, over all purifiers and, where it speaks of one, by purifier."""
    judges = (_attraction, _distribution, _rates)
    settings = [(eps, judge) for eps in bench.configuration.eps for judge in judges]
    return bench.write("hypotheses", [m for eps, judge in each("claims", settings) for m in judge(bench, eps)])


def _say(bench: Workbench, found: Verdict, at: dict) -> Iterator[Measurement]:
    name = found.hypothesis.name
    yield from verdict(bench, "hypotheses", "effect", found, UNITS[name], {"claim": name, **at})


def _each(
    bench: Workbench, claim: Hypothesis, value: np.ndarray, values: np.ndarray, n: int, at: dict
) -> Iterator[Measurement]:
    """Verdicts on an effect of each cell, [cells] and resampled [resamples, cells], and on its mean over them."""
    yield from _say(bench, claim.judged(percentile_interval(value.mean(), values.mean(1)), n), at)
    for number, cell in enumerate(bench.grid):
        one = percentile_interval(value[number], values[:, number])
        yield from _say(bench, claim.judged(one, n), {**at, **cell.at})


def _attraction(bench: Workbench, eps: float) -> Iterator[Measurement]:
    images = [purified(bench, cell, eps) for cell in bench.grid]
    change = np.stack([approach(bench.images[:IMAGES], *found.values()) for found in images], 1)
    values = resampled(partial(np.mean, axis=0), change, resamples=bench.configuration.bootstrap)
    yield from _each(bench, ATTRACTION, change.mean(0), values, len(change), {"eps": eps})
    closer = 100 * (change <= 0)
    yield bench.mean("hypotheses", "closer", closer.mean(1), "% of images and purifiers", {"eps": eps})


def _distribution(bench: Workbench, eps: float) -> Iterator[Measurement]:
    space, n = spaces(bench)[0], min(IMAGES, len(bench.images))
    found = ordered(bench, eps, space)
    of = lambda quantity: (found["value"][QUANTITIES.index(quantity)], found["values"][:, QUANTITIES.index(quantity)])
    (before, befores), (after, afters) = of("kernel_before"), of("kernel")
    yield from _each(bench, ALIGNMENT, after - before, afters - befores, n, {"eps": eps})
    if len(bench.grid) < 3:
        return
    ranks = np.array([rank_correlations(one, "converged") for one in (found["value"], *found["values"])])
    distance, rate = (ranks[:, PREDICTORS.index(name)] for name in ("kernel", "rate"))
    for claim, effect in ((ALIGNED_ROBUST, distance), (RATE_BEFORE_DISTANCE, rate - distance)):
        yield from _say(bench, claim.judged(percentile_interval(effect[0], effect[1:]), n), {"eps": eps})


def _rates(bench: Workbench, eps: float) -> Iterator[Measurement]:
    c, clean, samplers = bench.configuration, distances(bench, BARE), np.array([cell.sampler for cell in bench.grid])
    rate = np.stack([rates(bench, cell, eps, c.seeds[0])["l2"] for cell in bench.grid], 1)
    robust = np.stack([attacked(bench, cell, eps, "converged")["broken_at"] < 0 for cell in bench.grid], 1)
    n, few = len(rate), min(RESAMPLES, c.bootstrap)
    for number, cell in enumerate(bench.grid):
        at = {**cell.at, "eps": eps}
        yield bench.mean("hypotheses", "rate", rate[:, number], "ratio", at)
        yield bench.mean("hypotheses", "robust_accuracy", 100 * robust[:, number], "%", at)
    error, rows = partial(survival_error, eps=eps), (clean.distance, clean.censored, rate, robust)
    yield from _each(bench, CLASSIFIER_ALONE, error(*rows), resampled(error, *rows, resamples=few), n, {"eps": eps})
    if len(bench.grid) > 2:
        rank = lambda rate, robust: spearman(rate.mean(0), robust.mean(0))
        yield from _say(bench, LAWFUL.judge(rate, robust, statistic=rank, resamples=c.bootstrap), {"eps": eps})
    if len(bench.grid) > 3 and len(set(samplers)) > 1:
        fit = partial(curve, samplers=samplers)
        value, values = fit(rate, robust), resampled(fit, rate, robust, resamples=few)
        yield from _say(bench, ONE_CURVE.judged(percentile_interval(value[0], values[:, 0]), n), {"eps": eps})
        for part, (name, unit) in enumerate((("plateau", "%"), ("center", "ratio"), ("width", "ratio")), 1):
            se = values[:, part].std(ddof=1)
            yield bench.measurement("hypotheses", f"sigmoid_{name}", value[part], se, n, unit, {"eps": eps})
