"""A Gaussian's score field, a perturbation's rate on its way through it, and step sizes (Fig. 4a, b, Table S1)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from ..compression.records import Arrays, Measurement, read_records, read_shards
from . import paper_gaussian_field as paper
from . import style
from .selection import Z95, distinct, get, select
from .table import PAPERS, Row, Table, number

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Compression in a Gaussian score field"
CAPTION = (
    "(a) Score of a Gaussian in a plane; shaded: one and two standard deviations. It points to the manifold (the "
    "horizontal axis), so that what is off the manifold is compressed most. The plane's two deviations are closer than "
    "Table S1's, so that both directions can be seen. (b) Rate of each Euler step on what is left of a random initial "
    "perturbation, with Table S1's 0.01 read as the variance off the manifold: single perturbations (grey), their mean "
    "(dots, 95 % interval within them) and the exact root mean square (black). As printed, Euler diverges. (c) Rates "
    "of one step against its size: the expected rate, that off the manifold, and the paper's first-order form "
    "(Eq. 13), which is good for steps that are small against the variance off the manifold; beyond the dotted limit "
    "Euler diverges."
)
NAMES = {"stable": "0.01 as variance", "printed": "as printed"}
SHOWN = 10
"""Single perturbations that are drawn."""


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `gaussian_field` records."""
    records, shards = read_records(folder, "gaussian_field"), read_shards(folder, "gaussian_field")
    figure = style.new_figure(2.7)
    axes = figure.subplots(1, 3, width_ratios=[1, 1.1, 1])
    _field(axes[0], shards["arrows"])
    _over_time(axes[1], records, shards["followed-stable"])
    _by_step_size(axes[2], records, shards["sweep"])
    style.letter(axes, ["score field", "a perturbation over time", "size of the step"])
    return figure


def _field(axis: Axes, found: Arrays) -> None:
    x, y = found["at"].reshape(-1, 2).T
    u, v = found["score"].reshape(-1, 2).T
    for deviations in (2, 1):
        width, height = 2 * deviations * np.sqrt(found["variances"])
        axis.add_patch(Ellipse((0, 0), width, height, color=style.SKY, alpha=0.25, linewidth=0))
    axis.quiver(x, y, u, v, color=style.BLACK, width=0.006, scale=140)
    for end, colour, name, where in (
        ((1.9, 0), style.VERMILION, "on-manifold", (0.45, -0.75)), ((0, 1.9), style.GREEN, "off-manifold", (0.15, 1.5))
    ):
        axis.annotate("", end, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.8})
        axis.text(*where, name, color=colour, weight="bold", fontsize=7,
                  bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 0.8})
    axis.grid(False)
    axis.set(xlabel="along the manifold", ylabel="away from the manifold", aspect="equal")


def _over_time(axis: Axes, records: list[Measurement], found: Arrays) -> None:
    stable = [m for m in records if m.at["reading"] == "stable"]
    for rates in found["measured"][:SHOWN]:
        axis.plot(rates, color=style.GREY, linewidth=0.5, alpha=0.6)
    axis.plot(found["exact"], color=style.BLACK, label="exact")
    measured = select(stable, "rate_measured")
    axis.errorbar([m.at["step"] for m in measured], [m.value for m in measured], [Z95 * m.se for m in measured],
                  fmt="o", color=style.BLUE, label=f"measured (n = {measured[0].n})")
    for name, colour in (("on", style.VERMILION), ("off", style.GREEN)):
        axis.axhline(get(stable, f"rate_{name}").value, color=colour, linestyle="--", linewidth=1.1,
                     label=f"{name}-manifold")
    axis.set(xlabel="Euler step", ylabel="rate of the step (ratio)")
    axis.legend(loc="center right")


