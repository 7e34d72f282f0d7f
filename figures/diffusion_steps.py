"""Compression along the trajectory of a diffusion purifier, on and off the data manifold (Fig. 4c, d)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..compression.records import Arrays, Measurement, read_records, read_shards
from . import style
from .selection import distinct, get, line, select
from .tables_diffusion_steps import tables

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Compression step by step"
CAPTION = (
    "Above: what is left of a perturbation of the input, after each forward step (shaded) and each reverse step: of a "
    "random one, and of one along and across the tangent space of the data at the clean image (lines: means over "
    "images; bands: 10 to 90 % of images). Below: the rate of each reverse step, for perturbations drawn at that step "
    "(all directions, on and off the manifold), by the paper's first-order form of the first (Eq. 16), and for what "
    "is left of a random perturbation of the input, which the paper says goes from the off- to the on-manifold rate "
    "(mean and 95 % interval over images). Grey band: where it comes nearer to the latter, with its 95 % interval. On "
    "the manifold the paper puts kappa (Eq. 19; dotted)."
)
COLOURS = {"all": style.BLACK, "on": style.VERMILION, "off": style.GREEN}
NAMES = {"all": "all directions", "on": "on-manifold", "off": "off-manifold"}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `diffusion_steps` records."""
    records, shards = read_records(folder, "diffusion_steps"), read_shards(folder, "diffusion_steps")
    samplers, t_star = distinct(records, "sampler"), records[0].at["t_star"]
    figure = style.new_figure(4.7, max(1, len(samplers)) * style.WIDTH / 3 + 0.4 * (len(samplers) < 3))
    axes = figure.subplots(2, len(samplers), squeeze=False, sharey="row")
    for column, sampler in enumerate(samplers):
        _cumulative(axes[0, column], shards[f"{sampler}-t{t_star}"], t_star)
        _by_step(axes[1, column], [m for m in records if m.at["sampler"] == sampler], t_star)
    axes[0, 0].set_ylabel("left of a perturbation (ratio)")
    axes[1, 0].set_ylabel("rate of the step (ratio)")
    titles = [f"{style.SAMPLER_NAMES[s]}, {what}" for what in ("in total", "by step") for s in samplers]
    style.letter(list(axes.ravel()), titles)
    handles = [Line2D([], [], color=COLOURS[space], label=NAMES[space]) for space in COLOURS]
    handles += [
        Line2D([], [], color=style.BLUE, marker="o", markersize=3.5, label="left of a random perturbation"),
        Line2D([], [], color=style.PURPLE, linestyle="--", label="Eq. 16"),
        Line2D([], [], color=style.GREY, linestyle=":", label=r"$\kappa_t$ (Eq. 19)"),
    ]
    style.legend_below(figure, handles, 6 if len(samplers) > 2 else 3)
    return figure


def _cumulative(axis: Axes, found: Arrays, t_star: int) -> None:
    axis.axvspan(0, t_star, color=style.GREY, alpha=0.12, linewidth=0)
    forward = np.concatenate([[1.0], np.cumprod(found["forward"])])
    for space, colour in COLOURS.items():
        rates = found[f"{space}_cumulative"]
        x = np.arange(t_star, 2 * t_star + 1)
        axis.plot(x, rates.mean(0), color=colour)
        axis.fill_between(x, *np.quantile(rates, [0.1, 0.9], axis=0), color=colour, alpha=0.15, linewidth=0)
    axis.plot(np.arange(t_star + 1), forward, color=style.BLACK)
    marks = {0: "0", t_star: f"t* = {t_star}", 2 * t_star: "0"}
    axis.set_xticks(list(marks), marks.values())
    axis.set(xlabel="step t", xlim=(0, 2 * t_star), ylim=(0, 1.05))


def _by_step(axis: Axes, records: list[Measurement], t_star: int) -> None:
    low, high = (t_star + 1 - get(records, f"turn_{end}").value for end in ("low", "high"))
    axis.axvspan(high - 0.5, low + 0.5, color=style.GREY, alpha=0.2, linewidth=0)
    for space, colour in COLOURS.items():
        x, y, half = line(select(records, f"rate_{space}"), "t")
        axis.plot(x, y, color=colour)
        axis.fill_between(x, y - half, y + half, color=colour, alpha=0.2, linewidth=0)
    for quantity, colour, dashes in (("rate_first_order", style.PURPLE, "--"), ("state", style.GREY, ":")):
        x, y, _ = line(select(records, quantity), "t")
        axis.plot(x, y, dashes, color=colour, linewidth=1.1)
    axis.errorbar(*line(select(records, "rate_travelling"), "t"), fmt="o-", color=style.BLUE, markersize=3, linewidth=1)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="reverse step t", xlim=(t_star + 0.5, 0.5))
