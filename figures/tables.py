"""Tables of networks, minimum perturbations and robust accuracy (Table 2), with the paper's numbers."""

from ..compression.records import Measurement
from . import budgets, paper
from .selection import distinct, find, get, select
from .table import (
    NONE, PAPER, Row, Table, budget, cell_columns, cell_name, cells, errors_over, number, reported, unit_of,
)

Run = dict[str, list[Measurement]]
"""Records by experiment."""


def training(run: Run) -> list[Table]:
    """Quality of the networks."""
    records = run["training"]
    clean, errors = get(records, "clean_accuracy"), select(records, "noise_prediction_error")
    rows = [{"network": "classifier", "quantity": "clean accuracy (%)", "ours": number(clean)}]
    for m in errors:
        quantity = f"noise error (mean squared) at t = {m.at['t']}"
        rows.append({"network": "denoiser", "quantity": quantity, "ours": number(m, 4)})
    for m in select(records, "flow_prediction_error"):
        quantity = f"noise error (mean squared) where as much is left as at t = {m.at['t']}"
        rows.append({"network": "velocity of the flow", "quantity": quantity, "ours": number(m, 4)})
    return [Table("Networks, on all test images", rows, errors_over(records))]


def minimum_perturbation(run: Run) -> list[Table]:
    """Survival and fitted distribution at clean images and anchors."""
    records = run["minimum_perturbation"]
    tried, shown = distinct(select(records, "survival"), "eps"), unit_of(records)
    digits = 2 if shown.factor > 1 else 4

    def row(at: dict) -> Row:
        survival = {f"survive eps {budget(e)} (%)": number(find(records, "survival", **at, eps=e)) for e in tried}
        return {
            "at": "clean images" if at["sampler"] == "none" else f"anchors of {cell_name(at)}",
            "clean accuracy (%)": number(find(records, "clean_accuracy", **at)),
            **survival,
            "share at 0": number(find(records, "gaussian_zero", **at), 3),
            f"Gaussian mean ({shown.name})": number(find(records, "gaussian_mean", **at), digits, shown.factor),
            f"Gaussian s.d. ({shown.name})": number(find(records, "gaussian_std", **at), digits, shown.factor),
            "never broken (%)": number(find(records, "censored", **at)),
        }

    rows = [row(m.at) for m in select(records, "clean_accuracy")]
    title = "Minimum perturbations of the bare classifier (l_inf)"
    return [Table(title, rows, errors_over(select(records, "survival"))), *budgets.suggested(records)]


def robust_accuracy(run: Run) -> list[Table]:
    """Table 2, PGD with fixed randomness."""
    records = run["robust_accuracy"]
    names = {"paper": "paper's PGD", "converged": "converged", "stronger": "4x steps"}
    shown = [
        (eps, attack)
        for eps in distinct(records, "eps")
        for attack in names
        if select(records, "robust_accuracy", eps=eps, attack=attack)
    ]

    def row(start: Row, cell: dict, theirs: paper.Cell | None) -> Row:
        ours = {
            f"ours: {names[a]}, eps {budget(e)}": number(find(records, "robust_accuracy", **cell, eps=e, attack=a))
            for e, a in shown
        }
        return {**start, f"{PAPER} PGD-Fix": reported(theirs and theirs.robust), **ours}

    rows = [row({"sampler": "no purifier", "t* (paper's t)": NONE}, {"sampler": "none", "t_star": 0}, None)]
    for cell, t in cells(records):
        rows.append(row(cell_columns(cell, t), cell, paper.TABLE_2.get(cell["sampler"], {}).get(t)))
    return [Table("Table 2: robust accuracy (%) with fixed randomness", rows, errors_over(records))]