def _by_step_size(axis: Axes, records: list[Measurement], found: Arrays) -> None:
    x, top = found["ratio"], 3.4
    axis.plot(x, found["off"], color=style.GREEN, linewidth=3, alpha=0.5, label="off-manifold")
    axis.plot(x, found["expected"], color=style.BLACK, label="expected")
    axis.plot(x, found["first_order"], "--", color=style.PURPLE, label="Eq. 13")
    axis.axvline(2, color=style.GREY, linestyle=":", linewidth=1)
    for reading, colour in (("stable", style.BLUE), ("printed", style.ORANGE)):
        at = get(records, "step_over_variance", reading=reading).value
        rate = get(records, "expected_rate", reading=reading).value
        height, mark = (rate, "o") if rate < top else (top - 0.15, "^")
        axis.plot(at, height, mark, color=colour, zorder=3)
        axis.annotate(f"{NAMES[reading]}: {rate:.2f}", (at, height), (0.012, height + 0.3 * (rate < top)),
                      fontsize=6.5, color=colour, va="center")
    axis.set_xscale("log")
    axis.set(xlabel=r"step $h$ over off-manifold $\sigma_s^2$", ylabel="rate of a step (ratio)", ylim=(-1.6, top))
    axis.legend(loc="lower left", handlelength=1.4)


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """Table S1 in its two readings, and what each gives."""
    records = run["gaussian_field"]
    return [_hyperparameters(records), _outcomes(records), _over_steps(records)]


def _hyperparameters(records: list[Measurement]) -> Table:
    rows = [
        {
            "hyperparameter": name,
            f"{PAPERS}{paper.SETTING}": f"{theirs:g}",
            **{f"ours, {NAMES[r]}": f"{get(records, name, reading=r).value:g}" for r in NAMES},
        }
        for name, theirs in paper.TABLE_S1.items()
    ]
    return Table("Table S1: hyperparameters of the score field", rows, "The figure shows the first of our columns.")


def _outcomes(records: list[Measurement]) -> Table:
    def row(reading: str) -> Row:
        of = lambda quantity: get(records, quantity, reading=reading)
        return {
            "Table S1": NAMES[reading],
            "h / off-manifold variance": f"{of('step_over_variance').value:g}",
            "forward Euler": "converges" if of("stable").value else "diverges (the ratio is above 2)",
            "rate on the manifold": f"{of('rate_on').value:.4f}",
            "rate off it": f"{of('rate_off').value:.4f}",
            "Eq. 14 off it": f"{of('rate_off_signed').value:.4f}",
            "expected rate": f"{of('expected_rate').value:.4f}",
            "ours: measured": number(get(records, "rate_measured", reading=reading, step=0), 5),
            "Eq. 13": f"{of('first_order_rate').value:.4f}",
            "left after all steps": f"{of('cumulative_rate').value:.3g}",
            f"{PAPERS}Fig. 4b: the rate goes": paper.FIGURE_4B,
            "ours: the rate goes": _course(records, reading),
        }

    note = "± standard error over random perturbations. Eqs. 13 and 14 are signed; a rate is their absolute value."
    return Table("One Euler step, and all of them", [row(reading) for reading in NAMES], note)


def _course(records: list[Measurement], reading: str) -> str:
    """In words, how the measured rate goes."""
    first, *_, last = select(records, "rate_measured", reading=reading)
    on, off = (get(records, f"rate_{name}", reading=reading).value for name in ("on", "off"))
    name = lambda rate: "on-manifold" if abs(rate - on) < abs(rate - off) else "off-manifold"
    if name(first.value) == name(last.value):
        return f"nowhere: it stays at the {name(last.value)} value"
    half = get(records, "transition_measured", reading=reading)
    return f"from the {name(first.value)} to the {name(last.value)} value, halfway at step {number(half)}"


def _over_steps(records: list[Measurement]) -> Table:
    def row(step: int) -> Row:
        of = lambda quantity, reading: get(records, quantity, reading=reading, step=step)
        return {"step": str(step)} | {
            f"{name}: {kind}": number(of(f"rate_{kind}", reading), 5)
            for reading, name in NAMES.items() for kind in ("exact", "measured")
        }

    rows = [row(step) for step in distinct(records, "step")]
    note = "± standard error over random perturbations; exact: root mean square over all of them."
    return Table("Rate of each step on what is left of a random perturbation", rows, note)
