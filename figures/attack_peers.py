"""Our attacks beside AutoAttack's: what each leaves of robust accuracy, and what it costs."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import style
from .selection import distinct, find, get, percent_bar, select
from .table import NONE, Row, Table, budget, errors_over, number

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Attacks beside AutoAttack's own"
CAPTION = (
    "Each row is a defence at one budget, each column an attack by itself, the last the standard ensemble of them. "
    "Top: what the attack leaves of robust accuracy, ours and AutoAttack's on the same weights and images, 95 % "
    "intervals over images. Bottom: how many times the seconds of one core and the model evaluations of ours "
    "AutoAttack takes; right of the line ours takes fewer. Seconds are without our compilation, which the number of "
    "images does not change; lines begin where it is included."
)
ATTACKS = {"apgd_ce": "APGD-CE", "apgd_t": "APGD-T (DLR)", "fab_t": "FAB-T", "square": "Square", "all": "ensemble"}
DATA = {"cifar10": "CIFAR-10"}
"""What readers call data sets, where it is not their own name."""
LOOKS = {"ours": (style.BLUE, "o", "ours"), "autoattack": (style.VERMILION, "x", "AutoAttack")}
COSTS = {"seconds": (style.BLACK, "D", "seconds"), "evaluations": (style.ORANGE, "s", "model evaluations")}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `attack_peers` records."""
    records = _attacked(read_records(folder, "attack_peers"))
    rows = _rows(records)
    figure = style.new_figure(1.6 + 0.36 * len(rows))
    axes = figure.subplots(2, len(ATTACKS), sharey=True)
    for column, (attack, name) in enumerate(ATTACKS.items()):
        found = [m for m in records if m.at["attack"] == attack]
        _accuracies(axes[0, column], found, rows)
        _costs(axes[1, column], found, rows)
        axes[0, column].set_title(name)
    axes[0, 0].set_yticks(range(len(rows)), [f"{_name(records, defence)}, {budget(eps)}" for defence, eps in rows])
    axes[0, 0].invert_yaxis()
    axes[0, 2].set_xlabel("robust accuracy (%)")
    axes[1, 2].set_xlabel("AutoAttack's cost over ours (ratio)")
    looks = (*LOOKS.values(), *COSTS.values())
    handles = [Line2D([], [], color=colour, marker=mark, linestyle="", label=name) for colour, mark, name in looks]
    style.legend_below(figure, handles, 4)
    return figure


def _attacked(records: list[Measurement]) -> list[Measurement]:
    return [m for m in records if "attack" in m.at]


def _rows(records: list[Measurement]) -> list[tuple[str, float]]:
    return [(defence, eps) for defence in distinct(records, "defence")
            for eps in distinct((m for m in records if m.at["defence"] == defence), "eps")]


def _name(records: list[Measurement], defence: str) -> str:
    """A defence in words, with its images; a purified one is named by its sampler and t*."""
    data = next(m for m in records if m.at["defence"] == defence).run["configuration"]["dataset"]
    sampler, _, t_star = defence.partition("-t")
    known = style.SAMPLER_NAMES.get(sampler)
    return f"{DATA.get(data, data)}, " + (f"{known} t* = {t_star}" if known else defence)


def _accuracies(axis: Axes, records: list[Measurement], rows: list[tuple[str, float]]) -> None:
    for place, (defence, eps) in enumerate(rows):
        for by, (colour, marker, _) in LOOKS.items():
            if m := find(records, "robust_accuracy", defence=defence, eps=eps, by=by):
                shift = -0.14 if by == "ours" else 0.14
                axis.errorbar(m.value, place + shift, xerr=percent_bar(m), color=colour, marker=marker)
    axis.set(xlim=(-4, 104))


def _costs(axis: Axes, records: list[Measurement], rows: list[tuple[str, float]]) -> None:
    for quantity, (colour, marker, _) in COSTS.items():
        for place, (defence, eps) in enumerate(rows):
            at = {"defence": defence, "eps": eps}
            ours, theirs = (find(records, quantity, **at, by=by) for by in LOOKS)
            if theirs:
                compiling = get(records, "compilation", **at, by="ours").value if quantity == "seconds" else 0.0
                shown = theirs.value / (ours.value - compiling)
                axis.plot([theirs.value / ours.value, shown], [place, place], color=colour, linewidth=0.8)
                axis.plot(shown, place, marker, color=colour)
    axis.axvline(1, color=style.GREY, linewidth=1)
    axis.set(xscale="log", xlim=(0.02, 100))


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """The ensembles, then every attack."""
    records = run["attack_peers"]
    attacked = _attacked(records)
    note = (f"{errors_over(select(records, 'robust_accuracy'))} Seconds of one core, and images on which the model was "
            "asked, are those of all images together. Alone: images that this side broke and the other did not.")
    single, rows = [name for name in distinct(attacked, "attack") if name != "all"], _rows(attacked)
    return [
        Table("The standard ensemble and AutoAttack", [_row(records, d, e, "all") for d, e in rows], note),
        Table("Attack by attack", [_row(records, d, e, a) for d, e in rows for a in single], note),
    ]


def _row(records: list[Measurement], defence: str, eps: float, attack: str) -> Row:
    at = {"defence": defence, "eps": eps, "attack": attack}
    row = {"defence": _name(records, defence), "clean (%)": number(get(records, "clean_accuracy", defence=defence)),
           "eps": budget(eps), "attack": ATTACKS[attack]}
    for by, (_, _, name) in LOOKS.items():
        row[f"{name}: robust (%)"] = number(find(records, "robust_accuracy", **at, by=by))
    for quantity, heading in (("broken_alone", "alone"), ("evaluations", "evaluations")):
        for by, (_, _, name) in LOOKS.items():
            m = find(records, quantity, **at, by=by)
            row[f"{name}: {heading}"] = f"{m.value:,.0f}" if m else NONE
    ours, theirs = (find(records, "seconds", **at, by=by) for by in LOOKS)
    compiling = get(records, "compilation", **at, by="ours")
    row["ours: seconds"] = f"{ours.value - compiling.value:.1f} + {compiling.value:.1f} compiling"
    row["AutoAttack: seconds"] = f"{theirs.value:.1f}" if theirs else NONE
    return row
