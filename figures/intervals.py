"""Intervals and verdicts of a run, as they stand in tables and figures."""

from collections.abc import Iterable

import numpy as np

from ..compression.records import Measurement
from .selection import find, get
from .table import NONE

OUTCOMES = {1: "supported", 0: "undecided", -1: "contradicted"}


def ends(records: Iterable[Measurement], quantity: str, **at) -> np.ndarray:
    """A statistic and the ends of its 95 % interval, [3]."""
    records = list(records)
    return np.array([get(records, quantity + end, **at).value for end in ("", "_low", "_high")])


def bracketed(records: Iterable[Measurement], quantity: str, digits: int = 1, scale: float = 1.0, **at) -> str:
    """A statistic and its interval, times `scale`, in text.

    >>> of = lambda quantity, value: Measurement("anchors", quantity, value, None, 8, "ratio")
    >>> bracketed([of("rise", 0.2), of("rise_low", 0.1), of("rise_high", 0.3)], "rise", 0, scale=100)
    '20 [10, 30]'
    """
    records = list(records)
    if find(records, quantity, **at) is None:
        return NONE
    value, low, high = scale * ends(records, quantity, **at)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def outcome(records: Iterable[Measurement], quantity: str, **at) -> str:
    """A verdict in words, with the number of images that would decide where it is open."""
    records = list(records)
    found = OUTCOMES[round(get(records, f"{quantity}_outcome", **at).value)]
    needed = find(records, f"{quantity}_images_to_decide", **at)
    return f"{found} (n ≈ {needed.value:.0f} decides)" if found == "undecided" and needed else found
