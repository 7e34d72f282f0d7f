"""Denoising error of the noise predictor, and of a flow, by time, and the classifier's clean accuracy."""

from pathlib import Path

from matplotlib.figure import Figure

from ..compression.records import read_records
from . import style
from .selection import get, line, select
from .tables import training as tables

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "The networks"
CAPTION = (
    "Mean squared error of the predicted noise at test images (1 would be no prediction at all) by step of the "
    "1000-step schedule, a rectified flow's where it leaves as much of the image, with 95 % intervals over images."
)

LINES = (
    ("noise_prediction_error", style.BLUE, "o", "noise predictor"),
    ("flow_prediction_error", style.SAMPLER_COLOURS["flow"], style.SAMPLER_MARKERS["flow"], "rectified flow"),
)
"""Quantity, colour, marker and name of what is drawn."""


@style.applied()
def draw(folder: Path) -> Figure | None:
    """The figure of a run's `training` records; None where the run has neither noise predictor nor velocity."""
    records = read_records(folder, "training")
    if not any(select(records, quantity) for quantity, *_ in LINES):
        return None
    figure = style.new_figure(2.4, width=3.5)
    axis = figure.subplots()
    for quantity, colour, marker, name in LINES:
        if shown := select(records, quantity):
            axis.errorbar(*line(shown, "t"), color=colour, marker=marker, label=name)
    if select(records, "flow_prediction_error"):
        axis.legend(loc="lower left")
    axis.set(xscale="log", yscale="log", xlabel="time t (steps of 1000)", ylabel="noise error (mean squared)")
    clean = get(records, "clean_accuracy")
    remark = f"classifier: {clean.value:.1f} ± {clean.se:.1f} %\nclean accuracy (n = {clean.n})"
    axis.text(0.97, 0.95, remark, transform=axis.transAxes, ha="right", va="top")
    return figure
