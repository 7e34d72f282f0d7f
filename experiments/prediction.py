"""Robust accuracy predicted without an attack, beside the attack's: Fig. 3a, Tables 3, 4, and predictors of our own.

Command: purimetry run prediction
Time: about 3 minutes on 2 cores of an AMD EPYC, after the experiments that it joins.
Expect: the paper's predictors 16 points too high on digits, the extrapolated short attack off by 0.7 on average, by at
most 3.1 in 29 of 30 cells and by 3.9 in the other, for a tenth of the gradients that the attack spends. On CIFAR-10
the paper's at anchors off by 4 on average, at clean images by 22, the extrapolated attack by 0.7.

Predictors, each against the converged attack with xi_attack = xi_test:
survival_clean, survival_anchor: the paper's S(CR eps) at clean images and at anchors, CR the mean l2 rate.
image_wise: d_i > CR_i eps, with each image's own anchor and rate.
adversarial_rate: d_i > CRadv_i eps, the rate along the gradient of the margin at the anchor; one product.
first_order: the defence linearised at the image, within the budget and [0, 1]; one gradient.
short_attack: at most eight gradient steps towards each of at most three rival classes, one after another, until the
image is broken or out of reach; taken at its word.
extrapolated_attack: the same, its second half counted twice (ours).
The rivals are those to which the bare classifier is driven furthest at the anchor within CR_i eps, so they cost
gradients of the classifier alone.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from ..compression.batches import over_images
from ..compression.prediction import (
    CANDIDATES, RIVALS, SEGMENT, STEP_SIZES, by_survival, extrapolated_margin, fit_sigmoid, image_wise, likely_rivals,
    linear_margin, short_attack,
)
from ..compression.rates import pulled_back
from ..compression.records import Arrays, Measurement
from ..compression.statistics import spearman
from ..compression.survival import kaplan_meier
from .minimum_perturbation import distances
from .pieces import Passes, Piece
from .rates import anchors, rates
from .robust_accuracy import attacked, together
from .workbench import BARE, Cell, Workbench, each

GRADIENTS = {
    "survival_clean": 0, "survival_anchor": 0, "image_wise": 0, "adversarial_rate": 1, "first_order": 1,
    "short_attack": RIVALS * len(STEP_SIZES), "extrapolated_attack": RIVALS * len(STEP_SIZES),
}
"""Predictors in order, with the gradients through the purifier that each spends on an image at most."""


def probes(bench: Workbench, cell: Cell, eps: float) -> Arrays:
    """Per image: adversarial rate, first-order margin, and of the short attack margins, gradients, promise and gain."""

    def compute(bench: Workbench) -> Arrays:
        shared, keys, seed = (bench.classifier, bench.purifier(cell)), bench.keys(), bench.configuration.seeds[0]
        images, labels, budget = bench.images, bench.labels, np.full(len(bench.images), eps, np.float32)
        compressed = np.asarray(eps * rates(bench, cell, eps, seed)["l2"], np.float32)
        rivals = over_images(likely_rivals, shared[:1], anchors(bench, cell, seed)["anchor"], labels, compressed)
        found = short_attack(*shared, images, labels, keys, eps, rivals, together(images))
        rate, margin = over_images(_first_order, shared, images, labels, keys, budget, name="first order")
        return {"adversarial_rate": rate, "first_order": margin, **found._asdict()}

    return bench.per_image("prediction", cell, f"eps{eps:g}-probes", compute)


def _first_order(classifier, purifier, x, label, key, eps):
    """The adversarial rate and the margin of the linearised defence, which share their gradient."""
    found = pulled_back(classifier, purifier, x, label, key)
    return found.rate, linear_margin(found, x, eps)


def survivors(bench: Workbench, cell: Cell, eps: float) -> Arrays:
    """Per predictor that speaks of single images: which it says withstand eps."""
    seed = bench.configuration.seeds[0]
    probe, rate = probes(bench, cell, eps), rates(bench, cell, eps, seed)
    threshold = distances(bench, cell)[:2]
    clean = anchors(bench, cell, seed)["margin"] < 0
    return {
        "image_wise": image_wise(*threshold, rate["l2"], eps),
        "adversarial_rate": image_wise(*threshold, probe["adversarial_rate"], eps),
        "first_order": probe["first_order"] < 0,
        "short_attack": probe["margins"].max((1, 2)) < 0,
        "extrapolated_attack": clean & (extrapolated_margin(probe["margins"]).max(1) < 0),
    }


class Evidence:
    """Everything predictions of the whole grid depend on, so that a bootstrap can resample its images.

    cells: the grid's unless told. spent, attack: gradients of each image, by a predictor and by the converged attack,
        means over the grid.
    """

    def __init__(self, bench: Workbench, cells: Sequence[Cell] | None = None):
        seed, cells = bench.configuration.seeds[0], bench.cells if cells is None else cells
        self.grid = [(cell, eps) for cell in cells for eps in bench.configuration.eps]
        self.n = len(bench.images)
        self.measured = np.stack([attacked(bench, *at, "converged")["broken_at"] < 0 for at in self.grid])
        self.attack = np.mean([attacked(bench, *at, "converged")["gradients"] for at in self.grid], 0)
        short = np.mean([probes(bench, *at)["gradients"] for at in self.grid], 0)
        self.spent = {**{name: np.full(self.n, most) for name, most in GRADIENTS.items()},
                      "short_attack": short, "extrapolated_attack": short}
        self.rates = np.stack([rates(bench, *at, seed)["l2"] for at in self.grid])
        self.clean = distances(bench, BARE)
        self.anchors = {cell: distances(bench, cell) for cell in cells}
        said = [survivors(bench, *at) for at in self.grid]
        self.said = {name: np.stack([s[name] for s in said]) for name in said[0]}
        self.clean_accuracy = np.stack([anchors(bench, cell, seed)["margin"] < 0 for cell in cells])

    def predicted(self, predictor: str, images: np.ndarray) -> np.ndarray:
        """Robust accuracy (%) of every cell as predicted from a (re)sample of the images."""
        if predictor in self.said:
            return 100 * self.said[predictor][:, images].mean(1)
        curve = lambda found: kaplan_meier(found.distance[images], found.censored[images])
        if predictor == "survival_clean":
            curves = dict.fromkeys(self.anchors, curve(self.clean))
        else:
            curves = {cell: curve(found) for cell, found in self.anchors.items()}
        return np.array([
            100 * by_survival(curves[cell], rate[images], eps)
            for (cell, eps), rate in zip(self.grid, self.rates, strict=True)
        ])

    def robust(self, images: np.ndarray) -> np.ndarray:
        """Measured robust accuracy (%) of every cell on a (re)sample of the images."""
        return 100 * self.measured[:, images].mean(1)


def pieces(bench: Workbench) -> list[Piece]:
    """The probes of each cell of the grid, and what they are joined with where it is not there yet."""
    return bench.pieces([BARE, *bench.cells], _needed)


def _needed(bench: Workbench, cell: Cell) -> Iterator[Arrays]:
    if cell != BARE:
        yield from _probe(bench, cell)
        for eps in bench.configuration.eps:
            yield attacked(bench, cell, eps, "converged")
    yield distances(bench, cell)


def _probe(bench: Workbench, cell: Cell) -> Iterator[Arrays]:
    for eps in bench.configuration.eps:
        yield probes(bench, cell, eps)


def passes(bench: Workbench) -> list[Passes]:
    """Through what an image goes: the defence, and for the choice of rivals the classifier alone."""
    gradients = GRADIENTS["first_order"] + GRADIENTS["short_attack"]  # the other two come with these
    bare = Passes(BARE, 1 + CANDIDATES, 1 + CANDIDATES * len(STEP_SIZES))
    return [found for cell in bench.cells for _ in bench.configuration.eps
            for found in (Passes(cell, RIVALS * len(STEP_SIZES) // SEGMENT, gradients), bare)]


def run(bench: Workbench) -> list[Measurement]:
    """Predict and score every cell of the grid."""
    for cell in each("probes", bench.cells):
        deque(_probe(bench, cell), maxlen=0)
    evidence = Evidence(bench)
    generator = np.random.default_rng(0)
    samples = generator.integers(0, evidence.n, (bench.configuration.bootstrap, evidence.n))
    again = {name: np.stack([evidence.predicted(name, images) for images in samples])
             for name in each("resamples", list(GRADIENTS))}
    scores = [m for name in GRADIENTS for m in _scores(bench, evidence, name, samples, again[name])]
    return bench.write("prediction", [*_cells(bench, evidence, again), *scores,
                                      *_sigmoids(bench, evidence, samples[:200])])


def _cells(bench: Workbench, evidence: Evidence, resampled: dict[str, np.ndarray]) -> Iterator[Measurement]:
    """Measured and predicted; a prediction's error is that of resamples, since its rate is the same images' too."""
    everyone, n = np.arange(evidence.n), evidence.n
    predictions = {name: evidence.predicted(name, everyone) for name in GRADIENTS}
    for i, (cell, eps) in enumerate(evidence.grid):
        at = {**cell.at, "eps": eps}
        yield bench.mean("prediction", "measured_robust_accuracy", 100 * evidence.measured[i], "%", at)
        for name, values in predictions.items():
            se = resampled[name][:, i].std(ddof=1)
            yield bench.measurement("prediction", "predicted_robust_accuracy", values[i], se, n, "%",
                                    {**at, "predictor": name})


def _scores(
    bench: Workbench, evidence: Evidence, name: str, samples: np.ndarray, resampled_predicted: np.ndarray
) -> Iterator[Measurement]:
    everyone, n, at = np.arange(evidence.n), evidence.n, {"predictor": name}
    predicted, robust = evidence.predicted(name, everyone), evidence.robust(everyone)
    resampled_robust = np.stack([evidence.robust(images) for images in samples])
    found, resampled = predicted - robust, resampled_predicted - resampled_robust
    spread = lambda values: values.std(ddof=1)
    points = "percentage points"
    absolute = np.abs(resampled).mean(1)
    emit = lambda quantity, value, se, unit, at=at: bench.measurement("prediction", quantity, value, se, n, unit, at)
    yield emit("mean_absolute_error", np.abs(found).mean(), spread(absolute), points)
    yield emit("mean_absolute_error_low", np.quantile(absolute, 0.025), None, points)
    yield emit("mean_absolute_error_high", np.quantile(absolute, 0.975), None, points)
    yield emit("mean_absolute_error_by_chance", by_chance(resampled), None, points)
    yield emit("largest_error", np.abs(found).max(), spread(np.abs(resampled).max(1)), points)
    yield emit("bias", found.mean(), spread(resampled.mean(1)), points)
    for eps in bench.configuration.eps:
        chosen = np.array([e == eps for _, e in evidence.grid])
        yield emit("mean_absolute_error", np.abs(found[chosen]).mean(),
                   spread(np.abs(resampled[:, chosen]).mean(1)), points, {**at, "eps": eps})
    ranks = np.array(list(map(spearman, resampled_predicted, resampled_robust)))
    yield emit("spearman", spearman(predicted, robust), spread(ranks), "1")
    yield emit("spearman_low", np.quantile(ranks, 0.025), None, "1")
    yield emit("spearman_high", np.quantile(ranks, 0.975), None, "1")
    if name in evidence.said:
        agree = 100 * (evidence.said[name] == evidence.measured).mean(0)
        yield bench.mean("prediction", "agreement", agree, "% of images", at)
    yield bench.mean("prediction", "gradients", evidence.spent[name], "gradients an image", at)
    cost = lambda images: 100 * evidence.spent[name][images].mean() / max(1, evidence.attack[images].mean())
    yield emit("cost", cost(everyone), spread(np.array([cost(images) for images in samples])),
               "% of the converged attack's gradients")


def by_chance(resampled: Float[np.ndarray, "resamples cells"]) -> float:
    """The mean absolute error that so few images show of a predictor whose errors over all images are 0.

    resampled: its errors in each cell, from images drawn anew with replacement.

    >>> errors = np.random.default_rng(0).normal(loc=5, scale=2, size=(100_000, 3))
    >>> round(by_chance(errors) / (2 * (2 / np.pi) ** 0.5), 2)
    1.0
    """
    return float(np.abs(resampled - resampled.mean(0)).mean())


def _sigmoids(bench: Workbench, evidence: Evidence, samples: np.ndarray) -> Iterator[Measurement]:
    if len(bench.cells) < 4:
        return
    everyone = np.arange(evidence.n)
    for eps in bench.configuration.eps:
        chosen = np.array([e == eps for _, e in evidence.grid])
        fit = lambda images: fit_sigmoid(evidence.rates[chosen][:, images].mean(1), evidence.robust(images)[chosen])
        found, resampled = fit(everyone), [fit(images) for images in samples]
        for part, unit in (("plateau", "%"), ("center", "ratio"), ("width", "ratio"), ("intercept", "%")):
            se = np.std([getattr(s, part) for s in resampled], ddof=1)
            value = getattr(found, part)
            yield bench.measurement("prediction", f"sigmoid_{part}", value, se, evidence.n, unit, {"eps": eps})
        clean = 100 * evidence.clean_accuracy.mean(0)
        yield bench.mean("prediction", "mean_clean_accuracy", clean, "%", {"eps": eps})
