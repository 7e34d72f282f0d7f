"""Robust accuracy against compression (Fig. 3a), and predicted from compression against measured: the headline."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..compression.records import Measurement, read_records, read_shards
from . import predictors, style
from .selection import Z95, distinct, find, get, percent_bar, select
from .table import budget
from .tables_prediction import prediction as tables

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Robust accuracy predicted from compression"
CAPTION = (
    "(a) Measured robust accuracy (converged attack, fixed randomness) against the expected l2 rate, with a "
    "sigmoid fitted for each budget of enough purifiers; the diamond at rate 0 is their mean clean accuracy, which the "
    "curves should meet. (b) Predicted against measured robust accuracy for every purifier and budget: the "
    "paper's prediction, made without any gradient of the purifier, and ours. The grey band reaches 3 points to either "
    "side of equality. Filled markers are the first budget. Bars are 95 % intervals over images."
)
SHOWN = {predictors.PAPERS: (style.ORANGE, "paper", 8), predictors.OURS: (style.BLUE, "ours", 4)}
"""Colour, whose it is, and the size of its marker: ours lies inside the paper's where both say the same."""
BAND = 3.0
"""Percentage points on either side of equality that are shaded."""
FIT = "#404040"


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `prediction` records, with the rates that they were predicted from."""
    records = read_records(folder, "prediction")
    figure = style.new_figure(4.2)
    panels = figure.subfigures(1, 2)
    left, right = (panel.subplots() for panel in panels)
    style.legend_below(panels[0], _against_rate(left, records, folder), 2)
    style.legend_below(panels[1], _against_measured(right, records), 1)
    style.letter([left, right], ["robust accuracy against compression", "prediction against measurement"])
    return figure


def _marker(cell: dict, first_budget: float, colour: str) -> dict:
    """Shape by sampler; filled at the first budget, open at the others."""
    return {
        "marker": style.SAMPLER_MARKERS[cell["sampler"]],
        "color": colour,
        "linestyle": "none",
        "elinewidth": 0.8,
        "markerfacecolor": colour if cell["eps"] == first_budget else "white",
    }


def _against_rate(axis: Axes, records: list[Measurement], folder: Path) -> list[Line2D]:
    measured, shards = select(records, "measured_robust_accuracy"), read_shards(folder, "rates")
    budgets, widest = distinct(measured, "eps"), 0.0
    for m in measured:
        rate = shards["{sampler}-t{t_star}-eps{eps:g}-seed{seed}".format(**m.at, seed=m.run["seed"])]["l2"]
        mean, half = rate.mean(), Z95 * rate.std(ddof=1) / len(rate) ** 0.5
        axis.errorbar(
            mean,
            m.value,
            percent_bar(m),
            half,
            zorder=3,
            **_marker(m.at, budgets[0], style.SAMPLER_COLOURS[m.at["sampler"]]),
        )
        widest = max(widest, mean + half)
    x = np.linspace(0, 1.05 * widest, 200)
    dashes = ["-", *["--"] * (len(budgets) - 1)]
    for eps, dash in zip(budgets, dashes, strict=True):
        if find(records, "sigmoid_center", eps=eps) is not None:  # few cells give none
            axis.plot(x, _sigmoid(x, records, eps), dash, color=FIT, zorder=2)
            clean = get(records, "mean_clean_accuracy", eps=eps)
            axis.errorbar(0, clean.value, percent_bar(clean), fmt="D", color=style.BLACK, clip_on=False, zorder=4)
    style.accuracy_axis(axis)
    axis.set(xlabel=r"expected compression rate ($\ell_2$ ratio)", xlim=(0, x[-1]))
    fitted = any(m.quantity == "sigmoid_center" for m in records)
    clean = Line2D([], [], linestyle="none", color=style.BLACK, marker="D", label="mean clean accuracy")
    fits = [
        Line2D(
            [],
            [],
            linestyle=dash if fitted else "none",
            color=FIT,
            marker="o",
            label=f"ε = {budget(eps)}" + (", sigmoid fit" if fitted else ""),
            markerfacecolor=FIT if eps == budgets[0] else "white",
        )
        for eps, dash in zip(budgets, dashes, strict=True)
    ]
    handles = [*style.sampler_handles(distinct(measured, "sampler"), "none"), *([clean] if fitted else []), *fits]
    blank = Line2D([], [], linestyle="none", label=" ")
    return handles + [blank] * (6 - len(handles))  # three rows, as in the other legend, so that the panels align


def _sigmoid(x: np.ndarray, records: list[Measurement], eps: float) -> np.ndarray:
    plateau, center, width = (get(records, f"sigmoid_{p}", eps=eps).value for p in ("plateau", "center", "width"))
    return plateau / (1 + np.exp((x - center) / width))


def _against_measured(axis: Axes, records: list[Measurement]) -> list[Line2D | Patch]:
    ends, handles = np.array([0.0, 100.0]), []
    axis.fill_between(ends, ends - BAND, ends + BAND, color=style.GREY, alpha=0.2, linewidth=0, zorder=1)
    axis.plot(ends, ends, color=style.GREY, linewidth=0.9, zorder=1)
    for predictor, (colour, whose, size) in SHOWN.items():
        found = select(records, "predicted_robust_accuracy", predictor=predictor)
        for predicted in found:
            cell = {name: predicted.at[name] for name in ("sampler", "t_star", "eps")}
            measured = get(records, "measured_robust_accuracy", **cell)
            axis.errorbar(
                measured.value,
                predicted.value,
                percent_bar(predicted),
                percent_bar(measured),
                zorder=3,
                markersize=size,
                **_marker(cell, distinct(found, "eps")[0], colour),
            )
        error, name = predictors.overall(records, "mean_absolute_error", predictor), predictors.name(predictor)
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                color=colour,
                marker="o",
                markersize=size,
                label=f"{whose}: {name.removesuffix(' (paper)')}, mean error {error.value:.1f} points",
            )
        )
    style.accuracy_axis(axis, "predicted robust accuracy (%)")
    axis.set(xlabel="measured robust accuracy (%)", xlim=(-3, 103))
    return [*handles, Patch(color=style.GREY, alpha=0.3, linewidth=0, label=f"equality ± {BAND:g} points")]
