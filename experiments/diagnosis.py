"""Why the law fails where it fails: from the paper's prediction to the measured robust accuracy, cause by cause.

Command: purimetry run diagnosis
Time: seconds, after the experiments that it joins.
Expect: nonlinearity to carry most of the error on digits. Random directions hardly feel it (the rate drifts by a few
percent over eps), but along the attack's path the margin gains more than a linear defence would give. The l_inf ratio
of random noise overshoots, and the adversarial direction takes that back.

The causes are what changes between one predictor and the next, so they add up to the whole error:
anchor_shift: survival at anchors instead of clean images. heterogeneity: each image's own rate and distance.
norm: the l_inf-to-l_inf rate instead of the l2 one. anisotropy: the rate along the margin's gradient instead of a
random direction's. nonlinearity: relinearising along the attack's path, instead of comparing with the minimum
perturbation at the anchor. residual: the converged attack instead of the extrapolated one.

Beside them stand ratios that the law takes to be 1. One says whether nonlinearity is the classifier's: its minimum
perturbation at the anchor over that of a linear classifier of the same margin and gradient. Behind CIFAR-10's
adversarially trained one it is 1.5, and its minimum perturbations promise more than it keeps behind a purifier.
"""

from collections.abc import Iterator

import numpy as np

from ..compression.prediction import image_wise
from ..compression.records import Measurement
from ..compression.statistics import bootstrap
from . import prediction
from .minimum_perturbation import distances
from .pieces import Piece
from .prediction import probes, survivors
from .rates import anchors, rates
from .robust_accuracy import attacked
from .workbench import BARE, Cell, Workbench

CAUSES = ("anchor_shift", "heterogeneity", "norm", "anisotropy", "nonlinearity", "residual")


def pieces(bench: Workbench) -> list[Piece]:
    """Those of the prediction that it takes apart."""
    return prediction.pieces(bench)


def run(bench: Workbench) -> list[Measurement]:
    """Account for the error of every cell of the grid."""
    grid = [(cell, eps) for cell in bench.cells for eps in bench.configuration.eps]
    return bench.write("diagnosis", [m for cell, eps in grid for m in _measure(bench, cell, eps)])


def chain(bench: Workbench, cell: Cell, eps: float) -> np.ndarray:
    """Whether each image withstands eps according to each predictor of the chain, [causes + 1, images]."""
    seed = bench.configuration.seeds[0]
    rate, said, anchor = rates(bench, cell, eps, seed), survivors(bench, cell, eps), distances(bench, cell)[:2]
    common = np.full(len(bench.images), rate["l2"].mean())
    return np.stack([
        image_wise(*distances(bench, BARE)[:2], common, eps),
        image_wise(*anchor, common, eps),
        said["image_wise"],
        image_wise(*anchor, rate["linf"], eps),
        said["adversarial_rate"],
        said["extrapolated_attack"],
        attacked(bench, cell, eps, "converged")["broken_at"] < 0,
    ])


def distances_over_linear(bench: Workbench, cell: Cell, eps: float) -> np.ndarray:
    """d_i over that of a linear classifier, -margin_i / ||g_i||_1 at the anchor, of each image where both are known.

    ||g_i||_1 is what the defence, linearised at the image, gains within eps, over eps and the adversarial rate; where
    [0, 1] cuts the budget that is a little less.
    """
    probe, least = probes(bench, cell, eps), distances(bench, cell)
    margin = anchors(bench, cell, bench.configuration.seeds[0])["margin"]
    gain = probe["first_order"] - margin
    known = (margin < 0) & (gain > 0) & ~least.censored
    linear = -margin[known] * eps * probe["adversarial_rate"][known] / gain[known]
    return least.distance[known] / linear


def _measure(bench: Workbench, cell: Cell, eps: float) -> Iterator[Measurement]:
    at, seed = {**cell.at, "eps": eps}, bench.configuration.seeds[0]
    changes = 100 * np.diff(chain(bench, cell, eps).astype(float), axis=0)
    for cause, change in zip(CAUSES, changes, strict=True):
        yield bench.mean("diagnosis", "contribution", change, "percentage points", {**at, "cause": cause})
    yield bench.mean("diagnosis", "measured_minus_predicted", changes.sum(0), "percentage points", at)
    probe, rate = probes(bench, cell, eps), rates(bench, cell, eps, seed)
    small = rates(bench, cell, min(bench.configuration.eps_factors) * bench.configuration.eps[0], seed)
    ratios = {
        "rate_drift": rate["l2"] / small["l2"],
        "linf_over_l2": rate["linf"] / rate["l2"],
        "adversarial_over_random": probe["adversarial_rate"] / rate["l2"],
    }
    for name, values in ratios.items():
        yield bench.mean("diagnosis", name, values, "ratio", at)
    resamples = bench.configuration.bootstrap
    if len(over := distances_over_linear(bench, cell, eps)) > 1:
        found = bootstrap(np.median, over, resamples=resamples)
        yield bench.measurement("diagnosis", "distance_over_linear", found.value, found.se, len(over), "ratio", at)
    kept = bootstrap(_ratio, probe["gained"], probe["promised"], resamples=resamples)
    yield bench.measurement("diagnosis", "gained_over_promised", kept.value, kept.se, len(bench.images), "ratio", at)


def _ratio(gained, promised) -> float:
    return float(gained.mean() / max(promised.mean(), np.finfo(np.float32).tiny))
