"""The paper's claims, judged: effects by purifier with their intervals, and a verdict each (Eqs. 5, 6, Secs. 3, 5)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import paper_hypotheses as theirs
from . import style
from .intervals import bracketed, ends, outcome
from .selection import Z95, distinct, find, get, percent_bar, select
from .table import NONE, PAPERS, Row, Table, budget, cell_columns, cells

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "The paper's claims as hypotheses"
CAPTION = (
    "(a) Change of the l2 distance to the clean image by purification, of images attacked by the paper's PGD; below 0 "
    "they come closer (A). (b) Change of the kernel distance to the clean images, in the classifier's features; below "
    "0 their distribution comes closer (B). (c) Robust accuracy against the rate with one sigmoid for all samplers "
    "(C). (d) Survival of the bare classifier at the rate, minus robust accuracy (D). Dotted lines bound each claim; "
    "filled: first budget; bars are 95 % intervals over images."
)
PANELS = {
    "attraction": (r"change of $\ell_2$ distance (pixel units)", "A: to the clean image"),
    "alignment": ("change of kernel distance\n(squared units)", "B: to the clean distribution"),
    "classifier_alone": ("predicted − measured\n(percentage points)", "D: the classifier alone"),
}
CLAIMS = {
    "attraction": "A: closer to its clean image (Eq. 5)",
    "alignment": "B: closer to the clean distribution (Eq. 6)",
    "aligned_robust": "B: the closer to it, the more robust",
    "rate_before_distance": "B, C: the rate orders purifiers better than that distance",
    "lawful": "C: the lower the rate, the more robust",
    "one_curve": "C: one curve for all samplers",
    "classifier_alone": "D: survival of the bare classifier at the rate",
}
DIGITS = {"attraction": 3, "alignment": 2, "aligned_robust": 2, "rate_before_distance": 2, "lawful": 2}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `hypotheses` records."""
    records = read_records(folder, "hypotheses")
    figure = style.new_figure(4.8)
    axes = figure.subplots(2, 2).ravel()
    for axis, claim in zip(axes[[0, 1, 3]], PANELS, strict=True):
        _by_cell(axis, records, claim)
    _curve(axes[2], records)
    titles = [PANELS["attraction"][1], PANELS["alignment"][1], "C: one curve", PANELS["classifier_alone"][1]]
    style.letter(list(axes), titles)
    samplers, budgets = distinct(records, "sampler"), distinct(records, "eps")
    looks = [Line2D([], [], color=style.GREY, marker="o", linestyle=dash, label=f"ε = {budget(eps)}",
                    markerfacecolor=style.GREY if eps == budgets[0] else "white")
             for eps, dash in zip(budgets, _dashes(budgets), strict=True)]
    style.legend_below(figure, [*style.sampler_handles(samplers, "none"), *looks], 5)
    return figure


def _dashes(budgets: list[float]) -> list[str]:
    return ["-", *["--"] * (len(budgets) - 1)]


def _look(sampler: str, first: bool) -> dict:
    colour = style.SAMPLER_COLOURS[sampler]
    return {"color": colour, "marker": style.SAMPLER_MARKERS[sampler], "elinewidth": 0.8, "linestyle": "none",
            "markerfacecolor": colour if first else "white", "markersize": 4}


def _by_cell(axis: Axes, records: list[Measurement], claim: str) -> None:
    found = [m for m in select(records, "effect", claim=claim) if "t_star" in m.at]
    t_stars, budgets = distinct(found, "t_star"), distinct(found, "eps")
    rows = [(sampler, eps) for sampler in distinct(found, "sampler") for eps in budgets]
    for number, (sampler, eps) in enumerate(rows):
        at = {"claim": claim, "sampler": sampler, "eps": eps}
        value, low, high = np.array([ends(records, "effect", **at, t_star=t) for t in t_stars]).T
        x = np.arange(len(t_stars)) + 0.7 * ((number + 0.5) / len(rows) - 0.5)
        axis.errorbar(x, value, [value - low, high - value], **_look(sampler, eps == budgets[0]))
    axis.axhline(0, color=style.BLACK, linewidth=0.7)
    for bound in filter(None, (find(records, f"effect_{side}", claim=claim) for side in ("above", "below"))):
        axis.axhline(bound.value, color=style.GREY, linestyle=":", linewidth=0.9)
    axis.set_xticks(np.arange(len(t_stars)), [str(t) for t in t_stars])
    axis.set(xlabel="purification step t* (steps)", ylabel=PANELS[claim][0])


