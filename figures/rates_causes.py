"""Rates at the paper's t by schedule and reverse variance, beside Table 2's: what each contributes to a difference."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import paper, style
from .selection import distinct, find, line, select
from .style import SAMPLER_NAMES
from .table import PAPER, Row, Table, errors_over, number, reported

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Respacing, reverse variance and the paper's rates"
CAPTION = (
    "Expected l2 rate against the paper's t (of 1000 steps), of schedules respaced to fewer steps (shades) and with "
    "the reverse variance from the posterior (filled, solid) or beta (open, dashed), on the same images and "
    "perturbations; bars are 95 % intervals over images. Crosses: the paper's Table 2, of another denoiser."
)
SHADES = (style.ORANGE, style.SKY, style.BLUE)
"""From the coarsest schedule to the finest."""


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `rates_causes` records."""
    records = read_records(folder, "rates_causes")
    samplers, schedules = distinct(records, "sampler"), sorted(distinct(records, "schedule"))
    figure = style.new_figure(2.9)
    axes = figure.subplots(1, len(samplers), sharey=True, squeeze=False)[0]
    for axis, sampler in zip(axes, samplers, strict=True):
        _panel(axis, records, sampler, schedules)
    axes[0].set(ylabel="expected rate (ratio)", ylim=(0, None))
    style.letter(list(axes), [SAMPLER_NAMES[sampler] for sampler in samplers])
    handles = [Line2D([], [], color=shade, marker="o", label=f"{n} steps")
               for n, shade in style.looks(schedules, SHADES)]
    handles.append(Line2D([], [], color=style.GREY, marker="o", markerfacecolor="white", linestyle="--", label="beta"))
    handles.append(Line2D([], [], color=style.BLACK, marker="x", linestyle="none", label="paper"))
    style.legend_below(figure, handles, len(handles))
    return figure


def _panel(axis: Axes, records: list[Measurement], sampler: str, schedules: list[int]) -> None:
    for schedule, shade in style.looks(schedules, SHADES):
        for sigma in distinct(select(records, "rate_l2", sampler=sampler), "sigma"):
            found = select(records, "rate_l2", sampler=sampler, schedule=schedule, sigma=sigma)
            t, rate, half = line(found, "t")
            beta = sigma == "beta"
            axis.errorbar(t, rate, half, color=shade, marker="o", linestyle="--" if beta else "-", elinewidth=0.8,
                          markerfacecolor="white" if beta else shade, zorder=2 + beta)
    times = sorted(distinct(records, "t"))
    theirs = {t: cell.rate for t, cell in paper.TABLE_2[sampler].items() if t in times}
    axis.plot(list(theirs), list(theirs.values()), "x", color=style.BLACK, markersize=5.5, zorder=4)
    axis.set_xscale("log")
    axis.set_xticks(times, [str(t) for t in times])
    axis.minorticks_off()
    axis.set(xlabel="t (steps of 1000)")


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """Rates by schedule, and what respacing and the variance change, image by image."""
    records = run["rates_causes"]
    found = select(records, "rate_l2")
    schedules, coarsest = sorted(distinct(found, "schedule")), min(distinct(found, "schedule"))

    def row(at: dict) -> Row:
        own = [m for m in found if {name: m.at[name] for name in at} == at and m.at["sigma"] != "beta"]
        finest = max(own, key=lambda m: m.at["schedule"])
        theirs = paper.TABLE_2[at["sampler"]][at["t"]].rate
        rates = {f"ours, {n} steps": number(find(own, "rate_l2", schedule=n), 3) for n in schedules}
        return {
            "sampler": SAMPLER_NAMES[at["sampler"]],
            "t": str(at["t"]),
            f"{PAPER} l2 rate": reported(theirs, 3),
            **rates,
            f"{coarsest} steps instead of the most": number(find(records, "by_respacing", **at, schedule=coarsest,
                                                                 sigma=finest.at["sigma"]), 3),
            f"beta instead of posterior, {coarsest} steps": number(find(records, "by_variance", **at,
                                                                        schedule=coarsest), 3),
            "the same, most steps": number(find(records, "by_variance", **at, schedule=finest.at["schedule"]), 3),
            "left to the paper": f"{finest.value - theirs:.3f} ± {finest.se:.3f}",
        }

    cells = list({(m.at["sampler"], m.at["t"]): {"sampler": m.at["sampler"], "t": m.at["t"]} for m in found}.values())
    cells.sort(key=lambda at: distinct(found, "sampler").index(at["sampler"]))
    note = (
        f"{errors_over(found)} Changes are paired by image. Rates are with the posterior's variance unless said; DDIM "
        "has none. The most steps are those that were affordable. What is left to the paper is due to the denoiser, "
        "the images and the paper's own error, which it does not give."
    )
    return [Table("What respacing and the reverse variance change in Table 2's rates", [*map(row, cells)], note)]
