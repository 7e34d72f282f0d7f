"""Evaluating a random defence: randomness fixed or not, transfer between configurations, EOT: App. C, Tables S2-S5.

Command: purimetry run randomness_evaluation
Time: about 3 minutes on 2 cores of an AMD EPYC.
Expect: what the paper says of large randomness, and not of small. On digits at eps 0.2 PGD under one xi leaves 42 % at
t* = 15 where its inputs leave 68 % under other xi and PGD-EOT leaves 53 %; the paper has 24, 77 and 59 % at t = 100.
At t* = 5 these are 44, 53 and 39 %: there EOT is no weaker than the "optimal" attack on one xi, and at t* <= 2 inputs
transfer all but fully. Gradients of two xi have a cosine of 0.70 at t* = 5 and 0.40 at 15 (the paper's attacks: 0.08),
EOT-15 brings it to 0.82 and 0.51. BPDA leaves 4 to 7 points more than full gradients.

The first 48 images, the first sampler, the largest budget, the paper's attack (40 steps on cross-entropy; every image
gets all of them). An attack's gradients, through every step or by BPDA, have one fixed xi, a fresh one for every
gradient, or the mean over 15 fresh ones (EOT). What it finds is judged under its own xi and under those of 7 other
base seeds, of which each image's robust share is the mean. `xi_test` says which; `k` is the number of configurations
in a gradient. Every attack runs at the middle t*, PGD with fixed xi at every t*, PGD-EOT at the largest as well.

Cosines are of the margin's gradients at clean images (cross-entropy's rounds to 0 where the true class has
probability 1), of a mean over k configurations with single other ones, which are what an attack on a fixed xi_test
would follow, and with the mean over 32 others. Table S5's "correlations between attacks" may also be read as those of
the perturbations found, so these are measured too.
"""

from collections.abc import Iterator
from functools import partial
from itertools import count, islice

import numpy as np

from ..compression.attacks.search import judge_images
from ..compression.batches import at_most, over_images
from ..compression.gradients import cosine, gradient_agreement
from ..compression.records import Arrays, Measurement
from .adversarial import BPDA, BPDA_EOT, PGD, PGD_EOT, Kind, adversaries, budget, targets
from .pieces import Piece
from .workbench import Cell, Workbench, each

KINDS = (PGD, PGD._replace(fresh=True), PGD_EOT, BPDA, BPDA._replace(fresh=True), BPDA_EOT)
"""Attacks at the middle t*."""

TESTS = 8
"""Configurations that every adversarial input is judged under."""

SIZES = (1, 2, 4, 8, 15)
"""Numbers of configurations in the EOT gradients whose cosines are measured."""

OTHERS = 32
"""Other configurations that they are compared with."""


def judged_seeds(bench: Workbench) -> list[int]:
    """Base seeds of xi_test: the run's own, which attacks use as well, then further ones."""
    seeds = list(bench.configuration.seeds)
    return seeds + list(islice(count(max(seeds) + 1), max(TESTS - len(seeds), 0)))


def clean(bench: Workbench, cell: Cell) -> np.ndarray:
    """Whether each clean image is classified correctly, [1, tests, images]."""
    compute = partial(_judged, bench, cell, targets(bench)[0])
    return bench.shard("randomness_evaluation", f"{cell}-clean", compute)["margin"][None] < 0


def robust(bench: Workbench, cell: Cell, kind: Kind) -> np.ndarray:
    """Whether each image withstands, [attacks, tests, images]; test i has the xi of attack i."""
    margins = []
    for seed in bench.configuration.seeds[: 1 if kind.fresh else None]:
        found = adversaries(bench, cell, kind, seed)
        name = f"{cell}-eps{budget(bench):g}-{kind}-seed{seed}"
        margins.append(bench.shard("randomness_evaluation", name, partial(_judged, bench, cell, found))["margin"])
    return np.stack(margins) < 0


def cosines(bench: Workbench, cell: Cell, gradient: str) -> Arrays:
    """Per image and number of configurations: cosines of mean gradients with single ones and with the expectation."""

    def compute() -> Arrays:
        images, labels = targets(bench)
        measure = partial(gradient_agreement, sizes=SIZES, others=OTHERS, view=Kind(gradient).view)
        return over_images(measure, (bench.classifier, bench.purifier(cell)), images, labels,
                           bench.keys()[: len(images)], size=at_most(16, images), name=f"gradient of {cell}")._asdict()

    return bench.shard("randomness_evaluation", f"{cell}-cosines-{gradient}", compute)


