"""Finding measurements among a run's records."""

from collections.abc import Iterable

import numpy as np

from ..compression.records import Measurement, RecordError

Z95 = 1.959964
"""Standard errors on either side of a 95 % interval."""


def select(records: Iterable[Measurement], quantity: str, **at) -> list[Measurement]:
    """Measurements of a quantity whose coordinates include `at`, in the order they were written.

    >>> records = [Measurement("rates", "rms_rate", 0.3, 0.01, 8, "ratio", {"sampler": "ddpm", "t_star": 5})]
    >>> len(select(records, "rms_rate", sampler="ddpm")), len(select(records, "rms_rate", sampler="ddim"))
    (1, 0)
    """
    return [m for m in records if m.quantity == quantity and at.items() <= m.at.items()]


def find(records: Iterable[Measurement], quantity: str, **at) -> Measurement | None:
    """The first such measurement, None if there is none."""
    return next(iter(select(records, quantity, **at)), None)


def get(records: Iterable[Measurement], quantity: str, **at) -> Measurement:
    """The first such measurement; RecordError, saying which is missing, if there is none."""
    found = find(records, quantity, **at)
    if found is None:
        raise RecordError(f"the records lack {quantity} at {at}; run the experiment again")
    return found


def distinct(measurements: Iterable[Measurement], coordinate: str) -> list:
    """The values of a coordinate, in order of first appearance."""
    return list(dict.fromkeys(m.at[coordinate] for m in measurements if coordinate in m.at))


def wilson(share, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Wilson's 95 % interval of a share (0 to 1) of n images; of none, or of all, it is not certain.

    >>> low, high = wilson(0.0, 128)
    >>> round(float(low), 3), round(float(high), 3)
    (0.0, 0.029)
    """
    share = np.asarray(share)
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    return centre - half, centre + half


def percent_bar(measurement: Measurement) -> np.ndarray:
    """[2, 1] lengths of the 95 % interval below and above a percentage of images, which cannot leave 0 to 100.

    By the standard error; by Wilson where that is 0, since all images agree.
    """
    value, half = measurement.value, Z95 * (measurement.se or 0.0)
    low, high = max(0.0, value - half), min(100.0, value + half)
    if measurement.se == 0:
        low, high = (100 * float(end) for end in wilson(value / 100, measurement.n))
    return np.clip([[value - low], [high - value]], 0, None)


def line(measurements: list[Measurement], coordinate: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and half the 95 % interval of y, sorted by x."""
    ordered = sorted(measurements, key=lambda m: m.at[coordinate])
    x, y, se = np.array([(m.at[coordinate], m.value, m.se or 0.0) for m in ordered]).T
    return x, y, Z95 * se
