"""Examples of clean, adversarial and purified images, ordered by compression rate: Figs. S7, S8.

Command: purimetry run examples
Time: seconds after rates and randomness_evaluation or distances, whose shards it shares; alone about 30 seconds.
Expect: nothing that the eye would call denoised: purified adversarial digits keep the strokes that the attack drew, at
a lower contrast. Images of small rate are the harder to break: on digits at t* = 5 and eps 0.2 the rank correlation of
rate and margin is 0.4 to 0.6.

The inputs that PGD found for the first 48 images, for every sampler at the middle t*, at the largest budget; images
are purified under the attack's xi, and each one's rate is its expected l2 rate at that budget. Whether images of
small rate are harder to break is said by the rank correlation of rate and margin of the purified adversarial image.
"""

from collections.abc import Iterator

import jax.numpy as jnp

from ..compression.batches import over_images
from ..compression.losses import margin
from ..compression.records import Arrays, Measurement
from ..compression.statistics import bootstrap, spearman
from .adversarial import PGD, adversaries, budget, targets
from .pieces import Piece
from .rates import rates
from .workbench import Cell, Workbench, each

KINDS = ("clean", "adversarial", "purified clean", "purified adversarial")
"""What is shown of each image, in the order of the shards' arrays."""


def examples(bench: Workbench, cell: Cell) -> Arrays:
    """Images and the classifier's answers and margins by [image, kind]; rate and label of each image."""
    found = adversaries(bench, cell, PGD)
    rate = rates(bench, cell, budget(bench), bench.configuration.seeds[0])["l2"][: len(found)]

    def compute() -> Arrays:
        clean, labels = targets(bench)
        shown = over_images(_shown, (bench.classifier, bench.purifier(cell)), clean, found, labels,
                            bench.keys()[: len(clean)], name=f"example of {cell}")
        return {**shown, "rate": rate, "label": labels}

    return bench.shard("examples", str(cell), compute)


def pieces(bench: Workbench) -> list[Piece]:
    """Every sampler at the middle t*."""
    return bench.pieces(bench.one_of_each, _measure)


def run(bench: Workbench) -> list[Measurement]:
    """Show every sampler at the middle t*."""
    cells = each("examples", bench.one_of_each)
    return bench.write("examples", [m for cell in cells for m in _measure(bench, cell)])


def _measure(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    found, at = examples(bench, cell), {**cell.at, "eps": budget(bench)}
    yield bench.mean("examples", "rate_l2", found["rate"], "ratio", at)
    for kind, right in zip(KINDS, (found["margin"] < 0).T, strict=True):
        yield bench.mean("examples", "accuracy", 100 * right, "%", {**at, "kind": kind})
    correlation = bootstrap(spearman, found["rate"], found["margin"][:, KINDS.index("purified adversarial")],
                            resamples=bench.configuration.bootstrap)
    for name, value, se in (("rank_correlation", correlation.value, correlation.se),
                            ("rank_correlation_low", correlation.low, None),
                            ("rank_correlation_high", correlation.high, None)):
        yield bench.measurement("examples", name, value, se, len(found["rate"]), "Spearman correlation", at)


def _shown(classifier, purifier, clean, adversarial, label, key):
    images = jnp.stack([clean, adversarial, purifier(clean, key), purifier(adversarial, key)])
    logits = [classifier(image) for image in images]
    return {"image": images, "answer": jnp.stack([values.argmax() for values in logits]),
            "margin": jnp.stack([margin(values, label) for values in logits])}
