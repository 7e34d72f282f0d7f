"""ALP, adversarial training and both: robust accuracy by what the attack knows, and latency (ALP Table II)."""

from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import paper_alp, style
from .intervals import bracketed, ends
from .selection import distinct, find, get, percent_bar, select
from .table import NONE, PAPERS, Row, Table, budget, errors_over, number, reported

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "ALP's hierarchy of resilience"
CAPTION = (
    "(a) Robust accuracy of each defence under PGD-7 that knows the classifier alone, PGD-7 through the whole defence "
    "with fresh noise, and a converged attack through it, by budget; grey: clean accuracy, 95 % intervals over images. "
    "ALP decides by its ensemble of 20. (b) Wall-clock time of one image from pixels to logits, medians with 95 % "
    "intervals; the band is 100 to 1000 times ALP's single draw."
)
DEFENCES = {"undefended": "undefended", "alp": "ALP", "trained": "adv. training", "alp+trained": "ALP + adv. training"}
KNOWN = {
    "classifier": (style.GREEN, "^", "PGD-7, knows the classifier"),
    "defence": (style.ORANGE, "s", "PGD-7, knows the defence"),
    "converged": (style.BLACK, "o", "converged, knows the defence"),
}
THEIRS = {"undefended": "undefended", "alp": "alp", "trained": "adversarial training",
          "alp+trained": "alp + adversarial training"}
TIMED = {"classifier": "classifier alone", "draw": "ALP, one draw", "ensemble": "ALP, 20 draws"}
BAND = (100, 1000)
"""How many times faster than diffusion the document has its single draw."""


def named(name: str) -> str:
    """What is timed, in words.

    >>> named("ddpm-t5"), named("ddpm, 100 steps"), named("draw")
    ('DDPM, t* = 5', 'DDPM, 100 steps', 'ALP, one draw')
    """
    if name in TIMED:
        return TIMED[name]
    sampler, steps = name.replace("-t", ", t* = ").split(", ")
    return f"{style.SAMPLER_NAMES[sampler]}, {steps}"


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `alp_hierarchy` records."""
    records = read_records(folder, "alp_hierarchy")
    budgets = distinct(select(records, "robust_accuracy"), "eps")
    figure = style.new_figure(3.0)
    axes = figure.subplots(1, len(budgets) + 1, width_ratios=[*[1] * len(budgets), 1.4])
    for axis, eps in zip(axes[:-1], budgets, strict=True):
        _robust(axis, partial(find, records, reading="defence"), eps)
    axes[0].set_yticks(range(len(DEFENCES)), list(DEFENCES.values()))
    for axis in axes[1:-1]:
        axis.set_yticks(range(len(DEFENCES)), [])
    axes[0].set_title("a", loc="left")
    _latencies(axes[-1], records)
    axes[-1].set_title("b", loc="left")
    handles = [Line2D([], [], color=c, marker=m, linestyle="none", label=n) for c, m, n in KNOWN.values()]
    handles.append(Line2D([], [], color=style.GREY, marker="|", markersize=9, linestyle="none", label="clean"))
    style.legend_below(figure, handles, 4)
    return figure


def _robust(axis: Axes, found, eps: float) -> None:
    for place, defence in enumerate(DEFENCES):
        for shift, (known, (colour, marker, _)) in zip((-0.22, 0, 0.22), KNOWN.items(), strict=True):
            if m := found("robust_accuracy", defence=defence, eps=eps, known=known):
                axis.errorbar(m.value, place + shift, xerr=percent_bar(m), color=colour, marker=marker, markersize=4)
        axis.plot(found("clean_accuracy", defence=defence).value, place, "|", color=style.GREY, markersize=14)
    axis.set(xlim=(-4, 104), ylim=(len(DEFENCES) - 0.5, -0.5), xlabel=f"accuracy (%)\nat ε = {budget(eps)}")


def _latencies(axis: Axes, records: list[Measurement]) -> None:
    names = distinct(select(records, "latency"), "of")
    for place, name in enumerate(names):
        value, low, high = ends(records, "latency", of=name)
        axis.errorbar(value, place, xerr=[[value - low], [high - value]], color=style.BLACK, marker="o", markersize=4)
    draw = get(records, "latency", of="draw").value
    axis.axvspan(*(times * draw for times in BAND), color=style.GREY, alpha=0.2, linewidth=0)
    axis.set_yticks(range(len(names)), list(map(named, names)))
    axis.set(xscale="log", xlabel="time of one image (ms)", ylim=(len(names) - 0.5, -0.5))


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """Table II with the document's numbers, and latencies with their ratios."""
    records = run["alp_hierarchy"]
    budgets = distinct(select(records, "robust_accuracy"), "eps")
    note = (f"{errors_over(select(records, 'clean_accuracy'))} ALP by its ensemble of 20 unless a draw is named. The "
            "document's latencies are of an Apple M4; the last row has its ensemble.")
    return [
        Table("Hierarchy of resilience", [_row(records, defence, budgets) for defence in DEFENCES], note),
        Table("Every attack", [_attack(records, m) for m in select(records, "robust_accuracy")], note),
        Table("Latency", [_latency(records, m) for m in select(records, "latency")],
              "Medians with 95 % bootstrap intervals over repeats; ratios are of medians."),
    ]


def _row(records: list[Measurement], defence: str, budgets: list[float]) -> Row:
    theirs = paper_alp.TABLE_2[THEIRS[defence]]
    row = {"defence": DEFENCES[defence],
           "clean (%)": number(get(records, "clean_accuracy", defence=defence, reading="defence"))}
    for eps in budgets:
        for known, (_, _, name) in KNOWN.items():
            m = find(records, "robust_accuracy", defence=defence, eps=eps, known=known, reading="defence")
            row[f"eps {budget(eps)}: {name} (%)"] = number(m)
    return row | {
        "PSNR (dB)": number(find(records, "psnr")) if "alp" in defence else NONE,
        f"{PAPERS}{paper_alp.SETTING}: PGD-7, 8/255 (%)": reported(theirs.robust, 2),
        f"{PAPERS}{paper_alp.SETTING}: PSNR (dB)": reported(theirs.psnr, 2),
        f"{PAPERS}{paper_alp.SETTING}: latency (ms)": reported(theirs.latency, 2),
    }


def _attack(records: list[Measurement], m: Measurement) -> Row:
    return {"defence": DEFENCES[m.at["defence"]], "eps": budget(m.at["eps"]), "attack": KNOWN[m.at["known"]][2],
            "decides": "one draw" if m.at["reading"] == "draw" else f"{m.at['draws']} draws" if m.at["draws"] > 1
            else "no noise", "robust accuracy (%)": number(m)}


def _latency(records: list[Measurement], m: Measurement) -> Row:
    of = m.at["of"]
    return {"what": named(of), "ms an image": bracketed(records, "latency", 2, of=of), "repeats": str(m.n),
            "times ALP's single draw": bracketed(records, "speedup", 1, of=of, over="draw"),
            "times ALP's ensemble": bracketed(records, "speedup", 1, of=of, over="ensemble")}
