"""Distances to clean images in feature spaces, and whether they order purifiers as robust accuracy does (Fig. S5)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import style
from .intervals import ends
from .selection import Z95, distinct, get, percent_bar, select
from .table import budget
from .tables_distribution import MEASURES, shown_space
from .tables_distribution import distribution as tables

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Distances to the clean images, and robust accuracy"
CAPTION = (
    "First rows, one a budget: robust accuracy (converged attack) against what might explain it, each line from the "
    "smallest to the largest t* (larger markers): Fréchet, kernel and cosine distance of purified adversarial images "
    "to the clean ones, and the compression rate. The Fréchet distance is biased where images are not many more than "
    "features; crosses show it less its bias as the jackknife estimates it. Last row: the distances before (dashed) "
    "and after purification at the first budget, and the rank correlation with robust accuracy over all purifiers, -1 "
    "for what explains it. Bars are 95 % intervals over images."
)
ATTACK = "converged"
DISTANCES = ("frechet", "kernel", "cosine")
LABELS = {"frechet": "Fréchet (squared units)", "kernel": "kernel (squared units)", "cosine": "1 − cosine (ratio)",
          "rate": r"expected rate (ratio)"}
COLOURS = {"frechet": style.PURPLE, "kernel": style.GREEN, "cosine": style.ORANGE, "rate": style.BLUE}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `distribution` records."""
    records = read_records(folder, "distribution")
    budgets, samplers = distinct(records, "eps"), distinct(records, "sampler")
    figure = style.new_figure(0.3 + 1.9 * (1 + len(budgets)))
    axes = figure.subplots(1 + len(budgets), 4)
    for row, eps in zip(axes[:-1], budgets, strict=True):
        for axis, quantity in zip(row, MEASURES, strict=True):
            _against(axis, records, quantity, eps)
        top = max(m.value + Z95 * m.se for m in select(records, "robust_accuracy", eps=eps, attack=ATTACK))
        for axis in row:
            axis.set_ylim(-0.03 * top, 1.05 * max(top, 1))
        row[0].set_ylabel(f"robust accuracy (%)\nε = {budget(eps)}")
    for axis, quantity in zip(axes[-1, : len(DISTANCES)], DISTANCES, strict=True):
        _over_time(axis, records, quantity, budgets[0])
    axes[-1, 0].set_ylabel("distance (own unit)")
    _ranks(axes[-1, 3], records, budgets)
    names = [MEASURES[quantity] for quantity in MEASURES]
    style.letter(axes.ravel(), [*names * len(budgets), *(f"{MEASURES[q]}, ε = {budget(budgets[0])}" for q in DISTANCES),
                                "ranks"])
    dashes = [Line2D([], [], color=style.GREY, linestyle=d, label=n) for n, d in (("before", "--"), ("after", "-"))]
    cross = Line2D([], [], color=style.GREY, linestyle="none", marker="x", label="less its bias")
    style.legend_below(figure, [*style.sampler_handles(samplers), *dashes, cross], 6)
    return figure


def _space(records: list[Measurement], quantity: str) -> dict:
    return {} if quantity == "rate" else {"features": shown_space(records, quantity)}


def _course(records: list[Measurement], quantity: str, sampler: str, eps: float) -> list[Measurement]:
    found = select(records, quantity, sampler=sampler, eps=eps, **_space(records, quantity.split("_")[0]))
    return sorted(found, key=lambda m: m.at["t_star"])


def _against(axis: Axes, records: list[Measurement], quantity: str, eps: float) -> None:
    for sampler in distinct(records, "sampler"):
        found = _course(records, quantity if quantity == "rate" else f"{quantity}_after", sampler, eps)
        robust = [get(records, "robust_accuracy", sampler=sampler, t_star=m.at["t_star"], eps=eps, attack=ATTACK)
                  for m in found]
        x, y = np.array([(m.value, r.value) for m, r in zip(found, robust, strict=True)]).T
        colour = style.SAMPLER_COLOURS[sampler]
        axis.plot(x, y, color=colour, linewidth=0.8)
        for size, (m, r) in enumerate(zip(found, robust, strict=True)):
            axis.errorbar(m.value, r.value, percent_bar(r), Z95 * m.se, color=colour, markersize=2.5 + 0.8 * size,
                          marker=style.SAMPLER_MARKERS[sampler], elinewidth=0.5, alpha=0.85)
        if quantity == "frechet":
            x = x - [m.value for m in _course(records, "frechet_after_bias", sampler, eps)]
            axis.plot(x, y, color=colour, linewidth=0.5, alpha=0.6, marker="x", markersize=3.5)
    axis.set_xlabel(LABELS[quantity])


def _over_time(axis: Axes, records: list[Measurement], quantity: str, eps: float) -> None:
    for sampler in distinct(records, "sampler"):
        for end, dashes in (("before", "--"), ("after", "-")):
            found = _course(records, f"{quantity}_{end}", sampler, eps)
            axis.errorbar([m.at["t_star"] for m in found], [m.value for m in found], [Z95 * m.se for m in found],
                          color=style.SAMPLER_COLOURS[sampler], marker=style.SAMPLER_MARKERS[sampler], markersize=3,
                          linestyle=dashes, elinewidth=0.5)
    axis.axhline(0, color=style.BLACK, linewidth=0.7)
    axis.set(xlabel="t* (steps)", xlim=(0, None))


def _ranks(axis: Axes, records: list[Measurement], budgets: list[float]) -> None:
    rows = [(quantity, eps) for quantity in MEASURES for eps in budgets]
    for place, (quantity, eps) in enumerate(rows):
        at = {"eps": eps, "over": "all", "attack": ATTACK, "predictor": quantity,
              "features": shown_space(records, quantity)}
        if select(records, "spearman", **at):
            value, low, high = ends(records, "spearman", **at)
            axis.plot([low, high], [-place, -place], color=COLOURS[quantity])
            axis.plot(value, -place, "o", color=COLOURS[quantity], markersize=4)
    axis.axvline(0, color=style.BLACK, linewidth=0.7)
    names = [f"{MEASURES[quantity]}, {budget(eps)}" for quantity, eps in rows]
    axis.set_yticks(-np.arange(len(rows)), names, fontsize=6)
    axis.set(xlabel="correlation (ratio)", xlim=(-1.05, 1.05), ylim=(0.5 - len(rows), 0.5))
