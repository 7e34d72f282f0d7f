"""ALP under every protocol, as a single draw and as an ensemble of 20."""

from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import style
from .preflight import CHECKS
from .selection import distinct, find, get, percent_bar, select
from .table import NONE, Row, Table, budget, errors_over, number

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "ALP under every protocol"
CAPTION = (
    "Robust accuracy by how ALP decides and which ξ the attack saw (rows; of several test draws the mean), by attack "
    "and gradient, and what all of a row leave together, 95 % intervals over images. Grey: clean accuracy under the "
    "same draws. Dotted: what the converged attack leaves of the undefended classifier. Were gradients masked, attacks "
    "that do not use ALP's own would lie left of those that do."
)
ATTACKS = {
    ("pgd", "full"): (style.BLUE, "o", "PGD, ALP's gradient"),
    ("converged", "full"): (style.SKY, "P", "converged, ALP's gradient"),
    ("standard", "full"): (style.YELLOW, "*", "standard ensemble"),
    ("pgd", "bpda"): (style.ORANGE, "s", "PGD, BPDA"),
    ("pgd", "noiseless"): (style.GREEN, "^", "PGD, gradient without noise"),
    ("square", "full"): (style.PURPLE, "v", "Square, no gradient"),
    ("converged", "none"): (style.VERMILION, "x", "attack of the classifier alone"),
    ("all", "all"): (style.BLACK, "D", "all together"),
}
ROWS = {
    ("draw", "fixed xi"): "fixed ξ, same ξ", ("draw", "transfer between xi"): "fixed ξ, others",
    ("draw", "fresh xi"): "fresh ξ, others", ("draw", "EOT-20"): "EOT-20, others",
    ("draw", "classifier alone"): "attack of the classifier", ("ensemble", "fixed xi"): "fixed ξ, same ξ",
    ("ensemble", "fresh xi"): "EOT-20 through it, others", ("ensemble", "classifier alone"): "attack of the classifier",
}
DEFENCES = {"draw": "one draw", "ensemble": "20 draws"}
SHOWN = ("single", "mean")
"""The reading of a row that is drawn."""


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `alp_protocols` records."""
    records = read_records(folder, "alp_protocols")
    accuracy = select(records, "robust_accuracy")
    present = {(m.at["defence"], m.at["protocol"]) for m in accuracy}
    rows, budgets = [row for row in ROWS if row in present], distinct(accuracy, "eps")
    figure = style.new_figure(1.3 + 0.34 * len(rows))
    axes = figure.subplots(1, len(budgets), sharey=True, squeeze=False)[0]
    for axis, eps in zip(axes, budgets, strict=True):
        for place, (defence, protocol) in enumerate(rows):
            _row(axis, [m for m in records if m.at.get("reading") in SHOWN],
                 {"defence": defence, "protocol": protocol, "eps": eps}, place)
        bare = get(records, "undefended", eps=eps).value
        axis.axvline(bare, color=style.GREY, linestyle=":", linewidth=1)
        axis.set(xlim=(-4, 104), xlabel=f"accuracy (%) at ε = {budget(eps)}")
    axes[0].set_yticks(range(len(rows)), [f"{DEFENCES[row[0]]}: {ROWS[row]}" for row in rows])
    axes[0].invert_yaxis()
    seen = {(m.at["attack"], m.at["gradient"]) for m in accuracy}
    handles = [Line2D([], [], color=c, marker=m, linestyle="", label=n) for key, (c, m, n) in ATTACKS.items()
               if key in seen]
    handles.append(Line2D([], [], color=style.GREY, marker="|", markersize=9, linestyle="", label="clean"))
    handles.append(Line2D([], [], color=style.GREY, linestyle=":", label="undefended"))
    style.legend_below(figure, handles, 4)
    return figure


def _row(axis: Axes, records: list[Measurement], at: dict, place: int) -> None:
    found = partial(find, records, **at)
    here = [key for key in ATTACKS if found("robust_accuracy", attack=key[0], gradient=key[1])]
    for number_, key in enumerate(here):
        colour, marker, _ = ATTACKS[key]
        m = found("robust_accuracy", attack=key[0], gradient=key[1])
        shift = 0.6 * (number_ - (len(here) - 1) / 2) / max(len(here), 4)
        axis.errorbar(m.value, place + shift, xerr=percent_bar(m), color=colour, marker=marker, markersize=4,
                      elinewidth=0.8)
    axis.plot(found("clean_accuracy").value, place, "|", color=style.GREY, markersize=14)


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """The whole matrix, what gradients have in common, and preflight's verdicts."""
    records = run["alp_protocols"]
    accuracy, cosines = select(records, "robust_accuracy"), select(records, "gradient_cosine")
    found = [m for m in select(records, "flaws") if m.value]
    flaws = [{"check": CHECKS[m.at["check"]], "severity": m.at["outcome"], "found": m.at["found"]} for m in found] or [
        {"check": "all", "severity": NONE, "found": "nothing"}]
    checked = select(records, "flaws")
    return [
        Table("ALP under every protocol", [_cells(m) for m in accuracy],
              f"{errors_over(accuracy)} k: configurations in a gradient; N: decisions that judge. Decisions by 20 "
              "draws are attacked through all 20."),
        Table("Cosine of the margin's gradients at clean images", [_cosine(m) for m in cosines], errors_over(cosines)),
        Table(f"Preflight of ALP at eps {budget(checked[0].at['eps'])}", flaws,
              f"{len(checked)} checks on {checked[0].n} images, a single draw with its xi held, the converged attack."),
    ]


def _cells(m: Measurement) -> Row:
    return {
        "eps": budget(m.at["eps"]), "ALP decides by": DEFENCES[m.at["defence"]], "ξ of the attack": m.at["xi_attack"],
        "k": str(m.at["k"]), "ξ of the test": m.at["xi_test"], "N": str(m.at["n"]), "read as": m.at["reading"],
        "attack": ATTACKS[m.at["attack"], m.at["gradient"]][2], "robust accuracy (%)": number(m),
    }


def _cosine(m: Measurement) -> Row:
    other = {"fixed": "single other draws", "reference": "the mean over 32 others"}[m.at["with"]]
    return {"mean over draws": str(m.at["k"]), "with": other, "cosine": number(m, 3)}
