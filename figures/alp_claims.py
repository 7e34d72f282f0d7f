"""ALP's claims, judged: what its robustness is made of, and masking, sigma's optimum, speed and stability."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import paper_alp, style
from .alp_hierarchy import named
from .intervals import bracketed, ends, outcome
from .selection import Z95, distinct, find, get, select
from .table import PAPERS, Row, Table, budget, errors_over, number

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "ALP's claims, judged"
CAPTION = (
    "(a) What ALP's robustness is made of: robust accuracy undefended, of its network without noise (the step is "
    "compression), of the ensemble of 20 under all attacks (randomness), and under an attack that does not know it "
    "(ignorance). (b) Evidence of masking in gradients: what small steps gain of what they promise, and the cosine of "
    "gradients under two draws; left of the dotted lines the document would be right. (c) σ after each training, and "
    "the document's ± 10 %. (d) Time of diffusion over ALP's, and the document's range. Bars are 95 % intervals."
)
LEVELS = {
    "undefended": "undefended", "without noise": "+ network\n(compression)",
    "ensemble": "+ noise,\n20 draws\n(randomness)", "unaware": "+ unaware\nattack\n(ignorance)",
}
CLAIMS = {
    "shattered": "masking: steps do not gain what gradients promise",
    "unstable": "masking: gradients under two draws differ",
    "masked": "masking: attacks without its gradient break more",
    "immune": "immunity: robust under attacks that know it",
    "compression": "cause: its network without noise",
    "randomness": "cause: its noise and ensemble",
    "ignorance": "cause: the attack does not know it",
    "sigma": "optimum: training finds σ = 0.219",
    "peak": "optimum: robustness peaks at 0.5, not at 0 or 2",
    "speed": "speed: 100 to 1000 times diffusion's",
    "stable": "stability: spread over trainings at most 1.94 points",
}
SAYS = {
    "shattered": "supported (Sec. B)", "unstable": "supported (Sec. B)", "masked": "supported (Sec. B)",
    "immune": "supported (abstract)", "sigma": "supported (Fig. 2)", "peak": "supported (Fig. 3)",
    "speed": "supported (abstract)", "stable": "supported (Fig. 5)", "randomness": "supported (Sec. C)",
    "compression": "supported (Sec. A)",
}
KNOWS = {"classifier": "attack knows the classifier", "ensemble": "attack knows ALP"}
DIGITS = {"shattered": 2, "unstable": 2, "sigma": 3}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `alp_claims` records."""
    records = read_records(folder, "alp_claims")
    budgets = distinct(select(records, "robust_accuracy"), "eps")
    figure = style.new_figure(4.4)
    axes = figure.subplots(2, 2).ravel()
    _levels(axes[0], records, budgets)
    _masking(axes[1], records, budgets)
    _sigmas(axes[2], records)
    _speeds(axes[3], records)
    style.letter(list(axes), ["what robustness is made of", "gradients", "σ after training", "speed"])
    handles = [Line2D([], [], color=style.BLUE, marker="o", linestyle="-" if eps == budgets[0] else "--",
                      markerfacecolor=style.BLUE if eps == budgets[0] else "white", label=f"ε = {budget(eps)}")
               for eps in budgets]
    style.legend_below(figure, handles, 4)
    return figure


def _levels(axis: Axes, records: list[Measurement], budgets: list[float]) -> None:
    for eps in budgets:
        found = [get(records, "robust_accuracy", eps=eps, level=level) for level in LEVELS]
        axis.errorbar(range(len(LEVELS)), [m.value for m in found], [Z95 * m.se for m in found], color=style.BLUE,
                      marker="o", linestyle="-" if eps == budgets[0] else "--",
                      markerfacecolor=style.BLUE if eps == budgets[0] else "white")
    axis.set_xticks(range(len(LEVELS)), list(LEVELS.values()), fontsize=6.5)
    axis.set_xlabel("what stands against the attack")
    style.accuracy_axis(axis)


