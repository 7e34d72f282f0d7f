"""Which checks each defence passes before its robust accuracy is believed."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import style
from .selection import distinct, select
from .table import Table, budget, cell_name

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Checks before a robust accuracy is believed"
CAPTION = (
    "Each column is a defence at the largest budget, each row a flaw by which robustness claims have been overturned. "
    "An error forbids to believe the number, a warning asks for a look."
)
OUTCOMES = {
    "passed": (style.GREEN, "o", "nothing found"), "warning": (style.ORANGE, "^", "warning"),
    "error": (style.VERMILION, "X", "error"), "skipped": (style.GREY, "_", "not made after an error"),
}
CHECKS = {
    "fixed_randomness": "a held key fixes the output", "logits": "the classifier gives logits",
    "purified_pixels": "the purifier gives pixels", "finite_gradients": "gradients are finite",
    "normalisation": "normalised once", "purification_time": "t* in the right unit",
    "same_defence": "same steps in attack and defence", "usable_gradients": "gradients do not vanish",
    "truthful_gradients": "gradients tell what a step gains", "no_budget": "eps = 0 is clean",
    "rising_loss": "the loss rises with eps", "large_budget": "nothing survives eps = 0.5",
    "gradient_free": "gradients beat none", "transfer": "gradients beat transfer",
}
"""In the order in which they are made."""


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `preflight` records."""
    records = read_records(folder, "preflight")
    defences = list(dict.fromkeys(map(_name, records)))
    figure = style.new_figure(3.4, 2.6 + 0.95 * len(defences))
    axis = figure.subplots()
    for m in sorted(records, key=lambda m: list(OUTCOMES).index(m.at["outcome"])):
        colour, marker, _ = OUTCOMES[m.at["outcome"]]
        axis.plot(defences.index(_name(m)), list(CHECKS).index(m.at["check"]), marker, color=colour, markersize=6)
    axis.set_xticks(range(len(defences)), defences)
    axis.set_yticks(range(len(CHECKS)), CHECKS.values())
    axis.set(xlim=(-0.6, len(defences) - 0.4))
    axis.invert_yaxis()
    shown = distinct(records, "outcome")
    handles = [Line2D([], [], color=c, marker=m, linestyle="", label=n)
               for outcome, (c, m, n) in OUTCOMES.items() if outcome in shown]
    style.legend_below(figure, handles, 2)
    return figure


def _name(m: Measurement) -> str:
    return cell_name(m.at).replace(" at ", "\n")


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """What was found, in words."""
    records = select(run["preflight"], "flaws")
    eps, n = records[0].at["eps"], records[0].n
    defences = list(dict.fromkeys(map(_name, records)))
    rows = [
        {
            "defence": defence.replace("\n", " at "),
            "checks": str(len({m.at["check"] for m in records if _name(m) == defence})),
            "found": "; ".join(m.at["found"] for m in records if _name(m) == defence and m.value) or "nothing",
        }
        for defence in defences
    ]
    return [Table(f"Preflight at eps {budget(eps)}", rows, f"On {n} images, with the converged attack.")]
