"""Robust accuracy with fixed randomness, by the paper's attack and by a converged one: Table 2 (PGD-Fix).

Command: purimetry run robust_accuracy
Time: about 7 minutes on 2 cores of an AMD EPYC; on CIFAR-10 three quarters of an hour for two samplers.
Expect: the paper's PGD-40 leaves robust accuracy several points too high on digits, 2 to 27 on CIFAR-10.

Both attacks have full gradients through every sampler step and xi_attack = xi_test. The paper's is 40 steps of
0.01/0.3 eps on cross-entropy from a uniform start; the converged one is `converged_pgd` on the margin. The bare
classifier and one cell (of large images the cheapest) are attacked again at the largest budget, where steps matter
most, with four times the steps, to check that the converged attack has converged.
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np

from ..compression.attacks.iterative import Iterative
from ..compression.attacks.pgd import converged_pgd, pgd
from ..compression.attacks.search import attack_images
from ..compression.batches import call_size
from ..compression.losses import Criterion, cross_entropy, margin
from ..compression.records import Arrays, Measurement
from .configuration import Configuration
from .pieces import Passes, Piece
from .progress import bar
from .workbench import BARE, Cell, Workbench, each

TOGETHER = 16
"""Images in one compiled call on a CPU; more would wait longer for the few that stay unbroken."""


def together(images: np.ndarray) -> int | None:
    """Images in one compiled call of an attack that they leave; None on an accelerator, where more cost little.

    Of large ones no more than `call_size` has room for: a CPU does not say that memory is full, it ends the process.
    """
    return min(TOGETHER, call_size(images)) if jax.default_backend() == "cpu" else None


STRONGER = 4
"""How many times the steps the check of convergence takes."""


def converged(configuration: Configuration, effort: int = 1) -> Callable[..., Iterative]:
    """The attack that measures robust accuracy and minimum perturbations."""
    return partial(converged_pgd, steps=effort * configuration.attack_steps, restarts=configuration.attack_restarts)


def protocols(configuration: Configuration) -> dict[str, tuple[Callable[..., Iterative], Criterion]]:
    """Attack and objective by name."""
    return {
        "paper": (partial(pgd, steps=configuration.paper_steps), cross_entropy),
        "converged": (converged(configuration), margin),
        "stronger": (converged(configuration, STRONGER), margin),
    }


def attacked(bench: Workbench, cell: Cell, eps: float, attack: str) -> Arrays:
    """Per image: margin of the strongest input, the first judged input that was misclassified, gradients spent."""

    def compute(bench: Workbench) -> Arrays:
        constructor, criterion = protocols(bench.configuration)[attack]
        with bar(f"attack {cell} eps {eps:g} ({attack})") as show:
            found = attack_images(constructor, bench.classifier, bench.purifier(cell), bench.images, bench.labels,
                                  bench.keys(), eps, criterion, together(bench.images),
                                  on_segment=lambda done, active: show(done, f"{active} images unbroken"))
        return {"margin": found.margin, "broken_at": found.broken_at, "gradients": found.gradients}

    return bench.per_image("robust_accuracy", cell, f"eps{eps:g}-{attack}", compute)


def pieces(bench: Workbench) -> list[Piece]:
    """The bare classifier, and each cell of the grid."""
    return bench.pieces([BARE, *bench.cells], _needed)


def _needed(bench: Workbench, cell: Cell) -> Iterator[Arrays]:
    for eps, attack in _attacks(bench, cell):
        yield attacked(bench, cell, eps, attack)


def passes(bench: Workbench) -> list[Passes]:
    """Through what an image goes that no attack breaks."""
    found = []
    for cell in [BARE, *bench.cells]:
        for eps, attack in _attacks(bench, cell):
            settings = protocols(bench.configuration)[attack][0](eps)
            found.append(Passes(cell, settings.restarts + 2, settings.restarts * settings.steps))
    return found


def run(bench: Workbench) -> list[Measurement]:
    """Attack every cell of the grid, and the bare classifier."""
    cells = each("robust accuracy", [BARE, *bench.cells])
    return bench.write("robust_accuracy", [m for cell in cells for m in _measure(bench, cell)])


def _measure(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    for eps, attack in _attacks(bench, cell):
        yield from _protocol(bench, cell, eps, attack)


def _attacks(bench: Workbench, cell: Cell) -> Iterator[tuple[float, str]]:
    """Budgets and attacks of a cell."""
    checked = (bench.cells if bench.large else bench.one_of_each)[0]
    for eps in bench.configuration.eps:
        hardest = cell in (BARE, checked) and eps == max(bench.configuration.eps)
        for attack in ("paper", "converged", *(["stronger"] if hardest else [])):
            yield eps, attack


def _protocol(bench: Workbench, cell: Cell, eps: float, attack: str) -> Iterator[Measurement]:
    found, at = attacked(bench, cell, eps, attack), {**cell.at, "eps": eps, "attack": attack}
    broken_at = found["broken_at"]
    yield bench.mean("robust_accuracy", "robust_accuracy", 100 * (broken_at < 0), "%", at)
    yield bench.mean("robust_accuracy", "gradients", found["gradients"], "gradients an image", at)
    settings = protocols(bench.configuration)[attack][0](eps)
    for judged in _checkpoints(settings.restarts * (settings.steps + 1)):
        robust = (broken_at < 0) | (broken_at > judged)
        yield bench.mean("robust_accuracy", "robust_accuracy_by_iterate", 100 * robust, "%", {**at, "iterates": judged})


def _checkpoints(last: int) -> list[int]:
    return sorted({0, *np.unique(np.geomspace(1, last, 16).astype(int)).tolist()})
