"""Purification directions under randomness, and distances to centroids (Fig. 2); variances (Tables S12, S13)."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Arrays, Measurement, read_records, read_shards
from . import paper_randomness as paper
from . import style
from .selection import find, get
from .table import NONE, PAPER, Row, Table, budget, cell_columns, cell_name, cells, errors_over, number, reported

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Randomness against input: what varies in a purified image"
CAPTION = (
    "The first sampler. (a) Correlations between the purification directions f(x) - x of one input under different "
    "configurations xi, at the first image. (b) The same between perturbed inputs under one configuration. "
    "(c) Distribution of l2 distances to the centroid, over all images: of the perturbed inputs, of what purification "
    "makes of them under one configuration, of one input under many, and of both varied; dotted lines are means."
)
NAMES = {
    "initial": "inputs",
    "fixed_randomness": "randomness fixed",
    "fixed_input": "input fixed",
    "vary_both": "both varied",
}
COLOURS = {
    "initial": style.GREY,
    "fixed_randomness": style.BLUE,
    "fixed_input": style.VERMILION,
    "vary_both": style.BLACK,
}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `randomness` records."""
    records, shards = read_records(folder, "randomness"), read_shards(folder, "randomness")
    cell, _ = next(cells(records))
    arrays = shards[f"{cell['sampler']}-t{cell['t_star']}"]
    figure = style.new_figure(2.8)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.35])
    for axis, fixed, label in ((left, "fixed_input", "configuration"), (middle, "fixed_randomness", "perturbed input")):
        image = axis.imshow(arrays[f"matrix_{fixed}"], cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        mean = get(records, "correlation", **cell, set=fixed).value
        axis.set(xlabel=f"{label}\n(mean over images {mean:.2f})", ylabel=label)
        axis.grid(False)
    figure.colorbar(image, ax=[left, middle], shrink=0.7, label="correlation", pad=0.02)
    _histogram(right, records, arrays, cell)
    style.legend_below(figure, [Line2D([], [], color=COLOURS[kind], label=words) for kind, words in NAMES.items()], 4)
    style.letter([left, middle, right], ["input fixed", "randomness fixed", cell_name(cell)])
    return figure


def _histogram(axis: Axes, records: list[Measurement], arrays: Arrays, cell: dict) -> None:
    for kind in NAMES:
        density, colour = arrays[f"density_{kind}"], COLOURS[kind]
        axis.stairs(density, arrays["edges"], color=colour, linewidth=1.2)
        axis.axvline(get(records, "radius", **cell, set=kind).value, color=colour, linestyle=":", linewidth=0.9)
    axis.set(xlabel=r"$\ell_2$ to the centroid (pixel units)", ylabel="density (per pixel unit)", ylim=(0, None))


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """Variances with the SNR, distances to centroids and mean correlations, beside the paper's."""
    records = run["randomness"]
    return [_variances(records), _radii(records)]


def _rows(records: list[Measurement], ours, theirs: Row) -> list[Row]:
    found = [{**cell_columns(cell, t), **ours(cell)} for cell, t in cells(records)]
    last = dict.fromkeys(found[0], NONE)
    return [*found, {**last, "sampler": f"{PAPER} DDPM", "t* (paper's t)": f"({paper.T})", **theirs}]


def _variances(records: list[Measurement]) -> Table:
    columns = {
        "total": "total variance / 10^-3",
        "input": "input variance / 10^-3",
        "internal": "internal variance / 10^-3",
        "interaction": "of the input's, not common to all xi / 10^-3",
        "total_direct": "total from independent pairs / 10^-3",
        "total_gap": "pairs minus sum / 10^-3",
    }

    def ours(cell: dict) -> Row:
        return {
            **{name: _scaled(get(records, "variance", **cell, of=kind)) for kind, name in columns.items()},
            "SNR, mean over images": number(find(records, "snr", **cell), 3),
            "SNR, ratio of means": number(find(records, "snr_of_means", **cell), 3),
        }

    theirs = {columns[kind]: _spread(paper.TABLE_S12[kind], 1e3, 3) for kind in paper.TABLE_S12}
    theirs["SNR, mean over images"] = _spread(paper.SNR, 1, 4)
    note = (f"{errors_over(records)} The paper's ± is over its images. The input's variance grows with the square of "
            "eps, the internal one does not.")
    return Table(f"Table S12: variances at eps {budget(_eps(records))}", _rows(records, ours, theirs), note)


def _radii(records: list[Measurement]) -> Table:
    correlations = {kind: f"correlation, {NAMES[kind]}" for kind in paper.FIGURE_2}

    def ours(cell: dict) -> Row:
        return {
            **{f"radius, {words}": number(get(records, "radius", **cell, set=k), 3) for k, words in NAMES.items()},
            "randomness expands below eps": number(get(records, "expansion_threshold", **cell), 3),
            **{name: number(get(records, "correlation", **cell, set=k), 3) for k, name in correlations.items()},
        }

    theirs = {f"radius, {NAMES[k]}": _spread(theirs, 1, 3) for k, theirs in paper.TABLE_S13.items()}
    theirs |= {correlations[k]: _spread(theirs, 1, 4) for k, theirs in paper.FIGURE_2.items()}
    title = f"Table S13 and Fig. 2: l2 radii (pixel units) and correlations at eps {budget(_eps(records))}"
    return Table(title, _rows(records, ours, theirs), errors_over(records))


def _eps(records: list[Measurement]) -> float:
    return get(records, "radius").at["eps"]


def _scaled(m: Measurement) -> str:
    return f"{1e3 * m.value:.3f} ± {1e3 * m.se:.3f}"


def _spread(theirs: paper.Spread, scale: float, digits: int) -> str:
    return f"{reported(scale * theirs.mean, digits)} ± {reported(scale * theirs.spread, digits)}"
