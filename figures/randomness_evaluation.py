"""Robust accuracy with randomness fixed or not, transfer between configurations, agreement of gradients (App. C)."""

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compression.records import Arrays, Measurement, read_records, read_shards
from . import paper_randomness_evaluation as paper
from . import style
from .selection import distinct, find, get, line, percent_bar, select
from .table import NONE, PAPERS, Row, Table, budget, cell_columns, cells, errors_over, number

__all__ = ["TITLE", "CAPTION", "draw", "tables"]

TITLE = "Evaluating a random defence: randomness fixed or not, transfer, EOT"
CAPTION = (
    "Robust accuracy at the largest budget, 95 % intervals over images. (a) By what the attack knows: one fixed ξ, "
    "judged at itself and at other ones (transfer), a fresh ξ for every gradient, or the mean over 15 fresh ones "
    "(EOT), both judged at other ξ. The black line is clean accuracy. (b) With full gradients, against the "
    "purification step. (c) At the largest step, by the base seeds of ξ in attack and test. (d) Cosine of a mean "
    "gradient over k configurations with that of another single one, which an attack on a fixed ξ would follow; "
    "dashed: what the expectation's share of each image's gradient implies."
)
PROTOCOLS = {
    ("fixed", 1, "same"): "fixed, same ξ",
    ("fixed", 1, "other"): "fixed, other ξ",
    ("fresh", 1, "other"): "fresh ξ",
    ("fresh", 15, "other"): "EOT, 15 fresh ξ",
}
CLEAN = {"same": "clean, one ξ", "other": "clean, other ξ"}
ONE, EOT, LIMIT = "one ξ with another", "EOT-15 with one ξ", "limit for many draws"
GRADIENTS = {"full": "full gradient (PGD)", "bpda": "BPDA"}
COLOURS = {"full": style.BLUE, "bpda": style.ORANGE}
MARKERS = {"full": "o", "bpda": "s"}
DASHES = {("fixed", 1, "same"): "-", ("fixed", 1, "other"): "--", ("fresh", 15, "other"): ":"}


@style.applied()
def draw(folder: Path) -> Figure:
    """The figure of a run's `randomness_evaluation` records and cosines of images."""
    records, shards = (read(folder, "randomness_evaluation") for read in (read_records, read_shards))
    middle, last = _middle(records), max(distinct(records, "t_star"))
    figure = style.new_figure(5.2)
    axes = figure.subplots(2, 2).ravel()
    _by_protocol(axes[0], records, middle)
    _by_time(axes[1], records)
    _by_seeds(axes[2], records, last)
    _cosines(axes[3], records, shards, sorted({middle, last}))
    titles = [f"by attack, t* = {middle}", "by step", f"by seed, t* = {last}", "agreement of gradients"]
    style.letter(list(axes), titles)
    handles = [Line2D([], [], color=COLOURS[g], marker=MARKERS[g], label=GRADIENTS[g]) for g in GRADIENTS]
    handles += [Line2D([], [], color=COLOURS["full"], linestyle=d, label=PROTOCOLS[p]) for p, d in DASHES.items()]
    style.legend_below(figure, handles, 5)
    return figure


def _middle(records: list[Measurement]) -> int:
    """The step at which every protocol was run."""
    return get(records, "robust_accuracy", gradient="bpda").at["t_star"]


def _protocol(key: tuple[str, int, str]) -> dict:
    return dict(zip(("xi_attack", "k", "xi_test"), key, strict=True))


def _by_protocol(axis: Axes, records: list[Measurement], t_star: int) -> None:
    places = range(len(PROTOCOLS))
    for gradient, shift in (("full", 0.13), ("bpda", -0.13)):
        looks = {"color": COLOURS[gradient], "marker": MARKERS[gradient]}
        for place, key in zip(places, PROTOCOLS, strict=True):
            m = get(records, "robust_accuracy", t_star=t_star, gradient=gradient, **_protocol(key))
            axis.errorbar(m.value, shift - place, xerr=percent_bar(m), **looks)
    axis.axvline(get(records, "clean_accuracy", t_star=t_star, xi_test="same").value, color=style.BLACK, linewidth=0.9)
    axis.set_yticks([-place for place in places], list(PROTOCOLS.values()))
    axis.set(xlabel="robust accuracy (%)", xlim=(-3, 103), ylim=(0.5 - len(PROTOCOLS), 0.5))


def _by_time(axis: Axes, records: list[Measurement]) -> None:
    for key, dashes in DASHES.items():
        found = select(records, "robust_accuracy", gradient="full", **_protocol(key))
        t_star, accuracy, _ = line(found, "t_star")
        axis.plot(t_star, accuracy, dashes, color=COLOURS["full"])
        for m in found:
            axis.errorbar(m.at["t_star"], m.value, percent_bar(m), color=COLOURS["full"], marker="o", elinewidth=0.8)
    clean = select(records, "clean_accuracy", xi_test="same")
    axis.plot([m.at["t_star"] for m in clean], [m.value for m in clean], color=style.BLACK, linewidth=0.9)
    axis.set_xticks(sorted(distinct(records, "t_star")))
    axis.set(xlabel="purification step t* (steps)", xlim=(0, None))
    style.accuracy_axis(axis)


