"""Five trainings of ALP: mean, standard deviation, and what each makes of images (alp Fig. 5, App. A)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records, read_shards
from . import paper_alp, style
from .alp import BUDGETS, DOCUMENT, THREATS, sigma_axis
from .selection import distinct, get, line, select
from .table import Row, Table, budget, number

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Does ALP depend on its seed?"
CAPTION = (
    "(a) Accuracy under FGSM through the ensemble of 20 draws against the noise in the latent, mean over five trials "
    "and band of one standard deviation. (b) At the learned σ: each trial (dots), mean and standard deviation, and the "
    "document's on CIFAR-10 at 8/255 with adversarial training (star). (c) Of each trial, for the same images, from "
    "above: clean, attacked by PGD-7 through the ensemble, the clean purified, the attacked purified."
)


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `alp_trials` records and images."""
    records, shards = read_records(folder, "alp_trials"), read_shards(folder, "alp_trials")
    figure = style.new_figure(4.4)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.3, 1))
    bands, learned = top.subplots(1, 2)
    _bands(bands, records)
    _learned(learned, records)
    style.letter([bands, learned], ["FGSM, five trials", f"learned σ, PGD-7 at ε = {budget(_eps(records))}"])
    axes = bottom.subplots(1, len(shards))
    for axis, (name, found) in zip(axes, sorted(shards.items()), strict=True):
        _mosaic(axis, found["grid"])
        axis.set_title(f"trial {int(name.removeprefix('trial')) + 1}, σ = {float(found['sigma']):.3f}",
                       fontsize=7.5, weight="normal", loc="center")
    bottom.suptitle("c   purified images", x=0.01, ha="left", weight="bold", fontsize=8.5)
    return figure


def _eps(records: list[Measurement]) -> float:
    return select(records, "accuracy", attack="PGD-7")[0].at["eps"]


def _bands(axis: Axes, records: list[Measurement]) -> None:
    found = select(records, "accuracy", attack="FGSM")
    for eps, colour in style.looks(sorted(distinct(found, "eps")), BUDGETS[1:]):
        sigma, mean, _ = line(select(found, "accuracy", eps=eps), "sigma")
        _, spread, _ = line(select(records, "accuracy_spread", attack="FGSM", eps=eps), "sigma")
        axis.fill_between(sigma, mean - spread, mean + spread, color=colour, alpha=0.25, linewidth=0)
        axis.plot(sigma, mean, color=colour, marker="o", markersize=3.5, label=f"ε = {budget(eps)}")
    axis.legend()
    sigma_axis(axis, distinct(found, "sigma"))
    style.accuracy_axis(axis, "accuracy (%)")


def _learned(axis: Axes, records: list[Measurement]) -> None:
    found = [m for m in select(records, "accuracy") if m.at["attack"] != "FGSM"]
    for place, m in enumerate(found):
        colour, marker, _ = THREATS[m.at["threat"]]
        trials = [t.value for t in select(records, "accuracy_of_trial", **m.at)]
        axis.plot(place - 0.15 + 0.05 * np.arange(len(trials)), trials, ".", color=colour, alpha=0.6)
        axis.errorbar(place + 0.22, m.value, get(records, "accuracy_spread", **m.at).value, color=colour, marker=marker)
    axis.errorbar(len(found) - 0.6, paper_alp.TRIALS, paper_alp.TRIALS_SD, color=style.GREY, marker="*",
                  markerfacecolor="white", markersize=9)
    axis.legend(handles=[Line2D([], [], color=style.GREY, marker="*", markerfacecolor="white", linestyle="",
                                markersize=8, label="document")])
    names = {"none": "no attack", "classifier": "on the\nclassifier alone", "ensemble": "through\nthe ensemble"}
    axis.set_xticks(range(len(found)), [names[m.at["threat"]] for m in found])
    axis.set_xlim(-0.5, len(found) - 0.3)
    style.accuracy_axis(axis, "accuracy (%)")
    axis.set_xlabel("what PGD-7 knows")


def _mosaic(axis: Axes, grid: np.ndarray) -> None:
    """grid: [kinds, images, height, width, channel], a row of pictures for each kind."""
    framed = np.pad(grid, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1)
    kinds, images, height, width, channels = framed.shape
    picture = framed.transpose(0, 2, 1, 3, 4).reshape(kinds * height, images * width, channels)
    axis.imshow(picture[..., 0] if channels == 1 else picture, cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """Means and standard deviations over the trials."""
    records = run["alp_trials"]
    document = DOCUMENT

    def row(words: str, m: Measurement, digits: int = 1, theirs: str = "–") -> Row:
        spread = get(records, f"{m.quantity}_spread", **m.at).value
        trials = [f"{t.value:.{digits}f}" for t in select(records, f"{m.quantity}_of_trial", **m.at)]
        return {"of": words, "mean": number(m, digits), "standard deviation": f"{spread:.{digits}f}",
                "trials": ", ".join(trials), document: theirs}

    rows = [row("learned σ", get(records, "sigma"), 4, f"{paper_alp.SIGMA}"),
            row("PSNR (dB)", get(records, "psnr"), 2, f"{paper_alp.TABLE_2['alp'].psnr}"),
            row("clean accuracy (%)", get(records, "accuracy", attack="none"))]
    for m in select(records, "accuracy", attack="PGD-7"):
        theirs = f"{paper_alp.TRIALS}, SD {paper_alp.TRIALS_SD} (8/255, with adversarial training)"
        rows.append(row(f"PGD-7 at ε = {budget(m.at['eps'])}, {THREATS[m.at['threat']][2]} (%)", m, 1, theirs))
    rows += [row(f"FGSM at ε = {budget(m.at['eps'])}, σ = {m.at['sigma']:g} (%)", m)
             for m in select(records, "accuracy", attack="FGSM")]
    n = get(records, "psnr").n
    note = f"± standard error over {n} trials, for the same images; accuracies are the ensemble's of 20 draws."
    return [Table("ALP over five trials", rows, note)]
