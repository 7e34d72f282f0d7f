"""Examples of clean, adversarial and purified images with their rates and the classifier's answers (Figs. S7, S8)."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure, SubFigure

from ..compression.records import Arrays, Measurement, read_records, read_shards
from . import style
from .selection import get, select
from .table import Row, Table, budget, cell_columns, cell_name, cells, errors_over, number

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Examples of adversarial and purified images"
CAPTION = (
    "Images at even quantiles of the compression rate, which stands above each, samplers from the smallest mean rate "
    "to the largest. Above every image is the classifier's answer, coloured and bold where it is wrong. PGD with full "
    "gradients through the purifier, at the largest budget."
)
KINDS = ("clean", "adversarial", "purified clean", "purified adversarial")
ROWS = ("clean", "adversarial", "purified\nclean", "purified\nadversarial")
SHOWN = 9
"""Images of each sampler."""


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `examples` shards."""
    records, shards = read_records(folder, "examples"), read_shards(folder, "examples")
    ordered = sorted(select(records, "rate_l2"), key=lambda m: m.value)
    figure = style.new_figure(3.1 * len(ordered))
    parts = np.atleast_1d(figure.subfigures(len(ordered), 1, hspace=0.02))
    for part, m in zip(parts, ordered, strict=True):
        part.suptitle(f"{cell_name(m.at)}, ε = {budget(m.at['eps'])}: mean rate {m.value:.2f}", x=0.01, ha="left",
                      weight="bold", fontsize=8.5)
        _grid(part, shards[f"{m.at['sampler']}-t{m.at['t_star']}"])
    return figure


def _grid(part: SubFigure, found: Arrays) -> None:
    order = np.argsort(found["rate"])
    chosen = order[np.unique(np.linspace(0, len(order) - 1, SHOWN).round().astype(int))]
    axes = part.subplots(len(KINDS), len(chosen), squeeze=False)
    for column, image in enumerate(chosen):
        for row, axis in enumerate(axes[:, column]):
            answer, pixels = found["answer"][image, row], found["image"][image, row]
            axis.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
            right = {"color": style.BLACK, "weight": "normal"}
            looks = right if answer == found["label"][image] else {"color": style.VERMILION, "weight": "bold"}
            axis.set_title(f"{answer}", **looks, fontsize=7, loc="center", pad=2)
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.spines[:].set_visible(False)
        axes[0, column].annotate(f"rate {found['rate'][image]:.2f}", (0.5, 1), (0, 11), xycoords="axes fraction",
                                 textcoords="offset points", ha="center", fontsize=7)
    for axis, words in zip(axes[:, 0], ROWS, strict=True):
        axis.set_ylabel(words, rotation=0, ha="right", va="center")


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """What the classifier answers to each kind of image, and whether the rate tells which images break."""
    records = run["examples"]

    def row(cell: dict, t: int) -> Row:
        value, low, high = (get(records, f"rank_correlation{end}", **cell).value for end in ("", "_low", "_high"))
        return {
            **cell_columns(cell, t), "l2 rate": number(get(records, "rate_l2", **cell), 3),
            **{f"{kind} (%)": number(get(records, "accuracy", **cell, kind=kind)) for kind in KINDS},
            "rank correlation of rate and margin": f"{value:.2f} [{low:.2f}, {high:.2f}]",
        }

    eps = get(records, "rate_l2").at["eps"]
    note = f"{errors_over(records)} Brackets: 95 % bootstrap interval over images."
    return [Table(f"Accuracy by kind of image, eps {budget(eps)}", [row(*c) for c in cells(records)], note)]
