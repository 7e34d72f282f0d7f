"""PSNR and defence accuracy of ALP against its noise (alp Fig. 3)."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import paper_alp, style
from .alp import DOCUMENT, READINGS, THREATS, sigma_axis
from .selection import distinct, find, line, percent_bar, select
from .table import Row, Table, budget, errors_over, number, reported

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "What does latent noise cost in fidelity, and buy in robustness?"
CAPTION = (
    "(a) PSNR of purified clean images against the noise in the latent; dotted, about what the document reports on "
    "CIFAR-10. (b, c) Accuracy of the ensemble of 20 draws without an attack, under PGD-7 on the classifier alone, and "
    "under PGD-7 through the ensemble: with the noise changed after training, and with an autoencoder trained at each. "
    "Vertical lines: the learned σ, and dotted, where the document's accuracy peaks. 95 % intervals over images."
)
LOOKS = {"test": (style.BLUE, "o"), "trained": (style.SKY, "s"), "wide": (style.PURPLE, "^")}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `alp_tradeoff` records."""
    records = read_records(folder, "alp_tradeoff")
    figure = style.new_figure(2.9)
    fidelity, test, trained = figure.subplots(1, 3)
    for reading, (colour, marker) in LOOKS.items():
        sigma, value, half = line(select(records, "psnr", reading=reading), "sigma")
        fidelity.errorbar(sigma, value, half, color=colour, marker=marker, markersize=3.5)
    fidelity.plot(*zip(*paper_alp.PSNR.items(), strict=True), color=style.GREY, linestyle=":")
    fidelity.set_ylabel("PSNR of purified clean images (dB)")
    for axis, reading in ((test, "test"), (trained, "trained")):
        _accuracies(axis, records, reading)
    learned = next(m.at["sigma"] for m in select(records, "psnr", reading="test", learned=True))
    test.axvline(learned, color=style.GREY, linewidth=0.9, zorder=0)
    for axis in (fidelity, test, trained):
        sigma_axis(axis, distinct(records, "sigma"))
    eps = max(distinct(records, "eps"))
    style.letter([fidelity, test, trained], ["fidelity", f"changed, ε = {budget(eps)}", f"trained, ε = {budget(eps)}"])
    handles = [Line2D([], [], color=c, marker=m, label=READINGS[r]) for r, (c, m) in LOOKS.items()]
    handles += [Line2D([], [], color=c, marker=m, label=n) for t, (c, m, n) in THREATS.items()
                if t in distinct(records, "threat")]
    style.legend_below(figure, handles, 3)
    return figure


def _accuracies(axis: Axes, records: list[Measurement], reading: str) -> None:
    for threat in distinct(records, "threat"):
        found = sorted(select(records, "accuracy", reading=reading, threat=threat), key=lambda m: m.at["sigma"])
        colour, marker, _ = THREATS[threat]
        axis.plot([m.at["sigma"] for m in found], [m.value for m in found], color=colour)
        for m in found:
            axis.errorbar(m.at["sigma"], m.value, percent_bar(m), color=colour, marker=marker, markersize=3.5)
    axis.axvline(paper_alp.BEST_SIGMA, color=style.GREY, linestyle=":", linewidth=0.9, zorder=0)
    style.accuracy_axis(axis, "accuracy (%)")


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """Each purifier's PSNR and accuracies."""
    records = run["alp_tradeoff"]

    def row(m: Measurement) -> Row:
        at = m.at
        theirs = paper_alp.PSNR.get(at["sigma"]) if at["reading"] != "wide" and not at["learned"] else None
        return {
            "noise": READINGS[at["reading"]], "σ": f"{at['sigma']:.3g}{' (learned)' if at['learned'] else ''}",
            "PSNR (dB)": number(m, 2), f"{DOCUMENT}: PSNR, about (dB)": reported(theirs, 0),
            **{f"{THREATS[t][2]} (%)": number(find(records, "accuracy", **at, threat=t))
               for t in distinct(records, "threat")},
        }

    found = select(records, "psnr")
    eps = max(distinct(records, "eps"))
    theirs = paper_alp.TABLE_2["alp"]
    note = (f"{errors_over(found)} PGD-7 at ε = {budget(eps)}, decided on by the ensemble of 20. At its learned σ the "
            f"document reports {theirs.psnr} dB, and {theirs.robust} % robust at 8/255.")
    return [Table("Fidelity and robustness of ALP by its noise", [row(m) for m in found], note)]
