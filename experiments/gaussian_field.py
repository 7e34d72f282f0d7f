"""Compression in the score field of a Gaussian with a manifold: Fig. 4a, b, Eqs. 11-14, Table S1.

Command: purimetry run gaussian_field
Time: 2 seconds on 2 cores of an AMD EPYC.
Expect: with 0.01 as the variance, rates of 0.999 on and 0.900 off the manifold; a random perturbation's goes from
0.9014 to 0.9990, halfway at step 21, and 10 % of the perturbation is left. As printed, rates of 9 off the manifold from
the first step to the last, 10^95 times the perturbation, and no way to the on-manifold value.

The score field does not depend on the run's data; only its seed matters. Table S1 is measured in both readings. As
printed, h / sigma_s^2 is 10 and forward Euler diverges off the manifold, so it cannot give Fig. 4b; the figure shows
the reading in which the printed 0.01 is the variance sigma_s^2. A perturbation is followed as the paper does, as the
difference of two trajectories, and rescaled after each step (the field is affine), so that nothing overflows.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ..compression.batches import over_images
from ..compression.records import Arrays, Measurement
from ..theory import score_field
from ..theory.low_rank import LowRank, low_rank
from ..theory.score_field import PRINTED, STABLE, ScoreField
from .pieces import Piece
from .workbench import Workbench

READINGS = {"stable": STABLE, "printed": PRINTED}
"""Table S1 with its 0.01 read as the variance, and as printed."""

PICTURE = ScoreField(d=2, d_in=1, off_std=0.4)
"""The plane of the quiver plot. Its two deviations are closer than Table S1's, so that both directions can be seen."""

PERTURBATIONS = 64
"""Random initial perturbations that are followed."""

UNITS = {"d": "dimensions", "d_in": "dimensions", "on_std": "standard deviation", "off_std": "standard deviation",
         "step": "time", "steps": "steps"}
"""The hyperparameters of a field."""

STEP_RATIOS = np.geomspace(1e-2, 20, 67)
"""h / sigma_s^2 at which the approximations are compared with the exact rate."""


def arrows(bench: Workbench) -> Arrays:
    """The score on a grid of the plane."""

    def compute():
        grid = np.meshgrid(*[np.linspace(-2.4, 2.4, 13)] * 2)
        at = np.stack(grid, -1).reshape(-1, 1, 2, 1).astype(np.float32)
        return {"at": at, "score": over_images(score_field.score, (_data(PICTURE, 0),), at, name="score"),
                "variances": PICTURE.variances}

    return bench.shard("gaussian_field", "arrows", compute)


def followed(bench: Workbench, reading: str) -> Arrays:
    """The rate at each step of random perturbations, [perturbations, T], and exactly."""

    def compute():
        field, seed = READINGS[reading], bench.configuration.seeds[0]
        keys = jax.random.split(jax.random.key(seed), PERTURBATIONS)
        measured = over_images(partial(_follow, field), (_data(field, seed),), keys, size=16,
                               name=f"rates over time, {reading}")
        exact = score_field.rates_over_time(field)
        return {"measured": measured, "exact": exact.perturbation, "cumulative": exact.cumulative}

    return bench.shard("gaussian_field", f"followed-{reading}", compute)


def sweep(bench: Workbench) -> Arrays:
    """Rates of one step for many step sizes, h / sigma_s^2 from far below to far above where Euler is stable."""

    def compute():
        fields = [STABLE._replace(step=ratio * STABLE.variances.min()) for ratio in STEP_RATIOS]
        spectra = [score_field.spectrum(field) for field in fields]
        return {"ratio": STEP_RATIOS, "on": [s.rates[0] for s in spectra], "off": [s.rates[1] for s in spectra],
                "expected": [s.expected_rate for s in spectra], "first_order": [s.first_order_rate for s in spectra]}

    return bench.shard("gaussian_field", "sweep", compute)


def pieces(bench: Workbench) -> list[Piece]:
    """The two readings, the arrows and the sweep."""
    readings = [Piece("follow", 1, partial(followed, bench, reading)) for reading in READINGS]
    return [*readings, Piece("arrows", 0.1, partial(arrows, bench)), Piece("sweep", 0.1, partial(sweep, bench))]


def run(bench: Workbench) -> list[Measurement]:
    """Measure both readings of Table S1."""
    arrows(bench), sweep(bench)
    return bench.write("gaussian_field", [m for reading in READINGS for m in _measure(bench, reading)])


def transition(rates: np.ndarray, on: float, off: float) -> int:
    """The first step whose rate is nearer to the on-manifold than to the off-manifold value; T if there is none.

    >>> transition(np.array([0.9, 0.93, 0.97, 0.99]), on=1.0, off=0.9)
    2
    """
    near = np.abs(rates - on) < np.abs(rates - off)
    return int(near.argmax()) if near.any() else len(rates)


def _measure(bench: Workbench, reading: str) -> Iterator[Measurement]:
    field, found = READINGS[reading], followed(bench, reading)
    spectrum, stability = score_field.spectrum(field), score_field.stability(field)
    exact = lambda quantity, value, unit="ratio", **at: bench.measurement(
        "gaussian_field", quantity, value, None, 1, unit, {"reading": reading, **at})
    for name, value in field._asdict().items():
        yield exact(name, value, UNITS[name])
    yield exact("step_over_variance", stability.ratio)
    yield exact("stable", stability.stable, "1 if no direction expands")
    for name, value in zip(("on", "off"), spectrum.rates, strict=True):
        yield exact(f"rate_{name}", value)
    yield exact("rate_off_signed", spectrum.gains[1])
    yield exact("expected_rate", spectrum.expected_rate)
    yield exact("rms_rate", spectrum.rms_rate)
    yield exact("first_order_rate", spectrum.first_order_rate)
    yield exact("cumulative_rate", found["cumulative"][-1])
    for step in np.unique(np.linspace(0, field.steps - 1, 12).astype(int)).tolist():
        yield exact("rate_exact", found["exact"][step], step=step)
        yield bench.mean("gaussian_field", "rate_measured", found["measured"][:, step], "ratio",
                         {"reading": reading, "step": step})
    if stability.stable:
        on, off = spectrum.rates
        yield exact("transition_exact", transition(found["exact"], on, off), "step")
        steps = [transition(rates, on, off) for rates in found["measured"]]
        yield bench.mean("gaussian_field", "transition_measured", steps, "step", {"reading": reading})


def _data(field: ScoreField, seed: int) -> LowRank:
    """The Gaussian of a field about 0; a plane's manifold is its first axis, otherwise its directions are random."""
    vectors = np.eye(2, 1) if field.d == 2 else np.random.default_rng(seed).normal(size=(field.d, field.d_in))
    return low_rank(np.zeros((1, field.d, 1)), vectors, *field.variances)


def _follow(field, data, key):
    def advance(v, _):
        moved = score_field.euler(data, field.step, data.mean + v) - score_field.euler(data, field.step, data.mean)
        rate = jnp.linalg.norm(moved)
        return moved / rate, rate

    start = jax.random.normal(key, data.mean.shape)
    return jax.lax.scan(advance, start / jnp.linalg.norm(start), length=field.steps)[1]
