"""Why the paper's prediction misses: its error in percentage points, split into causes."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..compression.records import Measurement, read_records
from . import style
from .selection import Z95, distinct, get, select
from .table import NONE, budget
from .tables_prediction import CAUSES, TOTAL
from .tables_prediction import diagnosis as tables

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Why the paper's prediction misses"
CAPTION = (
    "Contributions that add up from the prediction at clean images, S_clean(rate x eps), to the measured robust "
    "accuracy. Causes that lower it are stacked below 0, causes that raise it above; the diamond is their sum, "
    "measured minus predicted, in percentage points, with its 95 % interval over images. Columns are samplers, rows "
    "budgets."
)
COLOURS = {
    "anchor_shift": style.SKY,
    "heterogeneity": style.GREEN,
    "norm": style.ORANGE,
    "anisotropy": style.VERMILION,
    "nonlinearity": style.PURPLE,
    "residual": "#bdbdbd",
}
NAMES = {**CAUSES, "norm": r"$\ell_\infty$, not $\ell_2$"}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `diagnosis` records."""
    found = read_records(folder, "diagnosis")
    records = select(found, "contribution")
    samplers, budgets = distinct(records, "sampler"), distinct(records, "eps")
    figure = style.new_figure(0.7 + 2.0 * len(budgets))
    axes = figure.subplots(len(budgets), len(samplers), sharey=True, squeeze=False)
    for row, eps in zip(axes, budgets, strict=True):
        for axis, sampler in zip(row, samplers, strict=True):
            at = {"sampler": sampler, "eps": eps}
            _stack(axis, select(records, "contribution", **at), select(found, TOTAL, **at))
        row[0].set_ylabel(f"contribution at\nε = {budget(eps)} (points)")
    for axis, sampler in zip(axes[-1], samplers, strict=True):
        if any(m.at["t_star"] for m in records if m.at["sampler"] == sampler):
            axis.set_xlabel("step t* (steps)")
    style.letter(axes.ravel(), [style.SAMPLER_NAMES[s] for _ in budgets for s in samplers])
    style.legend_below(figure, axes[0, 0].get_legend_handles_labels()[0], 4)
    return figure


def _stack(axis: Axes, records: list[Measurement], totals: list[Measurement]) -> None:
    t_stars = sorted(distinct(records, "t_star"))
    position, causes = np.arange(len(t_stars)), distinct(records, "cause")
    values = np.array([[get(records, "contribution", t_star=t, cause=c).value for t in t_stars] for c in causes])
    below, above = np.zeros(len(t_stars)), np.zeros(len(t_stars))
    for cause, value in zip(causes, values, strict=True):
        bottom = np.where(value < 0, below, above)
        axis.bar(position, value, 0.7, bottom, color=COLOURS[cause], label=NAMES[cause])
        below, above = below + np.minimum(value, 0), above + np.maximum(value, 0)
    total = [get(totals, TOTAL, t_star=t) for t in t_stars]
    axis.errorbar(
        position,
        [m.value for m in total],
        [Z95 * m.se for m in total],
        fmt="D",
        color=style.BLACK,
        markersize=4,
        markeredgecolor="white",
        label="sum: measured − predicted",
    )
    axis.use_sticky_edges = False  # else the tallest stack touches the frame
    axis.axhline(0, color=style.BLACK, linewidth=0.7)
    axis.set_xticks(position, [str(t) if t else NONE for t in t_stars])