def _by_seeds(axis: Axes, records: list[Measurement], t_star: int) -> None:
    found = select(records, "robust_accuracy_by_seeds", t_star=t_star)
    attacks, tests = distinct(found, "xi_attack"), distinct(found, "xi_test")
    values = np.array([m.value for m in found]).reshape(len(attacks), len(tests))
    axis.imshow(values, cmap="cividis", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(values):
        axis.text(column, row, f"{value:.0f} %", ha="center", va="center", color="white" if value < 55 else "black")
    axis.set_xticks(range(len(tests)), tests)
    axis.set_yticks(range(len(attacks)), attacks)
    axis.set(xlabel="judged under ξ of", ylabel="attacked under ξ of")
    axis.grid(False)


def _cosines(axis: Axes, records: list[Measurement], shards: dict[str, Arrays], t_stars: list[int]) -> None:
    for gradient in GRADIENTS:
        for t_star in t_stars:
            found = select(records, "gradient_cosine", t_star=t_star, gradient=gradient, against="fixed")
            if not found:
                continue
            k, cosine, half = line(found, "k")
            axis.errorbar(k, cosine, half, color=COLOURS[gradient], marker=MARKERS[gradient], linestyle="-")
            if gradient == "full":
                fine = np.geomspace(1, 100, 50)
                of = f"{found[0].at['sampler']}-t{t_star}-cosines-{gradient}"
                implied = _implied(shards[of]["fixed"][:, list(k).index(1)], fine)
                axis.plot(fine, implied, "--", color=style.GREY, linewidth=0.9)
                axis.text(100, implied[-1], f"t* = {t_star}", va="bottom", ha="right", fontsize=7)
    axis.set(xscale="log", xlabel="configurations in a gradient, k", ylabel="cosine with another ξ's", ylim=(0, 1.02))
    axis.set_xticks([1, 2, 4, 8, 15, 100], ["1", "2", "4", "8", "15", "100"])
    axis.minorticks_off()


def _implied(one: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Mean cosine at k where a share `one` of each image's gradient, squared, is its expectation, for all xi alike.

    >>> _implied(np.array([0.25, 1.0]), np.array([1.0, 1e9])).round(3).tolist()  # then (sqrt(1 / 4) + 1) / 2
    [0.625, 0.75]
    """
    share = np.clip(one, 0, 1)[:, None]
    return (share / np.sqrt(share + (1 - share) / k)).mean(0)


def tables(run: dict[str, list[Measurement]]) -> list[Table]:
    """Tables S2 to S4 and S5, with the paper's numbers."""
    records = run["randomness_evaluation"]
    return [_accuracies(records), _agreement(records)]


def _accuracies(records: list[Measurement]) -> Table:
    def ours(cell: dict, t: int, gradient: str) -> Row:
        at = {**cell, "gradient": gradient}
        found = {key: find(records, "robust_accuracy", **at, **_protocol(key)) for key in PROTOCOLS}
        return {
            "setting": "ours", **cell_columns(cell, t), "gradient": GRADIENTS[gradient],
            CLEAN["same"]: number(get(records, "clean_accuracy", **cell, xi_test="same")),
            CLEAN["other"]: number(get(records, "clean_accuracy", **cell, xi_test="other")),
            **{name: number(found[key]) for key, name in PROTOCOLS.items()},
            "EOT minus fixed PGD, same ξ": number(find(records, "above_fixed_pgd", **at, k=15)),
        }

    rows = [ours(cell, t, gradient) for cell, t in cells(records) for gradient in GRADIENTS
            if find(records, "robust_accuracy", **cell, gradient=gradient)]
    for setting, theirs in paper.ROBUST.items():
        clean = {CLEAN[test]: _theirs(accuracy) for test, accuracy in paper.CLEAN[setting].items()}
        rows.append({**dict.fromkeys(rows[0], NONE), "setting": f"{PAPERS}{setting.name}",
                     "gradient": GRADIENTS[setting.gradient], **clean,
                     **{PROTOCOLS[key]: _theirs(accuracy) for key, accuracy in theirs.items()}})
    m = get(records, "robust_accuracy")
    note = (f"{errors_over([m])} Under other ξ an image counts with its robust share of several. "
            "The paper's ± is over three seeds.")
    return Table(f"Tables S2 to S4: accuracy (%) at eps {budget(m.at['eps'])}, {m.at['steps']} steps", rows, note)


def _agreement(records: list[Measurement]) -> Table:
    def ours(cell: dict, t: int, gradient: str) -> Row:
        cosine = partial(get, records, "gradient_cosine", **cell, gradient=gradient)
        moved = partial(find, records if gradient == "full" else [], "perturbation_cosine", **cell)
        return {
            "setting": "ours", **cell_columns(cell, t), "gradient": GRADIENTS[gradient],
            ONE: number(cosine(k=1, against="fixed"), 3), EOT: number(cosine(k=15, against="fixed"), 3),
            LIMIT: number(get(records, "gradient_cosine_limit", **cell, gradient=gradient), 3),
            "EOT-15 with the expectation": number(cosine(k=15, against="reference"), 3),
            f"perturbations, {ONE}": number(moved(against="PGD"), 3),
            f"perturbations, {EOT}": number(moved(against="PGD-EOT"), 3),
        }

    found = select(records, "gradient_cosine", k=1, against="fixed")
    rows = [ours(cell, t, m.at["gradient"]) for m in found for cell, t in cells([m])]
    theirs = paper.TABLE_S5
    rows.append({**dict.fromkeys(rows[0], NONE), "setting": f"{PAPERS}{paper.CIFAR.name}",
                 "gradient": GRADIENTS["full"], ONE: _theirs(theirs[1], 3), EOT: _theirs(theirs[15], 3),
                 LIMIT: f"at most {theirs[1].mean ** 0.5:.3f} (ours, from theirs)"})
    note = (f"{errors_over(found)} Gradients are the margin's at clean images, perturbations what the attacks found. "
            "The paper speaks of correlations between attacks; its ± is a standard deviation.")
    return Table("Table S5: cosines of gradients and perturbations of different configurations", rows, note)


def _theirs(found: paper.Accuracy, digits: int = 1) -> str:
    return f"{found.mean:.{digits}f}" + ("" if found.spread is None else f" ± {found.spread:.{digits}f}")
