"""Where a learned latent noise ends, whatever it begins at (alp Fig. 2)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import paper_alp, style
from .alp import DOCUMENT
from .selection import distinct, find, get, line, select
from .table import NONE, Row, Table, number, reported

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Where does a learned latent noise end?"
CAPTION = (
    "Learned σ over the training of five trials with different seeds and first values (colours), with distortion and "
    "rate as objective, and with reconstruction alone (dashed), which has no optimum. Dash-dotted: the optimum of a "
    "linear autoencoder of Gaussian images with the training images' mean and covariance. Dotted: where the document's "
    "trials end on CIFAR-10, with an objective that it does not name. (a) From the start, on a logarithmic axis. "
    "(b) The last half of the training."
)
COLOURS = (style.BLUE, style.SKY, style.GREEN, style.ORANGE, style.PURPLE)


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `alp_sigma` records."""
    records = read_records(folder, "alp_sigma")
    figure = style.new_figure(2.9)
    whole, end = figure.subplots(1, 2)
    linear = get(records, "linear_sigma").value
    for axis in (whole, end):
        for number_, colour in style.looks(distinct(records, "trial"), COLOURS):
            _path(axis, records, colour, objective="distortion + rate", trial=number_)
        axis.axhline(linear, color=style.BLACK, linestyle="-.", linewidth=0.9)
        axis.axhline(paper_alp.SIGMA, color=style.GREY, linestyle=":", linewidth=1.1)
        axis.set(xlabel="training (steps)", ylabel="σ (latent units)")
    _path(whole, records, style.BLACK, linestyle="--", objective="reconstruction")
    whole.set_yscale("log")
    whole.yaxis.set_major_formatter("{x:g}")
    whole.yaxis.set_minor_formatter("")
    last = max(distinct(records, "step"))
    late = np.array([m.value for m in select(records, "sigma", objective="distortion + rate")
                     if m.at["step"] >= last / 2] + [linear, paper_alp.SIGMA])
    end.set(xlim=(last / 2, last), ylim=(late.min() - 0.1 * np.ptp(late), late.max() + 0.1 * np.ptp(late)))
    style.letter([whole, end], ["five trials", "their last half"])
    handles = [Line2D([], [], color=c, label=f"trial {n + 1}, from {_first(records, n):g}")
               for n, c in style.looks(distinct(records, "trial"), COLOURS)]
    handles += [Line2D([], [], color=style.BLACK, linestyle="--", label="reconstruction alone"),
                Line2D([], [], color=style.BLACK, linestyle="-.", label="linear, closed form"),
                Line2D([], [], color=style.GREY, linestyle=":", label="document, CIFAR-10")]
    style.legend_below(figure, handles, 4)
    return figure


def _first(records: list[Measurement], trial: int) -> float:
    return get(records, "last_sigma", objective="distortion + rate", trial=trial).at["first"]


def _path(axis: Axes, records: list[Measurement], colour: str, linestyle: str = "-", **at) -> None:
    steps, sigma, _ = line(select(records, "sigma", **at), "step")
    axis.plot(steps, sigma, color=colour, linestyle=linestyle)


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """First and last sigma of each training, their mean and spread, the closed form and the document's."""
    records = run["alp_sigma"]
    document = f"{DOCUMENT}: σ"

    def row(words: str, first: str, last: str, theirs: float | None = None) -> Row:
        return {"training": words, "first σ": first, "last σ": last, document: reported(theirs, 3)}

    rows = [
        row(f"trial {m.at['trial'] + 1}" if m.at["objective"] != "reconstruction" else "reconstruction alone",
            f"{m.at['first']:g}", f"{m.value:.4f}") for m in select(records, "last_sigma")
    ]
    mean, spread = get(records, "learned_sigma"), get(records, "spread").value
    rows.append(row("mean of the trials", NONE, f"{number(mean, 4)}, spread {spread:.4f}", paper_alp.SIGMA))
    rows.append(row("closed form, linear and Gaussian", NONE, number(find(records, "linear_sigma"), 4)))
    note = (f"± standard error over {mean.n} trials, of the closed form by the jackknife over images. Spread: standard "
            "deviation over trials.")
    return [Table("Learned latent noise", rows, note)]
