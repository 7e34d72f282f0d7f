"""The report's first paragraph: the answer in the records' own numbers."""

from ..compression.records import Measurement
from . import predictors
from .selection import find, select
from .table import budget, cell_name, number

QUESTION = "Does the compression of image space predict the robust accuracy that a purifier buys?"


def headline(records: list[Measurement]) -> str:
    """One paragraph; says what is missing where the records do not answer yet."""
    of = lambda experiment: [m for m in records if m.experiment == experiment]  # others share quantities with them
    sentences = [_prediction(of("prediction")), _unbelieved(of("preflight")), _sigmoid(of("prediction")),
                 _attack(of("robust_accuracy"))]
    return (
        " ".join(filter(None, sentences))
        or "This run has not yet measured what answers the question; see what is missing below."
    )


def _prediction(records: list[Measurement]) -> str:
    cells = select(records, "measured_robust_accuracy")
    if not cells:
        return ""
    cost = predictors.overall(records, "cost", predictors.OURS)
    return (
        f"Over {len(cells)} purifiers and budgets (n = {cells[0].n} images each), the paper's prediction, the survival "
        f"at the anchors read at the expected rate, misses the measured robust accuracy by "
        f"{_error(records, predictors.PAPERS)}; it needs no gradient of the purifier. Ours, the "
        f"{predictors.name(predictors.OURS)}, misses by {_error(records, predictors.OURS)}, at {cost.value:.1f} % "
        "of the gradients through the purifier that the converged attack takes."
    )


def _unbelieved(records: list[Measurement]) -> str:
    names = dict.fromkeys(map(cell_name, (m.at for m in select(records, "flaws", outcome="error"))))
    if not names:
        return ""
    return (f"Preflight finds errors at {', '.join(names)}: robust accuracies there are upper bounds that are not to "
            "be believed, and errors that count them are not either.")


def _error(records: list[Measurement], predictor: str) -> str:
    quantities = ("mean_absolute_error", "mean_absolute_error_low", "mean_absolute_error_high", "largest_error")
    mean, low, high, largest = (predictors.overall(records, quantity, predictor).value for quantity in quantities)
    chance = find(records, "mean_absolute_error_by_chance", predictor=predictor)
    said = f"; {chance.value:.1f} would be chance" if chance else ""
    return f"{mean:.1f} points on average (95 % interval {low:.1f} to {high:.1f}{said}; at worst {largest:.1f})"


def _sigmoid(records: list[Measurement]) -> str:
    pairs = [(m, find(records, "mean_clean_accuracy", eps=m.at["eps"])) for m in select(records, "sigmoid_intercept")]
    parts = [
        f"{number(m)} % at eps {budget(m.at['eps'])} (mean clean accuracy {number(clean)} %)"
        for m, clean in pairs
        if clean
    ]
    if not parts:
        return ""
    return f"Extrapolated to rate 0, a sigmoid of robust accuracy in the rate gives {' and '.join(parts)}."


def _attack(records: list[Measurement]) -> str:
    gaps = []
    for weak in select(records, "robust_accuracy", attack="paper"):
        strong = find(records, "robust_accuracy", **{**weak.at, "attack": "converged"})
        if strong is not None and weak.at["sampler"] != "none":
            gaps.append(weak.value - strong.value)
    if not gaps:
        return ""
    return (
        f"The paper's PGD leaves robust accuracy {sum(gaps) / len(gaps):.1f} points higher than the converged attack, "
        f"on average over {len(gaps)} purifiers and budgets (between {min(gaps):.1f} and {max(gaps):.1f} in each)."
    )
