"""Robust accuracy of one defence under every protocol (App. C)."""

from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import style
from .selection import find, percent_bar, select
from .table import Row, Table, budget, cell_name, errors_over, number

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "One defence under every protocol"
CAPTION = (
    "Robust accuracy at one budget by which ξ the attack saw (rows, with how draws that it did not see are read), by "
    "the gradient that it followed (colours), and what all attacks leave together (black), 95 % intervals over images. "
    "Grey: clean accuracy under the same draws. The last row judges every input while the attack still optimises, each "
    "under a draw of its own; it is not a robust accuracy."
)
ATTACKS = {
    ("pgd", "full"): (style.BLUE, "o", "PGD, full gradient"),
    ("pgd", "bpda"): (style.ORANGE, "s", "PGD, BPDA"),
    ("pgd", "one step"): (style.GREEN, "^", "PGD, surrogate of one step"),
    ("square", "full"): (style.PURPLE, "v", "Square, no gradient"),
    ("all", "all"): (style.BLACK, "D", "all together"),
}
READINGS = {"worst": "wrong in any", "mean": "mean of them", "vote": "majority"}
NAMES = {
    "fixed xi": "fixed ξ, same ξ", "transfer between xi": "fixed ξ, {n} other ξ", "fresh xi": "fresh ξ, {n} others",
    "EOT-15": "EOT-15, {n} others", "fresh xi, judged while optimising": "judged while optimising",
}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `protocols` records."""
    records = read_records(folder, "protocols")
    accuracy = select(records, "robust_accuracy")
    rows = list(dict.fromkeys(_row_of(m) for m in accuracy))
    figure = style.new_figure(1.2 + 0.27 * len(rows), 5.6)
    axis = figure.subplots()
    for place, (protocol, reading) in enumerate(rows):
        _row(axis, partial(find, records, protocol=protocol, reading=reading), place)
    names = {_row_of(m): _name(m) for m in accuracy}
    axis.set_yticks(range(len(rows)), [names[row] for row in rows])
    axis.invert_yaxis()
    at = accuracy[0].at
    axis.set(xlim=(-3, 103), xlabel=f"accuracy (%) at ε = {budget(at['eps'])}", title=cell_name(at))
    present = {(m.at["attack"], m.at["gradient"]) for m in accuracy}
    handles = [Line2D([], [], color=c, marker=m, linestyle="", label=n)
               for key, (c, m, n) in ATTACKS.items() if key in present]
    handles.append(Line2D([], [], color=style.GREY, marker="|", markersize=9, linestyle="", label="clean"))
    style.legend_below(figure, handles, 3)
    return figure


def _row_of(m: Measurement) -> tuple[str, str]:
    return m.at["protocol"], m.at["reading"]


def _name(m: Measurement) -> str:
    name = NAMES[m.at["protocol"]].format(n=m.at["n"])
    return f"{name}: {READINGS[m.at['reading']]}" if m.at["reading"] in READINGS else name


def _row(axis: Axes, found, place: int) -> None:
    shifts = dict(zip(ATTACKS, (-0.28, -0.14, 0, 0.14, 0.28), strict=True))
    for key, (colour, marker, _) in ATTACKS.items():
        attack, gradient = key
        if m := found("robust_accuracy", attack=attack, gradient=gradient):
            axis.errorbar(m.value, place + shifts[key], xerr=percent_bar(m), color=colour, marker=marker, markersize=4)
    clean = found("clean_accuracy", attack="pgd", gradient="full")
    axis.plot(clean.value, place, "|", color=style.GREY, markersize=14)


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """The whole matrix."""
    records = run["protocols"]

    def row(m: Measurement) -> Row:
        at = {name: m.at[name] for name in ("protocol", "reading", "gradient", "attack")}
        cost = find(records, "gradients", **at), find(records, "evaluations", **at)
        return {
            "ξ of the attack": m.at["xi_attack"], "k": str(m.at["k"]), "ξ of the test": m.at["xi_test"],
            "N": str(m.at["n"]), "read as": m.at["reading"], "gradient": m.at["gradient"], "attack": m.at["attack"],
            "steps": str(m.at["steps"]), "restarts": str(m.at["restarts"]), "robust accuracy (%)": number(m),
            "gradients, evaluations an image": " / ".join(f"{c.value:,.0f}" for c in cost if c) or "sum of the above",
        }

    accuracy = select(records, "robust_accuracy")
    at = accuracy[0].at
    note = (f"{errors_over(accuracy)} k: configurations in a gradient; N: those of the test. An evaluation is the "
            "classifier behind the whole purifier once; those with a gradient are among them.")
    return [Table(f"Every protocol at {cell_name(at)}, eps {budget(at['eps'])}", [row(m) for m in accuracy], note)]
