"""Rate, SNR and robust accuracy where they are known: exact lines, estimated points, the paper's approximations."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import style
from .selection import distinct, line, select
from .tables_exact_theory import NAMES, tables

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Where the approximations hold: data whose purification is known"
CAPTION = (
    "Above, data near a flat manifold, where the purifier is affine; below, a mixture of isotropic Gaussians. (a, d) "
    "Expected compression rate and (b, e) SNR of the first sampler against the purification step: exact (lines), as "
    "estimated (points, 95 % interval), and the product of the steps' first-order rates (Eqs. 15, 16; dashed). "
    "Colours: variance of the data off the manifold, and about the mixture's means. In (e) lines are of one component "
    "alone. (c, f) Robust accuracy of all purifiers and budgets, from the exact minimum perturbations (linearised for "
    "the mixture; crosses) and as the paper predicts it, S(CR eps) with exact S and CR at the anchors, against what a "
    "converged attack leaves. What lies on the diagonal is right."
)
COLOURS = (style.BLUE, style.GREEN, style.ORANGE)
MARKS = {"random": ("o", style.BLUE), "manifold": ("s", style.VERMILION), "nearest_mean": ("^", style.GREEN)}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `exact_theory` records."""
    records = read_records(folder, "exact_theory")
    figure = style.new_figure(5.0)
    axes = figure.subplots(2, 3)
    sampler = distinct(records, "sampler")[0]
    titles = []
    for row, kind in zip(axes, NAMES, strict=True):
        found = [m for m in records if m.at["kind"] == kind]
        _against_time(row[0], found, sampler, "rate", "expected rate (ratio)")
        _against_time(row[1], found, sampler, "snr", "SNR (ratio)")
        _robust(row[2], found)
        titles += [f"{NAMES[kind].split()[-1]}: {what}" for what in ("rate", "SNR", "robustness")]
    style.letter(list(axes.ravel()), titles)
    variances = [Line2D([], [], color=colour, label=f"variance {variance:g}")
                 for variance, colour in style.looks(distinct(records, "off_variance"), COLOURS)]
    ways = [Line2D([], [], color=style.BLACK, label="exact"),
            Line2D([], [], color=style.BLACK, marker="o", linestyle="", label="estimated"),
            Line2D([], [], color=style.BLACK, linestyle="--", label="Eqs. 15, 16")]
    style.legend_below(figure, variances + ways, 6)
    return figure


def _against_time(axis: Axes, records: list[Measurement], sampler: str, name: str, label: str) -> None:
    for off, colour in style.looks(distinct(records, "off_variance"), COLOURS):
        for quantity, dashes in ((f"{name}_exact", "-"), (f"{name}_first_order", "--")):
            found = select(records, quantity, sampler=sampler, off_variance=off)
            if found:
                x, y, _ = line(found, "t_star")
                axis.plot(x, y, dashes, color=colour, linewidth=1.2 if dashes == "-" else 1)
        found = select(records, f"{name}_estimated", sampler=sampler, off_variance=off)
        if found:
            axis.errorbar(*line(found, "t_star"), fmt="o", color=colour, markersize=3.5)
    axis.set_yscale("log")
    axis.set(xlabel="purification step t* (steps)", ylabel=label)


def _robust(axis: Axes, records: list[Measurement]) -> None:
    axis.plot([0, 100], [0, 100], color=style.GREY, linewidth=0.8)
    attacked = select(records, "robust_attacked")
    known = [m for m in records if m.quantity in ("robust_exact", "robust_linearised")]
    x = np.array([m.value for m in attacked])
    for classifier in distinct(attacked, "classifier"):
        said = select(records, "robust_paper_anchor", classifier=classifier)
        mark, colour = MARKS[classifier]
        own = select(attacked, "robust_attacked", classifier=classifier)
        axis.plot([m.value for m in own], [m.value for m in said], mark, color=colour, alpha=0.45, markersize=3.5,
                  markeredgewidth=0, label=f"S(CR ε), {classifier.replace('_', ' ')} classifier")
    axis.plot(x, [m.value for m in known], "x", color=style.BLACK, markersize=3.5, markeredgewidth=0.8,
              label=known[0].quantity.removeprefix("robust_"))
    style.accuracy_axis(axis, "robust accuracy by theory (%)")
    axis.set(xlabel="robust accuracy, attacked (%)", xlim=(-3, 103))
    axis.legend(loc="best", fontsize=6, handletextpad=0.2)
