"""Distances to the clean image on the way through a purifier, and where pushing away ends (Fig. 1c, Figs. S2-S4)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Arrays, Measurement, read_records, read_shards
from . import style
from .selection import distinct, get, line, select
from .table import budget, unit
from .tables_distances import distances as tables

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Does purification bring an image closer to its clean one?"
CAPTION = (
    "(a, b) Mean distance to the clean image of PGD's inputs on their way forward to t* and back, in l2 and l_inf; the "
    "dotted line marks t*, reverse-only has no way forward. (c) The same in l2 for uniform noise of several sizes and "
    "the first sampler. (d) Distance of the purified image over that of the noisy one against the size of the noise, "
    "in l2 (solid) and l_inf (dashed): above 1 purification pushes away, below 1 it shrinks. (e) The size where it "
    "crosses 1, against the purification step, with bootstrap intervals over images; dotted lines are the budgets. "
    "(f) SSIM with the clean image before (black) and after purification."
)
DASHES = {"l2": "-", "linf": "--"}
SIGNS = {"l2": r"$\ell_2$", "linf": r"$\ell_\infty$"}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `distances` records."""
    records, shards = read_records(folder, "distances"), read_shards(folder, "distances")
    samplers, shown = distinct(records, "sampler"), get(records, "distance", input="PGD").at["t_star"]
    figure = style.new_figure(4.8)
    axes = figure.subplots(2, 3)
    for axis, (norm, sign) in zip(axes[0, : len(SIGNS)], SIGNS.items(), strict=True):
        for sampler in samplers:
            _path(axis, shards[f"{sampler}-t{shown}-PGD"][norm].mean(0), shown, style.SAMPLER_COLOURS[sampler])
        _path_axis(axis, shown, f"{sign} distance (pixel units)")
    _noises(axes[0, 2], records, shards[f"{samplers[0]}-t{shown}-uniform"], shown, samplers[0])
    _ratios(axes[1, 0], records, shown)
    _crossings(axes[1, 1], records)
    _similarity(axes[1, 2], records, shown)
    eps = get(records, "distance", input="PGD").at["eps"]
    noise = f"uniform noise, t* = {shown}"
    titles = [f"PGD, ε = {budget(eps)}, t* = {shown}", "the same", noise, noise, "crossing", noise]
    style.letter(list(axes.ravel()), titles)
    norms = [Line2D([], [], color=style.GREY, linestyle=DASHES[norm], label=sign) for norm, sign in SIGNS.items()]
    style.legend_below(figure, style.sampler_handles(samplers) + norms, 5)
    return figure


def _path(axis: Axes, mean: np.ndarray, t_star: int, colour) -> None:
    """Samplers that take other steps than the schedule's are drawn over its steps, too."""
    axis.plot(np.linspace(0, 2 * t_star, len(mean)), mean, color=colour)


def _path_axis(axis: Axes, t_star: int, label: str) -> None:
    axis.axvline(t_star, color=style.GREY, linestyle=":", linewidth=0.8, zorder=0)
    axis.set_xticks([0, t_star, 2 * t_star])
    axis.set(xlabel="steps forward, then back", ylabel=label, ylim=(0, None))


def _noises(axis: Axes, records: list[Measurement], found: Arrays, t_star: int, sampler: str) -> None:
    sizes = sorted(distinct(select(records, "distance", input="uniform"), "eps"))
    for eps, paths in list(zip(sizes, found["l2"], strict=True))[::2]:
        _path(axis, paths.mean(0), t_star, style.SAMPLER_COLOURS[sampler])
        axis.annotate(budget(eps), (0, paths.mean(0)[0]), (0, 3), textcoords="offset points", fontsize=7)
    _path_axis(axis, t_star, f"{SIGNS['l2']} distance (pixel units)")


def _ratios(axis: Axes, records: list[Measurement], t_star: int) -> None:
    for sampler in distinct(records, "sampler"):
        for norm, dashes in DASHES.items():
            at = {"sampler": sampler, "t_star": t_star, "input": "uniform", "norm": norm}
            eps, after, _ = line(select(records, "distance", **at, state="output"), "eps")
            _, before, _ = line(select(records, "distance", **at, state="input"), "eps")
            axis.plot(eps, after / before, dashes, color=style.SAMPLER_COLOURS[sampler],
                      marker=style.SAMPLER_MARKERS[sampler], markersize=3)
    axis.axhline(1, color=style.BLACK, linewidth=0.8)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    shown = unit(eps)
    axis.set_xticks(eps[::2], [f"{shown.factor * size:.3g}" for size in eps[::2]])
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set(xlabel=f"size of the noise ({shown.name})", ylabel="after / before (ratio)")


def _crossings(axis: Axes, records: list[Measurement]) -> None:
    for sampler in distinct(records, "sampler"):
        for norm, dashes in DASHES.items():
            at = {"sampler": sampler, "norm": norm, "state": "output"}
            t_star, value, _ = line(select(records, "crossing", **at), "t_star")
            low, high = (line(select(records, f"crossing_{end}", **at), "t_star")[1] for end in ("low", "high"))
            axis.errorbar(t_star, value, [value - low, high - value], linestyle=dashes, elinewidth=0.8,
                          color=style.SAMPLER_COLOURS[sampler], marker=style.SAMPLER_MARKERS[sampler])
    for eps in records[0].run["configuration"]["eps"]:
        axis.axhline(eps, color=style.GREY, linestyle=":", linewidth=0.8, zorder=0)
    axis.set_xticks(sorted(distinct(records, "t_star")))
    axis.set(xlabel="purification step t* (steps)", ylabel="size of the noise (pixel units)", xlim=(0, None),
             ylim=(0, None))


def _similarity(axis: Axes, records: list[Measurement], t_star: int) -> None:
    for sampler in distinct(records, "sampler"):
        at = {"sampler": sampler, "t_star": t_star, "input": "uniform"}
        eps, after, half = line(select(records, "ssim", **at, state="output"), "eps")
        axis.errorbar(eps, after, half, color=style.SAMPLER_COLOURS[sampler], marker=style.SAMPLER_MARKERS[sampler])
    before = line(select(records, "ssim", **at, state="input"), "eps")
    axis.plot(before[0], before[1], color=style.BLACK, label="before")
    axis.legend(loc="lower left")
    axis.set(xlabel="size of the noise (pixel units)", ylabel="SSIM")
