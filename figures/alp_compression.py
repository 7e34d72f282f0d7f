"""Autoencoder purifiers beside diffusion: compression, and robustness predicted from it."""

from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Measurement, read_records
from . import autoencoders, predictors, style
from .selection import Z95, distinct, find, get, percent_bar, select
from .table import Row, Table, budget, errors_over, number

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Autoencoder purifiers beside diffusion"
CAPTION = (
    "Each row is a purifier. (a) Expected l2 rate and rate along the margin's gradient at the first budget. (b) "
    "Largest singular value of the Jacobian and (c) its effective rank. (d) SNR of input against randomness; "
    "deterministic purifiers have none. (e) Robust accuracy under the converged attack with fixed randomness, and what "
    "the paper's survival curve and our extrapolated attack predict; filled: first budget. Bars are 95 % intervals "
    "over images."
)
ROBUST = {
    "measured": (style.BLACK, "o", "measured"),
    predictors.PAPERS: (style.ORANGE, "s", "predicted, paper"),
    predictors.OURS: (style.BLUE, "^", "predicted, ours"),
}
RATES = {
    "rate_l2": (style.BLACK, "o", r"rate ($\ell_2$)"), "adversarial_rate": (style.VERMILION, "x", "adversarial rate"),
}
KINDS = {"autoencoder": "autoencoders", "diffusion": "diffusion"}


def _cells(records: list[Measurement]) -> list[dict]:
    return [{"sampler": m.at["sampler"], "t_star": m.at["t_star"]} for m in select(records, "clean_accuracy")]


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `alp_compression` records."""
    records = read_records(folder, "alp_compression")
    cells, eps = _cells(records), distinct(select(records, "robust_accuracy"), "eps")
    figure = style.new_figure(1.7 + 0.24 * len(cells))
    axes = figure.subplots(1, 5, sharey=True, width_ratios=(1.2, 1, 1, 1, 1.6))
    for place, cell in enumerate(cells):
        at = partial(find, records, **cell)
        for quantity, (colour, marker, _) in RATES.items():
            _mark(axes[0], at(quantity, eps=eps[0]), place, color=colour, marker=marker)
        for axis, quantity in zip(axes[1:4], ("largest_singular_value", "effective_rank", "snr"), strict=True):
            _mark(axis, at(quantity), place, color=style.BLACK, marker="o")
        _robust(axes[4], at, eps, place)
    axes[0].set_yticks(range(len(cells)), list(map(autoencoders.name, cells)))
    axes[0].invert_yaxis()
    axes[0].set_xlabel(f"ratio at ε = {budget(eps[0])}")
    axes[1].set_xlabel("largest singular\nvalue (ratio)")
    axes[2].set_xlabel("effective rank\n(directions)")
    for axis in axes[:4]:
        axis.set_xlim(0, 1.05 * axis.get_xlim()[1])
    axes[3].set_xlabel(f"SNR at ε = {budget(eps[0])}\n(ratio)")
    axes[4].set(xlabel="robust accuracy (%)", xlim=(-4, 104))
    style.letter(list(axes), ["rates", "stretch", "rank", "SNR", "robustness"])
    looks = [*RATES.values(), *ROBUST.values()]
    handles = [Line2D([], [], color=c, marker=m, linestyle="none", label=name) for c, m, name in looks]
    handles += [Line2D([], [], color=style.GREY, marker="o", linestyle="none", label=f"ε = {budget(e)}",
                       markerfacecolor=style.GREY if e == eps[0] else "white") for e in eps]
    style.legend_below(figure, handles, 7)
    return figure


def _mark(axis: Axes, m: Measurement | None, place: float, **look) -> None:
    if m is not None:
        axis.errorbar(m.value, place, xerr=Z95 * (m.se or 0.0), linestyle="none", **look)


def _robust(axis: Axes, at, budgets: list[float], place: int) -> None:
    for eps in budgets:
        for shift, (name, (colour, marker, _)) in zip((-0.2, 0, 0.2), ROBUST.items(), strict=True):
            m = (at("robust_accuracy", eps=eps) if name == "measured"
                 else at("predicted_robust_accuracy", eps=eps, predictor=name))
            axis.errorbar(m.value, place + shift, xerr=percent_bar(m), color=colour, marker=marker, markersize=4,
                          markerfacecolor=colour if eps == budgets[0] else "white", elinewidth=0.8)


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """Compression, robustness with every prediction, and the predictors' errors on either kind."""
    records = run["alp_compression"]
    budgets = distinct(select(records, "robust_accuracy"), "eps")
    cells, note = _cells(records), errors_over(select(records, "clean_accuracy"))
    beside = f"{note} Rates at eps {budget(budgets[0])}; the SNR is the ratio of mean variances over up to 50 images."
    measured = f"{note} Measured with the converged attack and fixed randomness."
    named = distinct(select(records, "mean_absolute_error"), "predictor")
    over = "Mean absolute error and bias over the purifiers of a kind and all budgets, ± bootstrap error over images."
    return [
        Table("Beside the diffusion purifiers", [_compression(records, cell, budgets) for cell in cells], beside),
        *(Table(f"Robust accuracy and its predictions (%), eps {budget(eps)}",
                [_predictions(records, cell, eps) for cell in cells], measured) for eps in budgets),
        Table("Errors of the predictors (percentage points)", [_errors(records, p) for p in named], over),
    ]


def _compression(records: list[Measurement], cell: dict, budgets: list[float]) -> Row:
    found = partial(find, records, **cell)
    first = partial(found, eps=budgets[0])
    row = {"purifier": autoencoders.name(cell), "clean (%)": number(found("clean_accuracy")),
           "PSNR (dB)": number(found("psnr")), "rate l2": number(first("rate_l2"), 3),
           "rate l∞": number(first("rate_linf"), 3), "adversarial rate": number(first("adversarial_rate"), 3),
           "largest singular value": number(found("largest_singular_value"), 2),
           "effective rank": number(found("effective_rank"), 1)}
    variance = {of: first("variance", of=of) for of in ("input", "internal")}
    row |= {f"variance, {of}": f"{m.value:.2e} ± {m.se:.0e}" for of, m in variance.items()}
    row["SNR"] = number(found("snr"), 2)
    return row | {f"robust, eps {budget(eps)} (%)": number(found("robust_accuracy", eps=eps)) for eps in budgets}


def _predictions(records: list[Measurement], cell: dict, eps: float) -> Row:
    at = {**cell, "eps": eps}
    names = distinct(select(records, "predicted_robust_accuracy"), "predictor")
    return {"purifier": autoencoders.name(cell), "measured": number(get(records, "robust_accuracy", **at))} | {
        predictors.name(p): number(get(records, "predicted_robust_accuracy", **at, predictor=p)) for p in names}


def _errors(records: list[Measurement], predictor: str) -> Row:
    row = {"predictor": predictors.name(predictor)}
    for kind, name in KINDS.items():
        for quantity, heading in (("mean_absolute_error", "mean absolute error"), ("bias", "bias")):
            row[f"{name}: {heading}"] = number(find(records, quantity, kind=kind, predictor=predictor))
    return row
