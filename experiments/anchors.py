"""Are minimum perturbations at anchors distributed as at clean images? Fig. S1, App. B.

Command: purimetry run anchors
Time: seconds, after the minimum perturbations that it compares.
Expect: medians within 9 % of the clean one (0.089 pixel) in every cell and no test that finds the distributions
different (that of the pairs does in one cell, p = 0.04), as the paper says; for 9 of 15 cells 128 images suffice to say
that the median stays within 10 %. It is the distribution that stays: the rank correlation between an image's distance
and its anchor's falls to 0.62 to 0.75 at t* = 15.

The paper calls the two distributions qualitatively similar where clean accuracy is. Per cell: the shift of the median
with a bootstrap of the images, which keeps each image and its anchor together; log-rank and Kolmogorov-Smirnov tests of
the two distributions as if the samples were independent, which is conservative since they are paired; and Wilcoxon's
signed-rank test of the pairs. p-values of each test are adjusted for all cells (Holm). Not to find a difference is not
to find that there is none, so each cell is also asked whether its median stays within 10 % of the clean one.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..compression.hypothesis import Hypothesis, Verdict
from ..compression.records import Measurement
from ..compression.statistics import (
    Comparison, Interval, bootstrap, holm, kolmogorov_smirnov, log_rank, signed_rank, spearman,
)
from ..compression.survival import MinimumPerturbations
from .minimum_perturbation import distances
from .pieces import Piece
from .verdicts import interval, verdict
from .workbench import BARE, Cell, Unmet, Workbench

TOLERANCE = 0.1
"""How far the median may move, relative to the clean one, for two distributions to count as alike."""

TESTS = ("log_rank", "kolmogorov_smirnov", "signed_rank")


class Shift(NamedTuple):
    """From clean images to the anchors of one cell: of the median, of the pairs, of the distribution."""

    median: Interval
    of_medians: Verdict
    of_pairs: Interval
    tests: dict[str, Comparison]
    spearman: Interval


def compare(anchors: MinimumPerturbations, clean: MinimumPerturbations, tolerance: float, resamples: int) -> Shift:
    """Minimum perturbations at anchors against those at the same images; tolerance in pixel units."""
    a, b = anchors.distance.astype(np.float64), clean.distance.astype(np.float64)
    alike = Hypothesis("alike", "The median stays where it is", above=-tolerance, below=tolerance)
    return Shift(
        bootstrap(np.median, a, resamples=resamples),
        alike.judge(a, b, statistic=lambda a, b: np.median(a) - np.median(b), resamples=resamples),
        bootstrap(np.median, a - b, resamples=resamples),
        {"log_rank": log_rank(a, anchors.censored, b, clean.censored), "kolmogorov_smirnov": kolmogorov_smirnov(a, b),
         "signed_rank": signed_rank(a, b)},
        bootstrap(spearman, a, b, resamples=resamples),
    )


def pieces(bench: Workbench) -> list[Piece]:
    """The minimum perturbations that are compared, where they are not there yet."""
    return bench.pieces([BARE, *bench.grid], distances)


def run(bench: Workbench) -> list[Measurement]:
    """Compare the anchors of every cell with the clean images; Unmet where these have no distance to speak of."""
    c, clean = bench.configuration, distances(bench, BARE)
    if np.median(clean.distance) == 0:
        raise Unmet("the bare classifier errs on half of the clean images as they are, so that shifts have nothing to "
                    "be compared with; give a better classifier")
    tolerance = max(TOLERANCE * np.median(clean.distance), c.eps_max / 2**9)  # no finer than the search resolves
    shifts = {cell: compare(distances(bench, cell), clean, float(tolerance), c.bootstrap) for cell in bench.grid}
    adjusted = {test: holm(np.array([shift.tests[test].p for shift in shifts.values()])) for test in TESTS}
    median = bootstrap(np.median, clean.distance, resamples=c.bootstrap)
    found = [*interval(bench, "anchors", "median", median, len(clean.distance), "pixel", BARE.at)]
    for number, (cell, shift) in enumerate(shifts.items()):
        found += _measure(bench, cell, shift, {test: adjusted[test][number] for test in TESTS})
    return bench.write("anchors", found)


def _measure(bench: Workbench, cell: Cell, shift: Shift, adjusted: dict[str, float]) -> Iterator[Measurement]:
    right, before = distances(bench, cell).distance > 0, distances(bench, BARE).distance > 0
    n, at = len(right), cell.at
    yield bench.mean("anchors", "clean_accuracy", 100 * right, "%", at)
    yield bench.mean("anchors", "accuracy_shift", 100 * (right.astype(float) - before), "percentage points", at)
    yield from interval(bench, "anchors", "median", shift.median, n, "pixel", at)
    yield from verdict(bench, "anchors", "median_shift", shift.of_medians, "pixel", at)
    yield from interval(bench, "anchors", "paired_shift", shift.of_pairs, n, "pixel", at)
    yield from interval(bench, "anchors", "spearman", shift.spearman, n, "rank correlation", at)
    emit = lambda quantity, value, unit: bench.measurement("anchors", quantity, value, None, n, unit, at)
    for test in TESTS:
        yield emit(test, shift.tests[test].statistic, "test statistic")
        yield emit(f"{test}_p", shift.tests[test].p, "p-value")
        yield emit(f"{test}_p_adjusted", adjusted[test], "p-value")
