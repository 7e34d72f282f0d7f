"""ALP's robustness matrix: accuracy under FGSM against sigma, by what the attack knows (alp Sec. A)."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import paper_alp, style
from .alp import BUDGETS, DOCUMENT, READINGS, THREATS, sigma_axis
from .selection import distinct, find, get, line, select
from .table import NONE, Row, Table, budget, errors_over, number, reported

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Does latent noise make an autoencoder robust to FGSM?"
CAPTION = (
    "Accuracy of classifier after ALP under FGSM against the noise in the latent, 95 % intervals over images. Rows: "
    "the noise is changed after training, or an autoencoder is trained at each. Columns: FGSM on the classifier alone, "
    "its inputs decided on by the ensemble of 20 draws; through one draw, which also decides; through the ensemble. "
    "Colours: budget. Dashed: the bare classifier. Stars: what the document gives at ε = 0.3 on CIFAR-10."
)


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `alp_matrix` records."""
    records = read_records(folder, "alp_matrix")
    readings, threats = _shown(records)
    figure = style.new_figure(4.6)
    axes = figure.subplots(len(readings), len(threats), sharex=True, sharey=True, squeeze=False)
    for row, reading in zip(axes, readings, strict=True):
        for axis, threat in zip(row, threats, strict=True):
            _panel(axis, records, reading, threat)
    for axis in axes[-1]:
        sigma_axis(axis, distinct(records, "sigma"))
    for axis, reading in zip(axes[:, 0], readings, strict=True):
        axis.set_ylabel(f"{READINGS[reading]}\naccuracy (%)")
    style.letter(list(axes.ravel()), len(readings) * [THREATS[threat][2].removeprefix("attack ") for threat in threats])
    handles = [Line2D([], [], color=colour, marker="o", label=f"ε = {budget(eps)}" if eps else "no attack")
               for eps, colour in style.looks(sorted(distinct(records, "eps")), BUDGETS)]
    handles += [Line2D([], [], color=style.GREY, linestyle="--", label="bare classifier"),
                Line2D([], [], color=BUDGETS[-1], marker="*", markerfacecolor="white", linestyle="", markersize=8,
                       label="document, CIFAR-10")]
    style.legend_below(figure, handles, 6)
    return figure


def _shown(records):
    purified = [m for m in records if m.at["reading"] != "none"]
    return distinct(purified, "reading"), distinct(purified, "threat")


def _panel(axis: Axes, records: list[Measurement], reading: str, threat: str) -> None:
    for eps, colour in style.looks(sorted(distinct(records, "eps")), BUDGETS):
        sigma, value, half = line(select(records, "accuracy", reading=reading, threat=threat, eps=eps), "sigma")
        axis.errorbar(sigma, value, half, color=colour, marker="o", markersize=3.5)
        bare = get(records, "accuracy", reading="none", eps=eps).value
        axis.axhline(bare, color=colour, linestyle="--", linewidth=0.7, alpha=0.7)
        theirs = [(s, v) for (e, s), v in paper_alp.MATRIX.items() if e == eps]
        axis.plot(*zip(*theirs, strict=True) if theirs else ([], []), "*", color=colour, markerfacecolor="white",
                  markersize=8)
    style.accuracy_axis(axis, "")


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """The matrix, with the document's two numbers."""
    records = run["alp_matrix"]
    budgets = sorted(distinct(records, "eps"))

    def row(m: Measurement) -> Row:
        at = {name: m.at[name] for name in ("reading", "sigma", "threat")}
        gain = find(records, "gain", **at, eps=budgets[-1])
        theirs = paper_alp.MATRIX.get((budgets[-1], at["sigma"])) if at["reading"] != "none" else None
        return {
            "noise": READINGS[at["reading"]], "σ": f"{at['sigma']:g}" if at["reading"] != "none" else NONE,
            "FGSM": THREATS[at["threat"]][2].removeprefix("attack "),
            **{f"ε = {budget(eps)} (%)" if eps else "no attack (%)": number(find(records, "accuracy", **at, eps=eps))
               for eps in budgets},
            f"gain over σ = 0 at ε = {budget(budgets[-1])} (points)": number(gain),
            f"{DOCUMENT}, ε = {budget(budgets[-1])} (%)": reported(theirs),
        }

    accuracy = select(records, "accuracy")
    note = (f"{errors_over(accuracy)} The document does not say which noise is meant, nor what its FGSM knows. A gain "
            "is over the same images and attack.")
    return [Table("ALP's robustness matrix", [row(m) for m in accuracy if m.at["eps"] == 0], note)]
