"""Accuracy and compression rate over the whole diffusion time, with and without the forward process (Fig. S6)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import paper, style
from . import paper_rates_timesteps as theirs
from .intervals import bracketed, ends, outcome
from .selection import distinct, find, get, line, select
from .table import NONE, PAPERS, Row, Table, budget, cell_columns, cells, errors_over, number

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "The whole diffusion time"
CAPTION = (
    "First row: accuracy at clean images and under the paper's PGD (xi_attack = xi_test, first budget) against the "
    "purification step, up to the whole schedule. Second row: the compression rate, its mean over images (the expected "
    "rate) and its median. Bars are 95 % intervals over images. Shading separates the paper's three regimes of the "
    "reverse-only rate, which it finds to fall, to rise and to fall again; the grey line marks the clearest rise of "
    "the mean that we measure."
)
ACCURACIES = {"clean_accuracy": ("clean", style.BLACK, "-"), "robust_accuracy": ("under PGD", style.VERMILION, "--")}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `rates_timesteps` records."""
    records = read_records(folder, "rates_timesteps")
    samplers = distinct(records, "sampler")
    figure = style.new_figure(4.0)
    axes = figure.subplots(2, len(samplers), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), sampler in zip(axes.T, samplers, strict=True):
        found = [m for m in records if m.at["sampler"] == sampler]
        for quantity, (_, colour, dashes) in ACCURACIES.items():
            _curve(upper, select(found, quantity), colour, dashes)
        _curve(lower, select(found, "rate"), style.SAMPLER_COLOURS[sampler], "-")
        _curve(lower, select(found, "median_rate"), style.SAMPLER_COLOURS[sampler], ":")
        _rise(lower, found)
        for axis in (upper, lower):
            _regimes(axis, found[0].run["configuration"]["respaced"])
        lower.set(xlabel="purification step t* (steps)", ylim=(0, None))
    style.accuracy_axis(axes[0, 0], "accuracy (%)")
    axes[1, 0].set_ylabel(r"expected rate ($\ell_2$ ratio)")
    names = [style.SAMPLER_NAMES[sampler] for sampler in samplers]
    style.letter(axes.ravel(), [*names, *(f"{name}: rate" for name in names)])
    handles = [Line2D([], [], color=colour, linestyle=dashes, marker="o", label=name)
               for name, colour, dashes in ACCURACIES.values()]
    rates = [Line2D([], [], color=style.GREY, linestyle=dashes, marker="o", label=f"{name} rate")
             for name, dashes in (("mean", "-"), ("median", ":"))]
    style.legend_below(figure, [*handles, *rates], 4)
    return figure


def _curve(axis: Axes, records: list[Measurement], colour: str, dashes: str) -> None:
    t_star, value, half = line(records, "t_star")
    axis.errorbar(t_star, value, half, color=colour, linestyle=dashes, marker="o", markersize=3.5, elinewidth=0.8)


def _rise(axis: Axes, records: list[Measurement]) -> None:
    found = find(records, "rise", center="mean")
    if found is None or found.value <= 0:
        return
    first, last = (get(records, f"rise_{end}", center="mean").value for end in ("from", "to"))
    between = [m for m in select(records, "rate") if first <= m.at["t_star"] <= last]
    t_star, value, _ = line(between, "t_star")
    axis.plot(t_star, value, color=style.BLACK, linewidth=3, alpha=0.35, solid_capstyle="round")


def _regimes(axis: Axes, steps: int) -> None:
    low, high = (t * steps / paper.STEPS for t in theirs.REGIMES["medium"])
    axis.axvspan(low, high, color=style.GREY, alpha=0.13, linewidth=0, zorder=0)


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """How each sampler's rate goes, and every point of the curves."""
    records = run["rates_timesteps"]
    return [*([_courses(records)] if select(records, "rise") else []), _points(records)]


def _courses(records: list[Measurement]) -> Table:
    def row(at: dict) -> Row:
        first, last = (f"{get(records, f'rise_{end}', **at).value:.0f}" for end in ("from", "to"))
        needed = find(records, "images_to_decide", **at)
        return {
            "sampler": style.SAMPLER_NAMES[at["sampler"]],
            "rate": f"{at['center']} over images",
            f"{PAPERS}{theirs.SETTING}": theirs.COURSE.get(at["sampler"], NONE) if at["center"] == "mean" else NONE,
            "ours": _course(ends(records, "rise", **at)),
            **_medium(records, at),
            "clearest rise (ratio)": bracketed(records, "rise", 3, **at),
            "from t* to t*": f"{first} to {last}",
            "images that would decide": f"{needed.value:.0f}" if needed else NONE,
        }

    found = select(records, "rise")
    note = (
        f"n = {found[0].n} images. Brackets: 95 % bootstrap interval that holds for all pairs of t* at once, so that "
        "the choice of the clearest rise is no selection; that of the given pair is its own."
    )
    return Table("Is the rate monotone in t*?", [row(m.at) for m in found], note)


def _medium(records: list[Measurement], at: dict) -> Row:
    found = find(records, "medium", **at)
    if found is None:
        return {}
    change = f"from t* = {found.at['from']} to {found.at['to']} (ratio)"
    return {change: bracketed(records, "medium", 3, **at), "a rise there": outcome(records, "medium", **at)}


def _course(rise: np.ndarray) -> str:
    value, low, high = rise
    if low > 0:
        return "rises"
    return "falls everywhere" if high < 0 else f"{'seems to rise' if value > 0 else 'seems to fall'}, not decided"


def _points(records: list[Measurement]) -> Table:
    def row(cell: dict, t: int) -> Row:
        return {
            **cell_columns(cell, t),
            "clean accuracy (%)": number(find(records, "clean_accuracy", **cell)),
            "l2 rate, mean": number(find(records, "rate", **cell), 3),
            "median": number(find(records, "median_rate", **cell), 3),
            "images with a rate above 1 (%)": number(find(records, "expanded", **cell)),
            "under the paper's PGD (%)": number(find(records, "robust_accuracy", **cell)),
        }

    found = select(records, "rate")
    title = f"Over the whole diffusion time, eps {budget(found[0].at['eps'])}"
    return Table(title, [row(*cell) for cell in cells(found)], errors_over(found))
