"""Compression rates by sampler and t* (Table 2), by perturbation size (Table 5), and the Jacobian's spectrum."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records, read_shards
from . import style
from .selection import distinct, select
from .steps import Steps, steps
from .table import budget, unit
from .tables_rates import rates as tables

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Compression rates"
CAPTION = (
    "By step: expected compression rate against the purification step, at the first budget: mean over images and "
    "seeds, bars from the lowest to the highest seed. By size, where more than one was measured: the same at one t*, "
    "against the size of the random perturbation; dotted lines mark the attack budgets. Jacobian, where images are "
    "small: its singular values at that t*, median over images, quartiles shaded; below 1 the purifier compresses. "
    "Purifiers of one's own have no step and stand to the right, hollow by the l_inf ratio; of one whose gradient is "
    "replaced (straight through) the Jacobian is the replacement's."
)


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `rates` records."""
    records, shards = read_records(folder, "rates"), read_shards(folder, "rates")
    known = steps(records)
    step = {sampler: 0 if sampler in known.own else known.middle() for sampler in distinct(records, "sampler")}
    spectra = {sampler: shards.get(f"{sampler}-t{t_star}-spectra", {}) for sampler, t_star in step.items()}
    exact = {sampler: found["singular_values"] for sampler, found in spectra.items() if "singular_values" in found}
    panels = {f"by step, ε = {budget(_budgets(records)[0])}": lambda axis: _by_time(axis, records, known)}
    if len(distinct(select(records, "rate_l2"), "eps")) > 1:
        panels[f"by size{known.title()}"] = lambda axis: _by_size(axis, records, step)
    if exact:
        panels[f"Jacobian{known.title()}"] = lambda axis: _spectra(axis, exact)
    figure = style.new_figure(2.9)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels.values(), strict=True):
        panel(axis)
    norms = [
        Line2D([], [], color=style.GREY, linestyle=d, label=n)
        for n, d in ((r"$\ell_2$", "-"), (r"$\ell_\infty$", "--"))
    ]
    handles = style.sampler_handles(distinct(records, "sampler")) + norms
    style.legend_below(figure, handles, min(len(handles), 6))
    style.letter(axes, list(panels))
    return figure


def _budgets(records: list[Measurement]) -> list[float]:
    return list(records[0].run["configuration"]["eps"])


def _by_time(axis: Axes, records: list[Measurement], known: Steps) -> None:
    for sampler in distinct(records, "sampler"):
        colour, marker = style.SAMPLER_COLOURS[sampler], style.SAMPLER_MARKERS[sampler]
        for norm, dashes in (("l2", "-"), ("linf", "--")):
            found = select(records, f"rate_{norm}", sampler=sampler, eps=_budgets(records)[0])
            t_stars = sorted(distinct(found, "t_star"))
            seeds = [[m.value for m in found if m.at["t_star"] == t] for t in t_stars]
            mean, low, high = np.array([(np.mean(s), min(s), max(s)) for s in seeds]).T
            x, hollow = [known.x({"sampler": sampler, "t_star": t}) for t in t_stars], {}
            if sampler in known.own and norm == "linf":
                hollow = {"markerfacecolor": "white"}
            axis.errorbar(x, mean, [mean - low, high - mean], color=colour, linestyle=dashes, marker=marker, **hollow)
    known.label(axis)
    axis.set(ylabel="expected rate (ratio)", ylim=(0, None))


def _by_size(axis: Axes, records: list[Measurement], step: dict[str, int]) -> None:
    seed = records[0].run["configuration"]["seeds"][0]
    for sampler, t_star in step.items():
        for norm, dashes in (("l2", "-"), ("linf", "--")):
            found = select(records, f"rate_{norm}", sampler=sampler, t_star=t_star, seed=seed)
            found.sort(key=lambda m: m.at["eps"])
            axis.plot(
                [m.at["eps"] for m in found],
                [m.value for m in found],
                dashes,
                color=style.SAMPLER_COLOURS[sampler],
                marker=style.SAMPLER_MARKERS[sampler],
            )
    for eps in _budgets(records):
        axis.axvline(eps, color=style.GREY, linestyle=":", linewidth=0.8, zorder=0)
    axis.set_xscale("log", base=2)
    sizes = sorted(distinct(select(records, "rate_l2", seed=seed), "eps"))
    shown = unit(sizes)
    axis.set_xticks(sizes, [f"{shown.factor * eps:.3g}" for eps in sizes])
    axis.set(xlabel=f"perturbation size ({shown.name})", ylabel="expected rate (ratio)", ylim=(0, None))


def _spectra(axis: Axes, singular_values: dict[str, np.ndarray]) -> None:
    for sampler, values in singular_values.items():
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
        index = np.arange(1, len(middle) + 1)
        axis.plot(index, middle, color=style.SAMPLER_COLOURS[sampler])
        axis.fill_between(index, low, high, color=style.SAMPLER_COLOURS[sampler], alpha=0.2, linewidth=0)
    axis.axhline(1, color=style.BLACK, linewidth=0.7)
    axis.set(xlabel="direction (rank)", ylabel="singular value (ratio)", ylim=(0, None))
