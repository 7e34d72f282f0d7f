"""Robust accuracy by the paper's attack and by the converged one: against attack effort, and against t* (Table 2)."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import style
from .selection import distinct, find, line, percent_bar, select
from .steps import Steps, steps
from .table import budget
from .tables import robust_accuracy as tables

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Robust accuracy, and whether the attack has converged"
CAPTION = (
    "(a) Accuracy left after a number of judged inputs, at the largest budget: the paper's PGD (dashed), the "
    "converged attack (solid), and one of four times its steps (dotted) where it was run; the curve has to be "
    "flat at its end for robust accuracy to be believed. (b onwards) Robust accuracy against the purification "
    "step, one panel a budget, with 95 % intervals over images; the black line is the bare classifier. Purifiers of "
    "one's own have no step and stand to the right, hollow under the paper's PGD."
)
DASHES = {"paper": "--", "converged": "-", "stronger": ":"}
NAMES = {"paper": "paper's PGD", "converged": "converged", "stronger": "4x steps"}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `robust_accuracy` records."""
    records = read_records(folder, "robust_accuracy")
    budgets, known = distinct(records, "eps"), steps(records)
    figure = style.new_figure(3.0)
    axes = figure.subplots(1, 1 + len(budgets), sharey=True)
    _by_effort(axes[0], records, max(budgets), known)
    for axis, eps in zip(axes[1:], budgets, strict=True):
        _by_time(axis, records, eps, known)
    style.accuracy_axis(axes[0])
    titles = [f"ε = {budget(eps)}" for eps in budgets]
    style.letter(axes, [f"effort{known.title()}, ε = {budget(max(budgets))}", *titles])
    attacks = [Line2D([], [], color=style.GREY, linestyle=DASHES[a], label=NAMES[a]) for a in DASHES]
    handles = style.sampler_handles(distinct(records, "sampler")) + attacks
    style.legend_below(figure, handles, len(handles) if len(handles) < 8 else -(-len(handles) // 2))
    return figure


def _by_effort(axis: Axes, records: list[Measurement], eps: float, known: Steps) -> None:
    shown = {0, known.middle()}
    for sampler in distinct(records, "sampler"):
        for attack, dashes in DASHES.items():
            found = [
                m
                for m in select(records, "robust_accuracy_by_iterate", sampler=sampler, eps=eps, attack=attack)
                if m.at["t_star"] in shown and m.at["iterates"] > 0
            ]
            if found:
                iterates, accuracy, _ = line(found, "iterates")
                axis.step(iterates, accuracy, dashes, where="post", color=style.SAMPLER_COLOURS[sampler])
    axis.set(xscale="log", xlabel="judged inputs (iterates an image)")


def _by_time(axis: Axes, records: list[Measurement], eps: float, known: Steps) -> None:
    for sampler in distinct(records, "sampler"):
        colour, marker = style.SAMPLER_COLOURS[sampler], style.SAMPLER_MARKERS[sampler]
        for attack in ("paper", "converged"):
            found = select(records, "robust_accuracy", sampler=sampler, eps=eps, attack=attack)
            if found and sampler != "none":
                _, accuracy, _ = line(found, "t_star")
                axis.plot(sorted(known.x(m.at) for m in found), accuracy, DASHES[attack], color=colour)
                for m in found:
                    hollow = {} if sampler not in known.own or attack == "converged" else {"markerfacecolor": "white"}
                    axis.errorbar(known.x(m.at), m.value, percent_bar(m), color=colour, marker=marker, elinewidth=0.8,
                                  **hollow)
    bare = find(records, "robust_accuracy", sampler="none", eps=eps, attack="converged")
    if bare is not None:
        axis.axhline(bare.value, color=style.BLACK, linewidth=0.9, zorder=0)
    known.label(axis)
