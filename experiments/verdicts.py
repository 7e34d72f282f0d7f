"""Intervals and verdicts as records."""

from collections.abc import Iterator

import numpy as np

from ..compression.hypothesis import Verdict
from ..compression.records import Measurement
from ..compression.statistics import Interval
from .workbench import Workbench

OUTCOMES = {"supported": 1, "undecided": 0, "contradicted": -1}


def interval(
    bench: Workbench, experiment: str, quantity: str, found: Interval, n: int, unit: str, at: dict
) -> Iterator[Measurement]:
    """A statistic with its standard error, and the ends of its 95 % interval as `quantity`_low and _high."""
    yield bench.measurement(experiment, quantity, found.value, found.se, n, unit, at)
    for end in ("low", "high"):
        yield bench.measurement(experiment, f"{quantity}_{end}", getattr(found, end), None, n, unit, at)


def verdict(
    bench: Workbench, experiment: str, quantity: str, found: Verdict, unit: str, at: dict, of_images: bool = True
) -> Iterator[Measurement]:
    """An effect with its interval, the claim's finite bounds, its outcome, and how many images would decide if any.

    of_images: whether n counts images; how many others would decide, such as trainings, is not said.
    """
    yield from interval(bench, experiment, quantity, found.effect, found.n, unit, at)
    for bound in ("above", "below"):
        if np.isfinite(value := getattr(found.hypothesis, bound)):
            yield bench.measurement(experiment, f"{quantity}_{bound}", value, None, found.n, unit, at)
    yield bench.measurement(experiment, f"{quantity}_outcome", OUTCOMES[found.outcome], None, found.n,
                            ", ".join(f"{value} {name}" for name, value in OUTCOMES.items()), at)
    if of_images and np.isfinite(found.needed):
        yield bench.measurement(experiment, f"{quantity}_images_to_decide", found.needed, None, found.n, "images", at)
