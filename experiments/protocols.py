"""Robust accuracy of one defence under every protocol (compression_paper Secs. 2, 4, App. C).

Command: purimetry run protocols
Time: about 2 minutes on 2 cores of an AMD EPYC.
Expect: at DDPM, t* = 5, eps 0.2 all attacks together leave 31 % under the xi that they saw, 45 % (mean), 31 (wrong in
any of 8) and 40 (majority) under others, and EOT-15 43, 29 and 38 %: a majority of 8 draws buys 6 to 8 points, and
EOT alone is as strong as everything that was made for one xi. Judging while optimising leaves 29 % of a defence that
has 43 on average.

The first 48 images, the first sampler at the middle t*, the largest budget. An attack sees one fixed xi, a fresh one
for every gradient, or the mean of 15 fresh ones (EOT); its candidate is then judged by that xi or by 8 which it never
saw, read as the worst and the mean of them and as their majority. Judging every input while the attack still
optimises, each under a draw of its own, is the mistake that drives any random defence down. Gradients are the
defence's own, past the purifier (BPDA), or those of a surrogate with a single purification step. The attacks are the
paper's (40 steps on cross-entropy), and Square, which needs no gradient. The last row of a protocol is what all
attacks and gradients leave together.
"""

import json
from collections.abc import Iterator
from functools import partial

import numpy as np

from ..compression import samplers, schedules
from ..compression.attacks.pgd import pgd
from ..compression.attacks.square import square
from ..compression.batches import at_most
from ..compression.losses import cross_entropy, margin
from ..compression.protocol import (
    BPDA, FULL, Protocol, evaluate, expectation, fixed, fresh, transferred, while_optimising,
)
from ..compression.purifiers.diffusion import fewer_steps
from ..compression.records import Arrays, Measurement
from ..compression.types import Purifier
from .adversarial import EOT_DRAWS, TOGETHER, budget, targets
from .pieces import Piece
from .progress import bar
from .workbench import Cell, Workbench, each

TESTS = 8
"""Draws that judge a candidate which must not know them."""

QUERIES = 300
"""Of Square."""

VALUES = ("robust", "clean", "evaluations", "gradients")
"""Of `protocol.Row`, kept per image."""

SURROGATE = "one step"
"""A gradient: through one step in the place of the defence's t*."""

PROTOCOLS = (fixed(), transferred(TESTS), fresh(TESTS), expectation(EOT_DRAWS, TESTS), while_optimising(fresh()))


def gradients(bench: Workbench, cell: Cell) -> tuple[str, ...]:
    """Names of the purifiers whose Jacobians stand for the defence's; no network is asked for."""
    surrogate = cell.sampler in samplers.SAMPLERS and cell.t_star > 1 and not bench.configuration.respaced % cell.t_star
    return (*FULL, *BPDA, *([SURROGATE] if surrogate else []))


def _standing(bench: Workbench, cell: Cell, gradient: str) -> Purifier | None:
    """The purifier of that name; None is the defence itself."""
    if gradient != SURROGATE:
        return {**FULL, **BPDA}[gradient]
    coarse = schedules.respaced(schedules.linear(), bench.configuration.respaced // cell.t_star)
    return fewer_steps(bench.purifier(cell), samplers.SAMPLERS[cell.sampler](coarse, 1))


def matrix(bench: Workbench, cell: Cell, protocol: Protocol, gradient: str) -> Arrays:
    """One protocol and gradient, [rows, images]: of each attack a reading after the other, `at` says which."""

    def compute() -> Arrays:
        images, labels = targets(bench)
        attacks = {"pgd": (partial(pgd, steps=bench.configuration.paper_steps), cross_entropy)}
        if gradient == "full":
            attacks["square"] = partial(square, queries=QUERIES, horizon=QUERIES), margin
        with bar(f"{protocol.name}, {gradient} gradient") as show:
            rows = evaluate([protocol], attacks, bench.classifier, bench.purifier(cell), images, labels,
                            bench.keys()[: len(images)], budget(bench), size=at_most(TOGETHER, images),
                            gradients={gradient: _standing(bench, cell, gradient)},
                            on_segment=lambda name, done, active: show(done, name))
        values = {name: np.stack([getattr(row, name) for row in rows]) for name in VALUES}
        return {"at": np.array([json.dumps(row.at) for row in rows]), **values}

    name = f"{cell}-{protocol.name}-{gradient}".replace(",", "").replace(" ", "-")
    return bench.shard("protocols", name, compute)


def pieces(bench: Workbench) -> list[Piece]:
    """Each protocol with each gradient."""
    cell = bench.one_of_each[0]
    return [
        Piece((protocol.name, gradient), protocol.k + 2, partial(matrix, bench, cell, protocol, gradient))
        for protocol in PROTOCOLS for gradient in gradients(bench, cell)
    ]


def run(bench: Workbench) -> list[Measurement]:
    """Attack under every protocol, and join what all attacks of a protocol leave together."""
    cell, found = bench.one_of_each[0], []
    for protocol in each("protocols", list(PROTOCOLS)):
        parts = [matrix(bench, cell, protocol, gradient) for gradient in gradients(bench, cell)]
        rows = {name: np.concatenate([part[name] for part in parts]) for name in ("at", *VALUES)}
        found += _rows(bench, cell, rows)
        found += _together(bench, cell, rows)
    return bench.write("protocols", found)


def _rows(bench: Workbench, cell: Cell, rows: Arrays) -> Iterator[Measurement]:
    for at, robust, clean, evaluations, spent in zip(*rows.values(), strict=True):
        at = {**cell.at, **json.loads(str(at))}
        yield bench.mean("protocols", "robust_accuracy", 100 * robust, "%", at)
        yield bench.mean("protocols", "clean_accuracy", 100 * clean, "%", at)
        yield bench.mean("protocols", "evaluations", evaluations, "model evaluations an image", at)
        yield bench.mean("protocols", "gradients", spent, "gradients an image", at)


def _together(bench: Workbench, cell: Cell, rows: Arrays) -> Iterator[Measurement]:
    """What the strongest of all attacks and gradients leaves of each image, reading by reading."""
    coordinates = [json.loads(str(at)) for at in rows["at"]]
    for reading in dict.fromkeys(at["reading"] for at in coordinates):
        which = [i for i, at in enumerate(coordinates) if at["reading"] == reading]
        at = {**cell.at, **coordinates[which[0]], "gradient": "all", "attack": "all"}
        at |= {name: sum(coordinates[i][name] for i in which) for name in ("steps", "restarts")}
        yield bench.mean("protocols", "robust_accuracy", 100 * rows["robust"][which].min(0), "%", at)
