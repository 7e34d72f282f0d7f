"""Clean accuracy, compression rate and robust accuracy over the whole diffusion time: Fig. S6, App. E.5.

Command: purimetry run rates_timesteps
Time: about 2 minutes on 2 cores of an AMD EPYC, after the grid's rates and robust accuracy.
Expect: clean accuracy that falls from 97 % to chance (12 %) between t* = 20 and 70 (DDPM: 60), robust accuracy that
peaks at t* = 5 (DDPM) and 15 (reverse-only). No S-shape: from t = 200 to 700, where the paper's reverse-only rate
rises, ours falls, from 0.27 to 0.14. Both samplers' mean rates seem to rise once, by 0.03 and 0.04 after t* = 20 and
30, but 128 images do not decide that (about 1,300 would), and the median falls: a few images, up to 5 % with rates
above 1, carry the mean there.

t* runs from the first step to the last of the schedule, with the forward process (DDPM) and without it (reverse-only),
whatever the run's own grid is; cells of the grid are taken from it. Rates and anchors are those of the first base
seed at the first budget. Robust accuracy is the paper's PGD-40 with xi_attack = xi_test, which is no converged attack:
it says where robustness is lost, not how much of it is left. Whether a rate falls monotonically is asked of its
clearest rise between any two t*, with an interval that holds for all pairs at once; whether it rises in the paper's
medium regime, from t = 200 to 700, of these two alone. The mean over images (the expected rate) stands beside the
median, for at large t* a few images carry the mean.
"""

from collections.abc import Iterator

import numpy as np

from ..compression.hypothesis import Hypothesis
from ..compression.records import Measurement
from ..compression.statistics import bootstrap, clearest_rise
from .pieces import Piece
from .rates import anchors, rates
from .robust_accuracy import attacked
from .verdicts import verdict
from .workbench import Cell, Workbench, each

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0)
"""t* as parts of the schedule's steps."""

MEDIUM = (0.2, 0.7)
"""Where the paper's medium regime begins and ends, as parts of the schedule's steps."""

RISES = Hypothesis("medium", "The rate rises in the medium regime", above=0)

SAMPLERS = ("ddpm", "reverse")
"""With the forward process and without it (Fig. S6a, b)."""

CENTERS = {"mean": np.mean, "median": np.median}
"""Of the images' rates: the paper's expected rate, and that of a typical image."""


def times(steps: int, images: int) -> list[int]:
    """t* of a schedule with that many steps; fewer of them where there are fewer than eight images to each.

    >>> times(100, 128), times(10, 128), times(100, 16)
    ([1, 2, 5, 10, 15, 20, 30, 45, 70, 100], [1, 2, 3, 4, 7, 10], [1, 100])
    """
    count = min(len(FRACTIONS), max(1, images // 8))
    chosen = np.linspace(0, len(FRACTIONS) - 1, count).round().astype(int)
    return sorted({max(1, round(FRACTIONS[i] * steps)) for i in chosen})


def grid(bench: Workbench) -> list[Cell]:
    """Both samplers at every t*."""
    t_stars = times(bench.schedule.steps, len(bench.images))
    return [Cell(sampler, t_star) for sampler in SAMPLERS for t_star in t_stars]


def pieces(bench: Workbench) -> list[Piece]:
    """Each purifier."""
    return bench.pieces(grid(bench), _measure)


def run(bench: Workbench) -> list[Measurement]:
    """Measure every purifier, and how the rate of each sampler goes."""
    cells = [m for cell in each("timesteps", grid(bench)) for m in _measure(bench, cell)]
    several = len(times(bench.schedule.steps, len(bench.images))) > 1
    courses = [m for sampler in SAMPLERS for center in CENTERS if several for m in _course(bench, sampler, center)]
    return bench.write("rates_timesteps", [*cells, *courses])


def _rates(bench: Workbench, cell: Cell) -> np.ndarray:
    return rates(bench, cell, bench.configuration.eps[0], bench.configuration.seeds[0])["l2"]


def _measure(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    eps, seed = bench.configuration.eps[0], bench.configuration.seeds[0]
    right = anchors(bench, cell, seed)["margin"] < 0
    robust = attacked(bench, cell, eps, "paper")["broken_at"] < 0
    at = {**cell.at, "eps": eps}
    yield bench.mean("rates_timesteps", "clean_accuracy", 100 * right, "%", at)
    values = _rates(bench, cell)
    yield bench.mean("rates_timesteps", "rate", values, "ratio", at)
    median = bootstrap(np.median, values, resamples=bench.configuration.bootstrap)
    yield bench.measurement("rates_timesteps", "median_rate", median.value, median.se, len(values), "ratio", at)
    yield bench.mean("rates_timesteps", "expanded", 100 * (values > 1), "% of images", at)
    yield bench.mean("rates_timesteps", "robust_accuracy", 100 * robust, "%", {**at, "attack": "paper"})


def _course(bench: Workbench, sampler: str, center: str) -> Iterator[Measurement]:
    values = {cell.t_star: _rates(bench, cell) for cell in grid(bench) if cell.sampler == sampler}
    of, resamples, t_stars = CENTERS[center], bench.configuration.bootstrap, list(values)
    rise = clearest_rise(np.stack(list(values.values())), resamples, center=of)
    at, n = {"sampler": sampler, "center": center}, len(bench.images)
    emit = lambda quantity, value, unit: bench.measurement("rates_timesteps", quantity, value, None, n, unit, at)
    yield emit("rise", rise.value, "ratio")
    yield emit("rise_low", rise.low, "ratio")
    yield emit("rise_high", rise.high, "ratio")
    yield emit("rise_from", t_stars[rise.start], "steps")
    yield emit("rise_to", t_stars[rise.end], "steps")
    if rise.value > 0:
        yield emit("images_to_decide", n * ((rise.value - rise.low) / rise.value) ** 2, "images")
    first, last = (round(part * bench.schedule.steps) for part in MEDIUM)
    if {first, last} <= values.keys():
        change = lambda first, last: float(of(last, axis=0) - of(first, axis=0))
        judged = RISES.judge(values[first], values[last], statistic=change, resamples=resamples)
        yield from verdict(bench, "rates_timesteps", "medium", judged, "ratio", {**at, "from": first, "to": last})
