"""The purifier's Jacobian against the data manifold: what is left of which direction, and where directions lie."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..compression.records import Arrays, Measurement, read_records, read_shards
from . import style
from .selection import Z95, distinct, get, line, select
from .tables_manifold import tables

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "On and off the data manifold"
CAPTION = (
    "(a) What f_xi leaves of a small perturbation of the input against t*, by its direction, for the first sampler: "
    "random, along and across the data's tangent space, along the gradient of the margin through the purifier "
    "(adversarial), and along the bare classifier's; 1 is preserved. (b) The same for every sampler at one t*. (c) "
    "Share of a direction's squared norm inside the data's tangent space (solid) and the denoiser's (dashed), against "
    "chance; also of what is left of a random perturbation, in the data's tangent space at the anchor. (d) Singular "
    "values of the Jacobian (solid) and eigenvalues of its symmetric part (dashed), medians over images, quartiles "
    "shaded, at the same t*. (e) Effective rank: participation ratio (solid) and exponential of the entropy (dashed). "
    "(f) Cosines of the principal angles between the data's tangent space and others, medians and quartiles. Error "
    "bars: 95 % intervals over images."
)
DIRECTIONS = {
    "random": ({"direction": "random"}, style.BLACK, "random"),
    "on": ({"direction": "on", "tangent": "data"}, style.VERMILION, "on-manifold"),
    "off": ({"direction": "off", "tangent": "data"}, style.GREEN, "off-manifold"),
    "adversarial": ({"direction": "adversarial"}, style.BLUE, "adversarial"),
    "bare": ({"direction": "bare"}, style.PURPLE, "bare classifier's"),
}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `manifold` records."""
    records, shards = read_records(folder, "manifold"), read_shards(folder, "manifold")
    samplers, t_stars = distinct(records, "sampler"), distinct(records, "t_star")
    shown = t_stars[len(t_stars) // 2]
    figure = style.new_figure(5.0)
    axes = figure.subplots(2, 3).ravel()
    _left(axes[0], records, samplers[0])
    _by_sampler(axes[1], records, samplers, shown)
    _shares(axes[2], records, samplers[0])
    _spectra(axes[3], shards, samplers, shown)
    _ranks(axes[4], records, samplers)
    _angles(axes[5], shards["tangents"])
    name = style.SAMPLER_NAMES[samplers[0]]
    style.letter(list(axes), [f"what is left, {name}", f"what is left, t* = {shown}", f"where it lies, {name}",
                              f"Jacobian, t* = {shown}", "effective rank", "tangent spaces"])
    return figure


def _left(axis: Axes, records: list[Measurement], sampler: str) -> None:
    for at, colour, label in DIRECTIONS.values():
        axis.errorbar(*line(select(records, "left", sampler=sampler, **at), "t_star"), fmt="o-", markersize=3,
                      color=colour, label=label)
    axis.axhline(1, color=style.GREY, linewidth=0.7)
    axis.set(xlabel="purification step t* (steps)", ylabel="left of it (ratio)", xlim=(0, None), ylim=(0, None))
    axis.legend(fontsize=6)


def _by_sampler(axis: Axes, records: list[Measurement], samplers: list[str], t_star: int) -> None:
    for number, (at, colour, _) in enumerate(DIRECTIONS.values()):
        found = [get(records, "left", sampler=sampler, t_star=t_star, **at) for sampler in samplers]
        x = np.arange(len(samplers)) + 0.16 * (number - 2)
        axis.bar(x, [m.value for m in found], 0.15, yerr=[Z95 * m.se for m in found], color=colour,
                 error_kw={"linewidth": 0.8})
    axis.axhline(1, color=style.GREY, linewidth=0.7)
    axis.set_xticks(range(len(samplers)), [style.SAMPLER_NAMES[sampler] for sampler in samplers])
    axis.grid(axis="x", visible=False)
    axis.set(ylabel="left of it (ratio)")


def _shares(axis: Axes, records: list[Measurement], sampler: str) -> None:
    chance = get(records, "chance").value
    for direction in ("adversarial", "bare"):
        for tangent, dashes in (("data", "-"), ("denoiser", "--")):
            found = select(records, "share", sampler=sampler, direction=direction, tangent=tangent)
            axis.errorbar(*line(found, "t_star"), fmt="o" + dashes, markersize=3, color=DIRECTIONS[direction][1],
                          label=DIRECTIONS[direction][2] if dashes == "-" else None)
    x, y, half = line(select(records, "turned", sampler=sampler), "t_star")
    axis.errorbar(x, chance * y, chance * half, fmt="s-", markersize=3, color=style.BLACK, label="left of a random one")
    axis.axhline(chance, color=style.GREY, linestyle=":", label="chance")
    axis.set(xlabel="purification step t* (steps)", ylabel="on the manifold (%)", xlim=(0, None),
             ylim=(0, 100))
    axis.legend(fontsize=6, loc="upper left")


def _spectra(axis: Axes, shards: dict[str, Arrays], samplers: list[str], t_star: int) -> None:
    for sampler in samplers:
        found, colour = shards[f"{sampler}-t{t_star}"], style.SAMPLER_COLOURS[sampler]
        for name, dashes in (("singular_values", "-"), ("symmetric", "--")):
            if name in found:
                values = np.sort(found[name], axis=1)[:, ::-1]
                low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
                index = np.arange(1, len(middle) + 1)
                axis.plot(index, middle, dashes, color=colour, linewidth=1.1)
                axis.fill_between(index, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.axhline(1, color=style.GREY, linewidth=0.7)
    axis.legend(handles=style.sampler_handles(samplers), fontsize=6)
    axis.set(xlabel="direction (rank)", ylabel="value (ratio)")


def _ranks(axis: Axes, records: list[Measurement], samplers: list[str]) -> None:
    for sampler in samplers:
        for quantity, dashes in (("participation_ratio", "-"), ("entropy_rank", "--")):
            found = select(records, quantity, sampler=sampler)
            if found:
                axis.errorbar(*line(found, "t_star"), fmt=dashes, marker=style.SAMPLER_MARKERS[sampler], markersize=3,
                              color=style.SAMPLER_COLOURS[sampler])
    axis.axhline(get(records, "dimension").value, color=style.GREY, linestyle=":", label="tangent spaces")
    axis.legend(fontsize=6)
    axis.set(xlabel="purification step t* (steps)", ylabel="effective rank (directions)", xlim=(0, None),
             ylim=(0, None))


def _angles(axis: Axes, found: Arrays) -> None:
    names = {"halves": ("data, two halves", style.BLACK), "random": ("random", style.GREY)}
    models = [name for name in found if name not in names]
    names |= {name: (f"denoiser, t = {name.removeprefix('denoiser-t')}", colour)
              for name, colour in style.looks(models, (style.SKY, style.BLUE, style.ORANGE))}
    for name, (label, colour) in names.items():
        low, middle, high = np.quantile(found[name], [0.25, 0.5, 0.75], axis=0)
        index = np.arange(1, len(middle) + 1)
        axis.plot(index, middle, "o-", color=colour, markersize=2.5, linewidth=1.1, label=label)
        axis.fill_between(index, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.legend(fontsize=6, loc="lower left")
    axis.set(xlabel="principal angle (rank)", ylabel="cosine", ylim=(-0.4, 1.05), yticks=np.linspace(0, 1, 6))
