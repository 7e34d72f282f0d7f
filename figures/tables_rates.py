"""Tables 2 (rates), 5 and 6, with the paper's numbers."""

from ..compression.records import Measurement
from . import paper
from .selection import find, select
from .table import NONE, PAPER, Row, Table, budget, cell_columns, cell_name, cells, errors_over, number, reported


def rates(run: dict[str, list[Measurement]]) -> list[Table]:
    """Rates by purifier, by perturbation size and by seed."""
    records = run["rates"]
    configuration = records[0].run["configuration"]
    eps, seed = configuration["eps"][0], configuration["seeds"][0]
    return [_by_cell(records, eps, seed), _by_size(records, eps, seed), _by_seed(records, eps)]


def _by_cell(records: list[Measurement], eps: float, seed: int) -> Table:
    def row(cell: dict, t: int) -> Row:
        theirs = paper.TABLE_2.get(cell["sampler"], {}).get(t)
        return {
            **cell_columns(cell, t),
            f"{PAPER} l2 rate": reported(theirs and theirs.rate, 3),
            "ours: l2 rate": number(find(records, "rate_l2", **cell, eps=eps, seed=seed), 3),
            "ours: l_inf rate": number(find(records, "rate_linf", **cell, eps=eps, seed=seed), 3),
            "ours: rms rate": number(find(records, "rms_rate", **cell), 3),
            "ours: rms rate by Hutchinson": number(find(records, "rms_rate_hutchinson", **cell), 3),
            "ours: largest singular value": number(find(records, "largest_singular_value", **cell), 3),
            "ours: expanding directions": number(find(records, "expanding_directions", **cell), 2),
        }

    note = (
        f"{errors_over(records)} Rates are ratios of a perturbation's norms after purification and before; rms: "
        "||J||_F / sqrt(d), of the Jacobian J in d dimensions. Expanding directions: singular values of J above 1."
    )
    return Table(f"Table 2: rates at eps {budget(eps)}", [row(*c) for c in cells(records)], note)


def _studied(records: list[Measurement]) -> dict:
    """The purifier of Tables 5 and 6: the first sampler at the paper's t = 100, else at its middle t*."""
    candidates = [(cell, t) for cell, t in cells(records) if cell["sampler"] == records[0].at["sampler"]]
    middle, _ = candidates[len(candidates) // 2]
    return next((cell for cell, t in candidates if t == paper.TABLE_3_T), middle)


def _by_size(records: list[Measurement], first: float, seed: int) -> Table:
    def row(m: Measurement) -> Row:
        factor = m.at["eps"] / first
        theirs = paper.TABLE_5.get(round(factor, 6))
        return {
            "eps": budget(m.at['eps']),
            "over the first budget": f"{factor:g}",
            f"{PAPER} mean (DDPM, t = 100)": reported(theirs and theirs.mean, 3),
            f"{PAPER} s.d. over images": reported(theirs and theirs.spread, 3),
            "ours: mean": number(m, 3),
            "ours: s.d. over images": number(find(records, "rate_l2_spread", **m.at), 3),
        }

    cell = _studied(records)
    found = sorted(select(records, "rate_l2", **cell, seed=seed), key=lambda m: m.at["eps"])
    return Table(f"Table 5: l2 rate by perturbation size, {cell_name(cell)}", [*map(row, found)], errors_over(records))


def _by_seed(records: list[Measurement], eps: float) -> Table:
    def row(source: str, seed: int | str, mean: str, spread: str, apart: str = NONE) -> Row:
        return {"source": source, "seed": str(seed), "l2 rate": mean, "s.d. over images": spread,
                "s.d. over seeds": apart}

    cell = _studied(records)
    rows = [
        row("ours", m.at["seed"], number(m, 4), number(find(records, "rate_l2_spread", **m.at), 4))
        for m in select(records, "rate_l2", **cell, eps=eps)
    ]
    if whole := find(records, "rate_l2_over_seeds", **cell, eps=eps):
        apart = find(records, "rate_l2_seed_spread", **whole.at)
        rows.append(row("ours", "all", number(whole, 4), NONE, number(apart, 4)))
    rows += [
        row(f"{PAPER} DDPM, t = 100", seed, reported(theirs.mean, 4), reported(theirs.spread, 4))
        for seed, theirs in paper.TABLE_6.items()
    ]
    return Table(f"Table 6: l2 rate by seed, {cell_name(cell)}, eps {budget(eps)}", rows, errors_over(records))
