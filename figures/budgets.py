"""Which attack budgets tell purifiers apart: what the survival curve suggests, and what the attacks found."""

from ..compression.records import Measurement
from .selection import distinct, find, select
from .table import Table, budget, cell_name, number, unit_of

ATTACK = "converged"

BARE = {"sampler": "none", "t_star": 0}

FINE, COARSE = 0.5 / 255, 0.01
"""Suggestions are multiples of half a level of 255, of 0.01 where budgets are decimals."""


def suggestions(records: list[Measurement]) -> list[float]:
    """Budgets up to which given shares of the correct images survive undefended, rounded; none if not recorded."""
    return list(dict.fromkeys(map(_rounded, select(records, "perturbation_quantile"))))


def suggested(records: list[Measurement]) -> list[Table]:
    """The table of suggestions; none where the records do not say."""
    found = select(records, "perturbation_quantile")
    if not found:
        return []
    shown = unit_of(found)
    rows = [
        {
            "of the correct images, survive undefended": f"{m.at['survive']} %",
            f"up to ({shown.name})": number(m, 2 if shown.factor > 1 else 3, shown.factor),
            "suggested budget": budget(_rounded(m)),
        }
        for m in found
    ]
    note = (
        "At the first budget the bare classifier is half broken; at the second hardly anything survives without a "
        f"purifier, so what does is the purifier's. As an option: --eps {_option(suggestions(records))}. "
        "± standard error by bootstrap."
    )
    return [Table("Budgets that the survival curve suggests", rows, note)]


def notes(records: list[Measurement]) -> list[str]:
    """A sentence for each budget at which the converged attack leaves all or nothing behind every purifier, and why."""
    attacked = [m for m in select(records, "robust_accuracy", attack=ATTACK)
                if m.experiment == "robust_accuracy" and m.at["sampler"] != "none"]
    return [said for eps in distinct(attacked, "eps") if (said := _note(records, attacked, eps))]


def _note(records: list[Measurement], attacked: list[Measurement], eps: float) -> str:
    found = [m for m in attacked if m.at["eps"] == eps]
    if all(m.value <= m.se for m in found):
        left = "nothing"
    elif all(m.value + m.se >= _clean(records, m) for m in found):
        left = "everything that is right without an attack"
    else:
        return ""
    if blamed := _wrong_when_clean(records, found):
        return f"At eps {budget(eps)} the converged attack leaves {left} behind every purifier, but {blamed}"
    better = suggestions(records)
    instead = f"; the classifier's survival curve suggests --eps {_option(better)}" if better else ""
    return (
        f"At eps {budget(eps)} the converged attack leaves {left} behind every purifier, within a standard error "
        f"(n = {found[0].n}), so this budget does not tell purifiers apart{instead}."
    )


def _wrong_when_clean(records: list[Measurement], found: list[Measurement]) -> str:
    """What is wrong before any attack, as preflight or clean accuracy itself says; empty where nothing is."""
    cells = [{name: m.at[name] for name in ("sampler", "t_star")} for m in found]
    flaws = [m for cell in [BARE, *cells] for m in select(records, "flaws", check="no_budget", **cell) if m.value]
    if flaws:
        (name, said) = cell_name(flaws[0].at), flaws[0].at["found"].removeprefix("no_budget: ")
        return f"preflight finds of {name} without an attack: {said}."
    clean = [find((c for c in records if c.experiment == "rates"), "clean_accuracy", **cell) for cell in cells]
    if any(c is None or c.value > c.se for c in clean):
        return ""
    return ("nothing is right without an attack either: check that labels are numbered as the classifier's classes "
            "are, the normalisation, and the order of channels (RGB).")


def _clean(records: list[Measurement], m: Measurement) -> float:
    """Accuracy of the same cell without an attack, 100 % where it was not measured."""
    cell = {name: m.at[name] for name in ("sampler", "t_star")}
    clean = find((c for c in records if c.experiment == "rates"), "clean_accuracy", **cell)
    return 100.0 if clean is None else clean.value


def _rounded(m: Measurement) -> float:
    step = FINE if unit_of([m]).factor > 1 else COARSE
    return step * max(1, round(m.value / step))


def _option(budgets: list[float]) -> str:
    return " ".join(f"{eps:.6g}" for eps in budgets)