def _curve(axis: Axes, records: list[Measurement]) -> None:
    found = select(records, "rate")
    budgets = distinct(found, "eps")
    for m in found:
        robust = get(records, "robust_accuracy", **m.at)
        axis.errorbar(m.value, robust.value, percent_bar(robust), Z95 * m.se,
                      **_look(m.at["sampler"], m.at["eps"] == budgets[0]))
    x = np.linspace(0, 1.05 * max(m.value for m in found), 200)
    for eps, dash in zip(budgets, _dashes(budgets), strict=True):
        if find(records, "sigmoid_center", eps=eps) is not None:  # few cells give none
            plateau, center, width = (get(records, f"sigmoid_{p}", eps=eps).value
                                      for p in ("plateau", "center", "width"))
            axis.plot(x, plateau / (1 + np.exp((x - center) / width)), dash, color=style.GREY, zorder=1)
    style.accuracy_axis(axis)
    axis.set(xlabel=r"expected rate ($\ell_2$ ratio)", xlim=(0, x[-1]))


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """A verdict on each claim, and on each purifier where a claim speaks of one."""
    records = run["hypotheses"]
    return [_verdicts(records), *(_purifiers(records, eps) for eps in distinct(records, "eps"))]


def _verdicts(records: list[Measurement]) -> Table:
    def row(m: Measurement) -> Row:
        claim = m.at["claim"]
        needed = find(records, "effect_images_to_decide", **m.at)
        return {
            "claim": CLAIMS.get(claim, claim),
            "eps": budget(m.at['eps']),
            "holds where the effect is": _bounds(records, m.at),
            f"{PAPERS}{theirs.SETTING}": theirs.SAYS.get(claim, NONE),
            "ours": outcome(records, "effect", **m.at),
            "effect": bracketed(records, "effect", DIGITS.get(claim, 1), **m.at),
            "unit": m.unit,
            "n": str(m.n),
            "images to decide": f"{needed.value:.0f}" if needed else NONE,
        }

    found = sorted((m for m in select(records, "effect") if "t_star" not in m.at),
                   key=lambda m: list(CLAIMS).index(m.at["claim"]))
    note = (
        "Effects: brackets are 95 % bootstrap intervals over images, for the purifiers of this run. A claim is decided "
        "where the whole interval is on one side of its bounds; images to decide: how many would bring it there."
    )
    return Table("Verdicts", [row(m) for m in found], note)


def _bounds(records: list[Measurement], at: dict) -> str:
    above, below = (find(records, f"effect_{side}", **at) for side in ("above", "below"))
    if above and below:
        return f"{above.value:g} to {below.value:g}"
    return f"above {above.value:g}" if above else f"below {below.value:g}"


def _purifiers(records: list[Measurement], eps: float) -> Table:
    def row(cell: dict, t: int) -> Row:
        at = {**cell, "eps": eps}
        verdicts = {claim: (bracketed(records, "effect", DIGITS.get(claim, 1), **at, claim=claim),
                            outcome(records, "effect", **at, claim=claim)) for claim in PANELS}
        return {**cell_columns(cell, t)} | {
            name: text for claim, (effect, said) in verdicts.items()
            for name, text in ((f"{claim.replace('_', ' ')}: effect", effect), (f"{claim.replace('_', ' ')}", said))
        }

    found = [m for m in select(records, "effect", eps=eps) if "t_star" in m.at]
    units = "; ".join(f"{claim.replace('_', ' ')}: {get(found, 'effect', claim=claim).unit}" for claim in PANELS)
    return Table(f"Verdicts by purifier, eps {budget(eps)}", [row(*cell) for cell in cells(found)],
                 f"95 % intervals over images, each purifier for itself. Units: {units}.")
