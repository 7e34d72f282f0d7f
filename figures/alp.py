"""How the figures of the ALP document's experiments name and colour what they show."""

from matplotlib.axes import Axes

from . import paper_alp, style
from .table import PAPERS

DOCUMENT = f"{PAPERS}{paper_alp.SETTING}"
"""Heading of a column with the document's numbers."""

THREATS = {
    "none": (style.BLACK, "D", "no attack"), "classifier": (style.GREEN, "s", "attack on the classifier alone"),
    "fixed": (style.ORANGE, "^", "through one draw"), "ensemble": (style.VERMILION, "o", "through the ensemble of 20"),
}
"""Colour, marker and words of what an attack knows."""

READINGS = {"none": "no purifier", "test": "σ changed after training", "trained": "trained at each σ",
            "wide": "512 channels, changed after training"}
"""What "at sigma" means."""

BUDGETS = (style.BLACK, style.SKY, style.BLUE, style.PURPLE)
"""Colours of budgets, from the smallest."""


def sigma_axis(axis: Axes, sigmas) -> None:
    """A horizontal axis of latent noise."""
    axis.set(xlabel="latent noise σ (latent units)", xlim=(-0.07, max(sigmas) + 0.07))
