"""Minimum perturbations of the bare classifier at clean images and at anchors: Fig. 3b, Fig. S1.

Command: purimetry run minimum_perturbation
Time: about 2 minutes on 2 cores of an AMD EPYC.
Expect: zero-inflated, roughly Gaussian distributions; anchors of small t* like the clean images.

Each budget that the bisection tries is attacked at the strength of the converged attack.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ..compression.records import Arrays, Measurement
from ..compression.statistics import bootstrap
from ..compression.survival import (
    FEWEST, MinimumPerturbations, fit_zero_inflated_gaussian, kaplan_meier, minimum_perturbations,
)
from .pieces import Passes, Piece
from .progress import bar
from .rates import anchors
from .robust_accuracy import converged
from .workbench import BARE, Cell, Workbench, each


SURVIVE = 50, 5
"""Shares (%) of the correct images, whose quantiles of the minimum perturbation suggest budgets."""

HALVINGS = 9
"""Of the budgets that are searched."""


def distances(bench: Workbench, cell: Cell) -> MinimumPerturbations:
    """Minimum perturbations at the anchors of a cell (at the clean images for the bare classifier), first seed."""

    def compute(bench: Workbench) -> Arrays:
        at = bench.images if cell == BARE else anchors(bench, cell, bench.configuration.seeds[0])["anchor"]
        with bar(f"minimum perturbations {cell}") as show:
            found = minimum_perturbations(
                converged(bench.configuration), bench.classifier, at, bench.labels, bench.keys(),
                eps_max=bench.configuration.eps_max, halvings=HALVINGS, on_step=show)
        return found._asdict()

    return MinimumPerturbations(**bench.per_image("minimum_perturbation", cell, "", compute))


def pieces(bench: Workbench) -> list[Piece]:
    """The clean images, and the anchors of each cell."""
    return bench.pieces([BARE, *bench.cells], distances)


def passes(bench: Workbench) -> list[Passes]:
    """Through what an image, and each of its anchors, goes: the bare classifier alone."""
    settings = converged(bench.configuration)(0.0)
    one = Passes(BARE, (HALVINGS + 1) * settings.restarts, (HALVINGS + 1) * settings.restarts * settings.steps)
    return (1 + len(bench.cells)) * [one]


def run(bench: Workbench) -> list[Measurement]:
    """Measure the clean images and the anchors of every cell."""
    cells = each("minimum perturbations", [BARE, *bench.cells])
    return bench.write("minimum_perturbation", [m for cell in cells for m in _measure(bench, cell)])


def _measure(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    name = "minimum_perturbation"
    distance, censored, _ = distances(bench, cell)
    n, curve = len(distance), kaplan_meier(distance, censored)
    yield bench.mean(name, "clean_accuracy", 100 * (distance > 0), "%", cell.at)
    yield bench.measurement(name, "censored", 100 * censored.mean(), None, n, "%", cell.at)
    for eps in bench.configuration.eps:
        value = curve(eps)
        se = 100 * np.sqrt(value * (1 - value) / n)
        yield bench.measurement(name, "survival", 100 * value, se, n, "%", {**cell.at, "eps": eps})
    right = distance[distance > 0]
    for share in SURVIVE if cell == BARE and len(right) > 1 else ():
        found = bootstrap(partial(np.quantile, q=1 - share / 100), right)
        if found.value < bench.configuration.eps_max:
            at = {**cell.at, "survive": share}
            yield bench.measurement(name, "perturbation_quantile", found.value, found.se, len(right), "pixel", at)
    if len(np.unique(distance[(distance > 0) & ~censored])) < FEWEST:
        return  # a purifier that breaks most images leaves no Gaussian to fit; the curve stands
    fit = fit_zero_inflated_gaussian(distance, censored)
    for part, se in zip(("zero", "mean", "std"), fit.se, strict=True):
        unit = "fraction" if part == "zero" else "pixel"
        yield bench.measurement(name, f"gaussian_{part}", getattr(fit, part), se, n, unit, cell.at)
