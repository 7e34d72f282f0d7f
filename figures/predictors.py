"""What readers call the predictors of robust accuracy, and which two the headline compares."""

from collections.abc import Iterable

from ..compression.records import Measurement
from .selection import distinct, get

PAPERS = "survival_anchor"
"""The paper's own prediction: survival at the anchors."""
OURS = "extrapolated_attack"
"""Our best prediction."""

NAMES = {
    "survival_clean": "survival at clean images (paper)",
    "survival_anchor": "survival at anchors (paper)",
    "image_wise": "image-wise rate and threshold",
    "adversarial_rate": "adversarial rate",
    "first_order": "first order",
    "short_attack": "short attack",
    "extrapolated_attack": "extrapolated attack",
}


def present(records: Iterable[Measurement]) -> list[str]:
    """The predictors of a run, in the order of its records."""
    return distinct((m for m in records if m.quantity == "mean_absolute_error"), "predictor")


def name(predictor: str) -> str:
    """What to call a predictor; its own name if it is none of ours.

    >>> name("short_attack"), name("my_own")
    ('short attack', 'my own')
    """
    return NAMES.get(predictor, predictor.replace("_", " "))


def overall(records: Iterable[Measurement], quantity: str, predictor: str) -> Measurement:
    """A score over all budgets, not that of one."""
    return get((m for m in records if "eps" not in m.at), quantity, predictor=predictor)
