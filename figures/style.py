"""How every figure looks, and how it is saved so that the same records give the same bytes."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from string import ascii_lowercase
from typing import ClassVar

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from ..compression.records import write_atomic

WIDTH = 7.0
"""Width of a figure across both columns of a paper, in inches."""

DPI = 200
"""Resolution of a saved figure."""

# Okabe and Ito (2008): distinguishable with every common form of colour blindness.
BLACK, GREY, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#7f7f7f",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)


class Looks(dict):
    """How each known purifier looks; one of one's own takes the next of `spare`, alike in all figures of a process."""

    asked: ClassVar[list[str]] = []

    def __init__(self, known: dict[str, str], spare: Sequence[str] = ()):
        super().__init__(known)
        self.spare = spare

    def __missing__(self, name: str) -> str:
        if not self.spare:
            return name
        if name not in self.asked:
            self.asked.append(name)
        return self.spare[self.asked.index(name) % len(self.spare)]



SAMPLER_COLOURS = Looks({
    "ddpm": BLUE, "reverse": GREEN, "ddim": VERMILION, "sde": PURPLE, "ode": ORANGE, "one_step": GREY, "dpm": SKY,
    "flow": "#8C510A", "none": BLACK,
}, ("#AA3377", "#117733", "#332288", "#B58900", "#661100"))
SAMPLER_MARKERS = Looks({
    "ddpm": "o", "reverse": "s", "ddim": "^", "sde": "v", "ode": "P", "one_step": "X", "dpm": "<", "flow": "*",
    "none": "D",
}, "ph>d8H")
SAMPLER_NAMES = Looks({
    "ddpm": "DDPM", "reverse": "Reverse-only", "ddim": "DDIM", "sde": "VP-SDE", "ode": "Probability flow",
    "one_step": "One step", "dpm": "DPM-20", "flow": "Rectified flow", "none": "no purifier",
})

SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "errorbar.capsize": 0,
    "figure.facecolor": "white",
    "svg.hashsalt": "purimetry",
}


def applied():
    """A context (or decorator of a `draw`) in which artists take this style; Matplotlib reads it as they are made."""
    return matplotlib.rc_context(SETTINGS)


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure that arranges its own margins; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def letter(axes: list[Axes], titles: list[str]) -> None:
    """Title the first panels "a  ...", "b  ..." ."""
    for title, axis, mark in looks(titles, axes, ascii_lowercase):
        axis.set_title(f"{mark}   {title}")


def looks(items: Iterable, *palettes: Sequence) -> list[tuple]:
    """Each item with its own of every palette; ValueError where one is too short, which would leave data out.

    >>> looks([0.1, 0.2], ["blue", "red", "green"])
    [(0.1, 'blue'), (0.2, 'red')]
    """
    items = list(items)
    return list(zip(items, *(palette[: len(items)] for palette in palettes), strict=True))


def sampler_handles(samplers: Iterable[str], linestyle: str = "-") -> list[Line2D]:
    """Legend entries of samplers."""
    return [
        Line2D([], [], color=SAMPLER_COLOURS[s], marker=SAMPLER_MARKERS[s], linestyle=linestyle, label=SAMPLER_NAMES[s])
        for s in samplers
    ]


def legend_below(figure: FigureBase, handles: list[Artist], columns: int) -> None:
    """One legend below all panels of a figure, where it covers no data."""
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.4)


def accuracy_axis(axis: Axes, label: str = "robust accuracy (%)") -> None:
    """A vertical axis that holds 0 to 100 %, with room for a marker at either end."""
    axis.set(ylim=(-3, 103), ylabel=label)


def encode(figure: Figure, format: str) -> bytes:
    """The figure as "png" or "svg", without date or software in it."""
    metadata = {"Date": None} if format == "svg" else {"Software": None}
    with applied(), BytesIO() as buffer:
        _arrange(figure)
        figure.savefig(buffer, format=format, dpi=DPI, metadata=metadata)
        return buffer.getvalue()


def _arrange(figure: Figure) -> None:
    """Settle the margins for good, rounded: the last bits of the layout's solver follow addresses in memory.

    At the resolution that is saved, whose hinting sets how much room a label takes.
    """
    figure.set_dpi(DPI)
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")
    for axis in figure.axes:
        axis.set_position(Bbox(axis.get_position(original=True).get_points().round(6)))


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write folder/name.png and folder/name.svg, each atomically."""
    for format in ("png", "svg"):
        write_atomic(Path(folder) / f"{name}.{format}", encode(figure, format))
