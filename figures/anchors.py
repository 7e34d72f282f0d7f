"""Minimum perturbations at anchors beside those at clean images: distributions, survival, shifts (Fig. S1)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..compression.records import Arrays, Measurement, read_records
from . import paper, style
from . import paper_anchors as theirs
from .intervals import OUTCOMES, bracketed, ends
from .minimum_perturbation import perturbations, survival_steps
from .selection import distinct, get, select
from .table import PAPERS, Row, Table, cell_columns, cells, errors_over, number, unit_of

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Minimum perturbations at anchors and at clean images"
CAPTION = (
    "First row: smallest l_inf perturbation that changes the bare classifier's answer at the anchors of each sampler "
    "(filled) and at the clean images (outline); the bars left of 0 hold what is misclassified as it is. Second row: "
    "survival of both, with the pointwise 95 % band of the clean images; shift of the median from clean images to "
    "anchors, relative to the clean median, with 95 % intervals over images, and as a grey band the shifts that count "
    "as alike; rank correlation between an image's distance and its anchor's."
)
TESTS = {"log_rank": "log-rank p", "kolmogorov_smirnov": "Kolmogorov-Smirnov p", "signed_rank": "signed-rank p"}
LEVEL = 0.05


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `anchors` records, with the distances that they compare."""
    records = read_records(folder, "anchors")
    own = unit_of(records)
    shards = perturbations(folder, own, distinct(records, "sampler"))
    found = select(records, "median_shift")
    samplers, clean, t_star = distinct(found, "sampler"), shards["none-t0"]["distance"], _shown(found)
    shown = [("none", 0), *((sampler, t_star) for sampler in samplers)]
    n, limit = len(clean), 1.02 * max(shards[f"{s}-t{t}"]["distance"].max() for s, t in shown)
    bins = np.linspace(0, limit, min(16, 6 + n // 8))
    figure = style.new_figure(4.6)
    top, bottom = figure.subfigures(2, 1)
    upper, lower = top.subplots(1, len(samplers), sharey=True, squeeze=False)[0], bottom.subplots(1, 3)
    for axis, sampler in zip(upper, samplers, strict=True):
        _distribution(axis, style.SAMPLER_COLOURS[sampler], shards[f"{sampler}-t{t_star}"]["distance"], bins, n)
        _distribution(axis, style.BLACK, clean, bins, n, histtype="step", linewidth=1.1, alpha=1)
        axis.set_xlabel(f"minimum perturbation ({own.name})")
    upper[0].set_ylabel("images (% per bin)")
    _survival(lower[0], samplers, t_star, shards, clean, limit)
    lower[0].set_xlabel(rf"budget ($\ell_\infty$, {own.name})")
    relative = 100 / get(records, "median", sampler="none").value
    _over_time(lower[1], records, "median_shift", relative)
    tolerance = relative * get(records, "median_shift_below").value
    lower[1].axhspan(-tolerance, tolerance, color=style.GREY, alpha=0.15, linewidth=0)
    lower[1].axhline(0, color=style.BLACK, linewidth=0.7)
    lower[1].set_ylabel("shift of median (% of clean)")
    _over_time(lower[2], records, "spearman", 1)
    lower[2].set(ylabel="rank correlation (ratio)", ylim=(min(0, lower[2].get_ylim()[0]), 1.03))
    names = [f"{style.SAMPLER_NAMES[s]}, t* = {t_star}" for s in samplers]
    style.letter([*upper, *lower], [*names, f"survival, t* = {t_star}", "shift", "image and its anchor"])
    style.legend_below(bottom, style.sampler_handles(["none", *samplers]), 4)
    bottom.legends[0].get_texts()[0].set_text("clean images")
    return figure


def _shown(records: list[Measurement]) -> int:
    """The t* nearest to the paper's t = 100."""
    return min(cells(records), key=lambda cell: abs(cell[1] - paper.TABLE_3_T))[0]["t_star"]


def _distribution(axis: Axes, colour: str, distance: np.ndarray, bins: np.ndarray, n: int, **look) -> None:
    look = {"color": colour, "alpha": 0.55, **look}
    right = distance[distance > 0]
    axis.hist(right, bins, weights=np.full(len(right), 100 / n), **look)
    axis.hist([-0.6 * bins[1]], [-0.8 * bins[1], -0.4 * bins[1]], weights=[100 * (n - len(right)) / n], **look)


def _survival(
    axis: Axes, samplers: list[str], t_star: int, shards: dict[str, Arrays], clean: np.ndarray, limit: float
) -> None:
    x, share, low, high = survival_steps(clean, limit)
    axis.fill_between(x, low, high, step="post", color=style.BLACK, alpha=0.12, linewidth=0)
    axis.step(x, share, where="post", color=style.BLACK)
    for sampler in samplers:
        x, share, *_ = survival_steps(shards[f"{sampler}-t{t_star}"]["distance"], limit)
        axis.step(x, share, where="post", color=style.SAMPLER_COLOURS[sampler], linewidth=1.1)
    style.accuracy_axis(axis, "images that survive (%)")
    axis.set_xlim(-0.01 * limit, limit)


def _over_time(axis: Axes, records: list[Measurement], quantity: str, scale: float) -> None:
    samplers, t_stars = distinct(select(records, quantity), "sampler"), distinct(select(records, quantity), "t_star")
    for place, sampler in enumerate(samplers):
        x = np.arange(len(t_stars)) + 0.22 * (place - (len(samplers) - 1) / 2)
        value, low, high = scale * np.array([ends(records, quantity, sampler=sampler, t_star=t) for t in t_stars]).T
        axis.errorbar(x, value, [value - low, high - value], color=style.SAMPLER_COLOURS[sampler], linestyle="none",
                      marker=style.SAMPLER_MARKERS[sampler], elinewidth=0.9)
    axis.set_xticks(np.arange(len(t_stars)), [str(t) for t in t_stars])
    axis.set_xlabel("purification step t* (steps)")


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """Effect sizes, tests and verdicts by cell."""
    records = run["anchors"]
    clean, shown = get(records, "median", sampler="none"), unit_of(records)
    digits = 2 if shown.factor > 1 else 4

    def row(cell: dict, t: int) -> Row:
        of = lambda quantity: get(records, quantity, **cell)
        rejected = [name for name in TESTS if of(f"{name}_p_adjusted").value < LEVEL]
        return {
            **cell_columns(cell, t),
            f"{PAPERS}{theirs.SETTING}": theirs.statement(t),
            "accuracy at anchors (%)": number(of("clean_accuracy")),
            "its shift (points)": number(of("accuracy_shift")),
            f"median ({shown.name})": bracketed(records, "median", digits, shown.factor, **cell),
            "its shift (% of clean)": bracketed(records, "median_shift", 1, 100 / clean.value, **cell),
            "median shift of pairs (% of clean)": bracketed(records, "paired_shift", 1, 100 / clean.value, **cell),
            **{f"{name} (Holm)": f"{of(f'{test}_p').value:.3f} ({of(f'{test}_p_adjusted').value:.2f})"
               for test, name in TESTS.items()},
            "rank-biserial": f"{of('signed_rank').value:.2f}",
            "differs": ", ".join(TESTS[name].removesuffix(" p") for name in rejected) or "not found",
            "alike": {"supported": "yes", "contradicted": "no", "undecided": "open"}[
                OUTCOMES[round(of("median_shift_outcome").value)]],
        }

    found = select(records, "median_shift")
    alike = sum(m.value == 1 for m in select(records, "median_shift_outcome"))
    tolerance = 100 * get(records, "median_shift_below").value / clean.value
    note = (
        f"Median at clean images {shown.factor * clean.value:.{digits}f} ({shown.name}). {errors_over(found)} "
        f"Brackets: 95 % bootstrap intervals. Holm: p-values adjusted for {len(found)} cells; below {LEVEL:g} the "
        f"distributions differ. Alike: the interval of the shift lies within {tolerance:.0f} % of the clean median, in "
        f"{alike} of {len(found)} cells; open where it reaches out of that."
    )
    return [Table("Minimum perturbations at anchors against clean images", [row(*cell) for cell in cells(found)], note)]