def same_and_other(robust: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per image, the mean where xi_test is xi_attack and where it is not, of [attacks, tests, images].

    >>> same_and_other(np.array([[[1.0], [2.0], [6.0]], [[3.0], [5.0], [1.0]]]))
    (array([3.]), array([3.]))
    """
    own = np.eye(*robust.shape[:2], dtype=bool)
    return robust[own].mean(0), robust[~own].mean(0)


def limit(one: np.ndarray) -> np.ndarray:
    """Cosine of each image's expected gradient with a single one, from that of two single ones, [n].

    |m|^2 / (|m|^2 + s^2) is its square, in the words of `gradient_agreement`; 0 where noise brings it below.

    >>> limit(np.array([0.25, 1.0, -0.01])).tolist()
    [0.5, 1.0, 0.0]
    """
    return np.sqrt(np.maximum(one, 0))


def pieces(bench: Workbench) -> list[Piece]:
    """Each kind of attack, and the cosines of each kind of gradient, at each t*."""
    found = []
    for cell in _cells(bench):
        kinds = _kinds(bench, cell)
        found += [Piece((cell, kind), kind.draws + 4, partial(robust, bench, cell, kind)) for kind in kinds]
        found += [Piece((cell, PGD), 1, partial(clean, bench, cell))]
        found += [Piece((cell, gradient), 4, partial(cosines, bench, cell, gradient)) for gradient in _gradients(kinds)]
    return found


def run(bench: Workbench) -> list[Measurement]:
    """Attack and compare gradients in every way at the middle t*, with fixed randomness alone at the others."""
    found = []
    for cell in each("evaluation of randomness", _cells(bench)):
        kinds = _kinds(bench, cell)
        found += _accuracy(bench, cell)
        found += [m for gradient in _gradients(kinds) for m in _cosines(bench, cell, gradient)]
        found += [m for kind in kinds for m in _attacks(bench, cell, kind)]
        found += _by_seeds(bench, cell)
        if PGD_EOT in kinds:
            found += _perturbations(bench, cell)
    return bench.write("randomness_evaluation", found)


def _cells(bench: Workbench) -> list[Cell]:
    return [cell for cell in bench.grid if cell.sampler == bench.middle_cells[0].sampler]


def _kinds(bench: Workbench, cell: Cell) -> tuple[Kind, ...]:
    if cell == bench.middle_cells[0]:
        return KINDS
    return (PGD, PGD_EOT) if cell.t_star == max(bench.configuration.t_stars) else (PGD,)


def _gradients(kinds: tuple[Kind, ...]) -> list[str]:
    return list(dict.fromkeys(kind.gradient for kind in kinds))


def _judged(bench: Workbench, cell: Cell, images: np.ndarray) -> Arrays:
    """Margins under every xi_test, [tests, images]."""
    judge = partial(judge_images, bench.classifier, bench.purifier(cell), images, targets(bench)[1])
    return {"margin": np.stack([judge(bench.keys(seed)[: len(images)]) for seed in judged_seeds(bench)])}


def _accuracy(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    for test, values in zip(("same", "other"), same_and_other(clean(bench, cell)), strict=True):
        yield _mean(bench, "clean_accuracy", 100 * values, "%", {**cell.at, "xi_test": test})


def _attacks(bench: Workbench, cell: Cell, kind: Kind) -> Iterator[Measurement]:
    same, other = same_and_other(robust(bench, cell, kind))
    optimum, _ = same_and_other(robust(bench, cell, PGD))
    at = {**cell.at, "eps": budget(bench), **kind.at, "steps": bench.configuration.paper_steps}
    if not kind.fresh:
        yield _mean(bench, "robust_accuracy", 100 * same, "%", {**at, "xi_test": "same"})
    yield _mean(bench, "robust_accuracy", 100 * other, "%", {**at, "xi_test": "other"})
    yield _mean(bench, "above_fixed_pgd", 100 * (other - optimum), "percentage points", {**at, "xi_test": "other"})


def _by_seeds(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    """Each pair of the run's seeds."""
    seeds = bench.configuration.seeds
    at = {**cell.at, "eps": budget(bench), **PGD.at, "steps": bench.configuration.paper_steps}
    for attack, tests in zip(seeds, robust(bench, cell, PGD), strict=True):
        for test, values in zip(seeds, tests[: len(seeds)], strict=True):
            yield _mean(bench, "robust_accuracy_by_seeds", 100 * values, "%",
                        {**at, "xi_attack": f"seed {attack}", "xi_test": f"seed {test}"})


def _cosines(bench: Workbench, cell: Cell, gradient: str) -> Iterator[Measurement]:
    found, at = cosines(bench, cell, gradient), {**cell.at, "gradient": gradient}
    for against, values in found.items():
        for k, column in zip(SIZES, values.T, strict=True):
            yield _mean(bench, "gradient_cosine", column, "cosine", {**at, "k": k, "against": against})
    yield _mean(bench, "gradient_cosine_limit", limit(found["fixed"][:, SIZES.index(1)]), "cosine", at)


def _perturbations(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    """Cosines of what PGD found under the first seed with what it found under the others, and with PGD-EOT's."""
    images, _ = targets(bench)
    first, *others = [adversaries(bench, cell, PGD, seed) - images for seed in bench.configuration.seeds]
    for name, found in {"PGD": others, "PGD-EOT": [adversaries(bench, cell, PGD_EOT) - images]}.items():
        if found:
            values = np.mean([over_images(cosine, (), first, other) for other in found], axis=0)
            at = {**cell.at, "eps": budget(bench), "against": name}
            yield _mean(bench, "perturbation_cosine", values, "cosine", at)


def _mean(bench: Workbench, quantity: str, values, unit: str, at: dict) -> Measurement:
    return bench.mean("randomness_evaluation", quantity, values, unit, at)