def _masking(axis: Axes, records: list[Measurement], budgets: list[float]) -> None:
    rows = [*(("shattered", {"eps": eps}, f"gained / promised,\nε = {budget(eps)}") for eps in budgets),
            ("unstable", {}, "cosine under\ntwo draws")]
    for place, (claim, at, _) in enumerate(rows):
        value, low, high = ends(records, "effect", claim=claim, **at)
        axis.errorbar(value, place, xerr=[[value - low], [high - value]], color=style.BLACK, marker="o")
        bound = get(records, "effect_below", claim=claim, **at).value
        axis.plot([bound, bound], [place - 0.35, place + 0.35], ":", color=style.VERMILION)
    axis.set_yticks(range(len(rows)), [name for *_, name in rows])
    axis.set(xlabel="ratio, or cosine", xlim=(0, None), ylim=(len(rows) - 0.5, -0.5))


def _sigmas(axis: Axes, records: list[Measurement]) -> None:
    found = select(records, "sigma")
    axis.plot([m.at["trial"] + 1 for m in found], [m.value for m in found], "o", color=style.BLACK)
    low, high = (get(records, f"effect_{side}", claim="sigma").value for side in ("above", "below"))
    axis.axhspan(low, high, color=style.VERMILION, alpha=0.2, linewidth=0)
    axis.axhline(paper_alp.SIGMA, color=style.VERMILION, linewidth=0.9)
    top = 1.1 * max(high, *(m.value for m in found))
    axis.set(xlabel="training (number, each with its own first σ)", ylabel="σ (latent units)", ylim=(0, top))
    axis.set_xticks([m.at["trial"] + 1 for m in found])


def _speeds(axis: Axes, records: list[Measurement]) -> None:
    found = select(records, "effect", claim="speed")
    low, high = (get(records, f"effect_{side}", claim="speed").value for side in ("above", "below"))
    axis.axvspan(low, high, color=style.VERMILION, alpha=0.2, linewidth=0)
    for place, m in enumerate(found):
        value, *interval = ends(records, "effect", **m.at)
        axis.errorbar(value, place, xerr=np.abs(np.array(interval) - value)[:, None], color=style.BLACK, marker="o",
                      markerfacecolor=style.BLACK if m.at["over"] == "draw" else "white")
    over = {"draw": "one draw", "ensemble": "20 draws"}
    axis.set_yticks(range(len(found)), [f"{named(m.at['of'])} / {over[m.at['over']]}" for m in found], fontsize=6.5)
    axis.set(xscale="log", xlabel="time of diffusion over ALP's (ratio)", ylim=(len(found) - 0.5, -0.5))


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """A verdict on each claim, and the levels whose differences are the causes."""
    records = run["alp_claims"]
    found = sorted(select(records, "effect"), key=lambda m: list(CLAIMS).index(m.at["claim"]))
    note = (
        "Brackets are 95 % intervals: over images, for σ and stability over five trainings, for speed over repeats, "
        "which n counts. A claim is decided where the whole interval is on one side of its bounds."
    )
    levels = select(records, "robust_accuracy")
    return [
        Table("Verdicts", [_verdict(records, m) for m in found], note),
        Table("Robust accuracy behind the causes (%)",
              [{"eps": budget(eps)} | {level: number(get(levels, "robust_accuracy", eps=eps, level=level))
                                       for level in LEVELS} for eps in distinct(levels, "eps")], errors_over(levels)),
    ]


def _verdict(records: list[Measurement], m: Measurement) -> Row:
    claim, at = m.at["claim"], m.at
    settings = [f"eps {budget(at['eps'])}"] if "eps" in at else []
    settings += [KNOWS[at["threat"]]] if "threat" in at else []
    settings += [f"{named(at['of'])} over ALP's {at['over']}"] if "of" in at else []
    above, below = (find(records, f"effect_{side}", **at) for side in ("above", "below"))
    bounds = [f"above {above.value:g}"] if above else []
    bounds += [f"below {below.value:.3g}"] if below else []
    setting = ", ".join(settings) or {"unstable": "clean images"}.get(claim, "five trainings")
    return {
        "claim": CLAIMS[claim], "setting": setting, "holds where the effect is": " and ".join(bounds),
        f"{PAPERS}{paper_alp.SETTING}": SAYS.get(claim, "–"), "ours": outcome(records, "effect", **at),
        "effect": bracketed(records, "effect", DIGITS.get(claim, 1), **at), "unit": m.unit, "n": str(m.n),
    }
