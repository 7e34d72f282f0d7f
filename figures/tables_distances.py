"""Table 1 by sampler, Tables S7 to S9 by input, and the crossing sizes, with the paper's numbers."""

from functools import partial

from ..compression.records import Measurement
from . import paper_distances as paper
from .selection import distinct, get, select
from .style import SAMPLER_NAMES
from .table import NONE, PAPERS, Row, Table, budget, cell_columns, cell_name, cells, errors_over, number

CIFAR, IMAGENET = "CIFAR-10, eps 8/255, t = 100", "ImageNet, eps 4/255, t = 150"
NORMS = {"l2": "l2", "linf": "l_inf"}
STATES = {"input": "before", "noised": "at t*", "end": "end", "output": "output, clipped"}


def distances(run: dict[str, list[Measurement]]) -> list[Table]:
    """Before and after by sampler, the path by input, crossings by purifier."""
    records = run["distances"]
    return [_before_after(records), *(_paths(records, norm) for norm in NORMS), _crossings(records)]


def _before_after(records: list[Measurement]) -> Table:
    def change(quantity: str, **at) -> str:
        before, after = (get(records, quantity, **at, state=state) for state in ("input", "output"))
        return f"{before.value:.3f} → {after.value:.3f} ± {after.se:.3f}"

    def ours(cell: dict, t: int, name: str) -> Row:
        at = {**cell, "input": name}
        return {
            "setting": "ours", **cell_columns(cell, t), "perturbation": name,
            **{label: change("distance", **at, norm=norm) for norm, label in NORMS.items()},
            "SSIM": change("ssim", **at),
            **{f"farther in {label} (% of images)": number(get(records, "pushed_away", **at, norm=norm))
               for norm, label in NORMS.items()},
        }

    attacked = [m for m in select(records, "distance", norm="l2", state="input") if m.at["input"] != "uniform"]
    rows = [ours(cell, t, m.at["input"]) for m in attacked for cell, t in cells([m])]
    for sampler, theirs in paper.TABLE_1.items():
        texts = [f"{change.before:.3f} → {change.after:.3f}" for change in theirs]
        changes = dict(zip((*NORMS.values(), "SSIM"), texts, strict=True))
        rows.append({**dict.fromkeys(rows[0], NONE), "setting": f"{PAPERS}{CIFAR}", "sampler": SAMPLER_NAMES[sampler],
                     "perturbation": "PGD", **changes})
    title = "Table 1: distance to the clean image (pixel units) and SSIM, before → after"
    return Table(f"{title}, eps {budget(attacked[0].at['eps'])}", rows, errors_over(attacked))


def _paths(records: list[Measurement], norm: str) -> Table:
    """Of the first sampler."""

    def ours(m: Measurement) -> Row:
        at = {name: m.at[name] for name in ("sampler", "t_star", "input", "eps", "norm")}
        found = partial(get, records, "distance", **at)
        return {"setting": f"ours, {cell_name(m.at)}", "perturbation": _input(m),
                **{words: number(found(state=state), 3) for state, words in STATES.items()}}

    middle = get(records, "distance", input="PGD").at
    cell = {name: middle[name] for name in ("sampler", "t_star")}
    inputs = select(records, "distance", **cell, norm=norm, state="input")
    rows = [ours(m) for m in sorted(inputs, key=lambda m: m.at["input"] == "uniform")]
    settings = {CIFAR: {"l2": paper.TABLE_S8, "linf": paper.TABLE_S9}, IMAGENET: paper.TABLE_S7}
    for setting, tables in settings.items():
        for name, path in tables[norm].items():
            texts = [f"{mean:.3f} ± {spread:.3f}" for mean, spread in path]
            rows.append({**dict.fromkeys(rows[0], NONE), "setting": f"{PAPERS}{setting}", "perturbation": name,
                         **dict(zip((STATES[s] for s in ("input", "noised", "end")), texts, strict=True))})
    table = {"l2": "Tables S8 and S7: l2", "linf": "Tables S9 and S7: l_inf"}[norm]
    return Table(f"{table} distance to the clean image (pixel units) on the way", rows,
                 f"{errors_over(inputs)} Uniform noise is labelled by the size that was drawn, also the paper's.")


def _input(m: Measurement) -> str:
    return f"uniform {budget(m.at['eps'])}" if m.at["input"] == "uniform" else f"{m.at['input']} {budget(m.at['eps'])}"


def _crossings(records: list[Measurement]) -> Table:
    sizes = sorted(distinct(select(records, "distance", input="uniform"), "eps"))

    def text(cell: dict, norm: str, state: str) -> str:
        at = {**cell, "norm": norm, "state": state}
        value, low, high = (get(records, name, **at).value for name in ("crossing", "crossing_low", "crossing_high"))
        if value in (sizes[0], sizes[-1]):
            return f"{'<' if value == sizes[0] else '>'} {budget(value)}"
        return f"{value:.3f} [{low:.3f}, {high:.3f}]"

    rows = [{"setting": "ours", **cell_columns(cell, t),
             **{f"{label}, {STATES[state]}": text(cell, norm, state) for norm, label in NORMS.items()
                for state in ("end", "output")}} for cell, t in cells(select(records, "crossing"))]
    rows.append({**dict.fromkeys(rows[0], NONE), "setting": f"{PAPERS}{CIFAR}", "sampler": SAMPLER_NAMES["ddpm"],
                 **{f"{label}, {STATES['end']}": paper.CROSSING[norm] for norm, label in NORMS.items()}})
    note = (f"[95 % bootstrap interval over images], n = {get(records, 'crossing').n}. The paper's: interpolated from "
            "Tables S8 and S9.")
    return Table("Size of uniform noise (pixel units) from which purification shrinks distances", rows, note)
