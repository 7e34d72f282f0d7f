"""Minimum perturbations of the bare classifier: zero-inflated Gaussian and survival curves (Fig. 3b, Fig. S1)."""

from collections.abc import Collection
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..compression.records import Arrays, Measurement, read_records, read_shards
from . import style
from .selection import distinct, find, select, wilson
from .table import Unit, unit_of
from .tables import minimum_perturbation as tables

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Minimum perturbations of the classifier"
CAPTION = (
    "(a) Smallest l_inf perturbation that changes the bare classifier's answer at clean images, with the "
    "zero-inflated Gaussian fitted by maximum likelihood; the bar at 0 holds the images that are misclassified "
    "as they are. (b onwards) Share of images that survive a budget, at clean images (black, pointwise 95 % "
    "band; dashed: the fit) and at the anchors of each sampler, by purification step."
)
FITTED = ("zero", "mean", "std")


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `minimum_perturbation` records."""
    records = read_records(folder, "minimum_perturbation")
    shown = unit_of(records)
    shards = perturbations(folder, shown, distinct(records, "sampler"))
    samplers = [s for s in distinct(records, "sampler") if s != "none"]
    fitted = [find(records, f"gaussian_{part}", sampler="none") for part in FITTED]
    fit = [m.value * factor for m, factor in zip(fitted, (1, shown.factor, shown.factor), strict=True)
           if m is not None]  # none of few images
    clean = shards["none-t0"]
    columns = 3 if len(samplers) == 2 else 2
    rows = -(-(1 + len(samplers)) // columns)
    figure = style.new_figure(0.3 + 2.3 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    _histogram(axes[0], clean, fit)
    axes[0].set_xlabel(rf"minimum perturbation ($\ell_\infty$, {shown.name})")
    for axis, sampler in zip(axes[1 : 1 + len(samplers)], samplers, strict=True):
        _survival(axis, sampler, clean, fit, shards, select(records, "clean_accuracy", sampler=sampler))
        axis.set_xlabel(rf"budget ($\ell_\infty$, {shown.name})")
    for axis in axes[1 + len(samplers) :]:
        axis.remove()
    handles = {label: handle for axis in axes[1 : 1 + len(samplers)]
               for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    style.legend_below(figure, list(handles.values()), 7)
    titles = [f"anchors of {style.SAMPLER_NAMES[sampler]}" for sampler in samplers]
    style.letter(axes, ["clean images", *titles])
    return figure


def perturbations(folder: Path, shown: Unit, samplers: Collection[str]) -> dict[str, Arrays]:
    """Minimum perturbations at clean images and at anchors of these samplers by cell, in a unit."""
    found = {name: arrays for name, arrays in read_shards(folder, "minimum_perturbation").items()
             if name.rpartition("-t")[0] in samplers}
    return {name: {**arrays, "distance": shown.factor * arrays["distance"]} for name, arrays in found.items()}


def _histogram(axis: Axes, clean: Arrays, fit: list[float]) -> None:
    distance = clean["distance"][~clean["censored"]]
    n, zero = len(clean["distance"]), np.mean(clean["distance"] == 0)
    widest = distance.max(initial=0) or clean["distance"].max() or 1.0  # where none was broken, none was right
    bins = np.linspace(0, widest, min(25, 6 + n // 8))
    positive = distance[distance > 0]
    axis.hist(positive, bins, weights=np.full(len(positive), 100 / n), color=style.SKY, label=f"measured (n = {n})")
    axis.bar(0, 100 * zero, width=bins[1] / 2, color=style.VERMILION, label=f"misclassified: {100 * zero:.1f} %")
    if fit:
        _, mean, std = fit
        x = np.linspace(0, bins[-1], 200)
        density = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        label = f"Gaussian: mean {mean:.3f}, s.d. {std:.3f}"
        axis.plot(x, 100 * (1 - zero) * density * bins[1], color=style.BLACK, label=label)
    axis.set_ylabel("images (% per bin)")
    axis.set_ylim(0, 1.6 * axis.get_ylim()[1])  # room for the legend above the bars
    axis.legend(loc="upper left")


def _survival(
    axis: Axes, sampler: str, clean: Arrays, fit: list[float], shards: dict[str, Arrays], cells: list[Measurement]
) -> None:
    limit = max(arrays["distance"].max() for arrays in shards.values())
    x, share, low, high = survival_steps(clean["distance"], limit)
    axis.fill_between(x, low, high, step="post", color=style.BLACK, alpha=0.12, linewidth=0)
    axis.step(x, share, where="post", color=style.BLACK, label="clean images")
    if fit:
        survival = 100 * gaussian_survival(x, *fit)
        axis.plot(x, survival, "--", color=style.BLACK, linewidth=0.9, label="fit, clean images")
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(cells)))
    for cell, shade in zip(cells, shades, strict=True):
        t_star = cell.at["t_star"]
        x, share, _, _ = survival_steps(shards[f"{sampler}-t{t_star}"]["distance"], limit)
        colour, label = (shade, f"t* = {t_star}") if t_star else (style.SAMPLER_COLOURS[sampler], "anchors, no t*")
        axis.step(x, share, where="post", color=colour, linewidth=1.1, label=label)
    style.accuracy_axis(axis, "images that survive (%)")
    axis.set_xlim(-0.01 * limit, limit)


def survival_steps(distance: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Budgets up to `limit`, and the percentage of images that survive each, with Wilson's 95 % interval.

    Censoring happens only at the search's limit, below which Kaplan-Meier's curve is this plain share.
    """
    n = len(distance)
    budgets = np.unique(np.concatenate([[0.0], distance[distance < limit], [limit * (1 - 1e-9)]]))
    share = (distance[None] > budgets[:, None]).mean(1)
    low, high = wilson(share, n)
    return budgets, 100 * share, 100 * low, 100 * high


def gaussian_survival(x: np.ndarray, zero: float, mean: float, std: float) -> np.ndarray:
    """Survival function of a zero-inflated Gaussian."""
    from scipy.special import ndtr

    return (1 - zero) * ndtr((mean - x) / std)
