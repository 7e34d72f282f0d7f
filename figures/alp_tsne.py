"""Classifier features of clean, attacked and purified images, and how far they are from their class (ALP Fig. 4)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records, read_shards
from . import style
from .selection import Z95, distinct, find, get, select
from .table import Row, Table, budget, errors_over, number

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Does ALP return attacked images to their class?"
CAPTION = (
    "t-SNE of the classifier's penultimate features: clean images, attacked ones, and what ALP at its learned σ makes "
    "of those, for PGD-7 that knows the classifier alone (a) and through ALP (b). (c) What a map cannot say: mean "
    "distance to the centroid of an image's class, in units of a clean training image's own; 95 % intervals over "
    "images."
)
KINDS = {
    "clean": (style.BLUE, "o", "clean"), "attacked": (style.VERMILION, "x", "attacked"),
    "learned": (style.GREEN, "^", "purified, learned σ"), "1": (style.PURPLE, "v", "purified, σ = 1"),
}
MAPPED = ("clean", "attacked", "learned")
KNOWN = {"classifier": "the classifier alone", "defence": "ALP"}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `alp_tsne` records and shards."""
    records, shards = read_records(folder, "alp_tsne"), read_shards(folder, "alp_tsne")
    figure = style.new_figure(2.9)
    axes = figure.subplots(1, 3)
    for axis, known in zip(axes[:-1], KNOWN, strict=True):
        _map(axis, shards[known])
    _distances(axes[2], records)
    style.letter(list(axes), ["attack knows the classifier", "attack knows ALP", "distance"])
    handles = [Line2D([], [], color=c, marker=m, linestyle="none", label=name) for c, m, name in KINDS.values()]
    style.legend_below(figure, handles, 4)
    return figure


def _map(axis: Axes, found: dict[str, np.ndarray]) -> None:
    for kind in MAPPED:
        colour, marker, _ = KINDS[kind]
        face = colour if marker == "x" else "none"
        axis.scatter(*found[f"map_{kind}"].T, s=11, marker=marker, c=face if marker == "x" else None, linewidths=0.7,
                     **({} if marker == "x" else {"facecolors": face, "edgecolors": colour}))
    axis.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")


def _distances(axis: Axes, records: list[Measurement]) -> None:
    known = distinct(select(records, "distance"), "known")
    for place, attack in enumerate(known):
        for shift, (kind, (colour, marker, _)) in zip((-0.24, -0.08, 0.08, 0.24), KINDS.items(), strict=True):
            m = get(records, "distance", known=attack, of=kind)
            axis.errorbar(place + shift, m.value, Z95 * m.se, color=colour, marker=marker, linestyle="none")
    axis.set_xticks(range(len(known)), [KNOWN[attack].removesuffix(" alone") for attack in known])
    axis.set(xlim=(-0.5, len(known) - 0.5), ylim=(0, None), xlabel="the attack knows",
             ylabel="distance to own centroid\n(clean training images = 1)")


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """Distances to class centroids, what is taken back, and nearest centroids."""
    records = run["alp_tsne"]
    found = select(records, "distance")
    note = (f"{errors_over(found)} PGD-7 at eps {budget(found[0].at['eps'])}. Distances in units of a clean training "
            "image's mean distance to its centroid; taken back: the share of what the attack adds to the mean distance "
            "that purification removes, where that is clearly more than 0.")
    return [Table("Realignment with the clean class centroids", [_row(records, m) for m in found], note)]


def _row(records: list[Measurement], m: Measurement) -> Row:
    at = {name: m.at[name] for name in ("known", "of")}
    purified = m.at["of"] not in ("clean", "attacked")
    return {
        "attack knows": KNOWN[m.at["known"]], "images": KINDS[m.at["of"]][2], "distance to own centroid": number(m, 2),
        "nearest centroid is own (%)": number(get(records, "nearest", **at)),
        "closer by": number(get(records, "return", **at), 2) if purified else "–",
        "taken back (%)": number(find(records, "realignment", **at)),
    }
