"""Checks before any robust accuracy is believed: of the bare classifier and of each sampler at the middle t*.

Command: purimetry run preflight
Time: under a minute on 2 cores of an Intel Xeon.
Expect: all 56 checks of digits find nothing, or one warns of a single image (the networks are the machine's own), as do
the 56 of CIFAR-10 at t* = 2.

Robustness claims of purification defences have been overturned because randomness was not fixed, gradients were
masked, attacks did not converge, or budgets, times and normalisations were mixed up. `purimetry.preflight` looks for
each of these, with the converged attack at the largest budget on the first 32 images (8 of large ones). An error
forbids to believe a number, a warning asks for a look; both are said when they are found, and are in the report.
"""

import json
import warnings
from collections.abc import Iterator

import numpy as np

from ..compression.preflight import preflight
from ..compression.records import Arrays, Measurement
from .adversarial import budget
from .pieces import Passes, Piece
from .progress import bar
from .robust_accuracy import converged
from .workbench import BARE, Cell, Workbench, each

CHECKED, CHECKED_LARGE = 32, 8
"""Images that are checked, the first of the run's, if they are small, and if they are large."""

ATTACKS, QUERIES = 4, 300
"""Of an image by preflight: attacks through the purifier (three budgets, another xi), queries without gradients."""


def count(bench: Workbench) -> int:
    """How many images are checked."""
    return min(CHECKED_LARGE if bench.large else CHECKED, len(bench.images))


def checked(bench: Workbench, cell: Cell) -> Arrays:
    """What was found, as JSON, and the names of the checks that found nothing and that could not be made."""

    n = count(bench)

    def compute() -> Arrays:
        with bar(f"preflight of {cell}") as show:
            found = preflight(bench.classifier, bench.purifier(cell), bench.images[:n], bench.labels[:n],
                              bench.keys()[:n], budget(bench), attack=converged(bench.configuration),
                              on_check=lambda name: show(0, name))
        flaws = [json.dumps({"check": f.check, "outcome": f.severity, "found": str(f)}) for f in found.found]
        return {"found": np.array(flaws, str), "passed": np.array(found.passed, str),
                "skipped": np.array(found.skipped, str)}

    return bench.shard("preflight", str(cell), compute)


def defences(bench: Workbench) -> list[Cell]:
    """What is checked."""
    return [BARE, *bench.one_of_each]


def pieces(bench: Workbench) -> list[Piece]:
    """Each defence; no measurement reads what is found, so none waits for it."""
    return [piece._replace(program=("preflight", piece.program)) for piece in bench.pieces(defences(bench), checked)]


def passes(bench: Workbench) -> list[Passes]:
    """Through what an image goes, on average over those that are checked and those that are not."""
    share, settings = count(bench) / len(bench.images), converged(bench.configuration)(0.0)
    effort = settings.restarts * settings.steps
    through = [Passes(cell, QUERIES * share, ATTACKS * effort * share) for cell in defences(bench)]
    return [*through, *(len(through) - 1) * [Passes(BARE, 0, effort * share)]]


def run(bench: Workbench) -> list[Measurement]:
    """Check every defence, and warn of what is found."""
    return bench.write("preflight", [m for cell in each("preflight", defences(bench)) for m in _measure(bench, cell)])


def outcomes(bench: Workbench, cell: Cell) -> list[dict]:
    """Check, outcome and, of flaws, what was found, of every check of a defence; warns of the flaws."""
    arrays = checked(bench, cell)
    flaws = [json.loads(str(flaw)) for flaw in arrays["found"]]
    for flaw in flaws:
        warnings.warn(f"{cell}: {flaw['outcome']} of preflight, {flaw['found']}", stacklevel=2)
    return flaws + [{"check": str(name), "outcome": outcome, "found": ""} for outcome in ("passed", "skipped")
                    for name in arrays[outcome]]


def _measure(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    for outcome in outcomes(bench, cell):
        found = float(outcome["outcome"] in ("error", "warning"))
        yield bench.measurement("preflight", "flaws", found, None, count(bench), "flaws",
                                {**cell.at, "eps": budget(bench), **outcome})
