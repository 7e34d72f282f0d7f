"""Compression step by step in the trained diffusion model, on and off the data manifold: Fig. 4c, d, Eqs. 15-19.

Command: purimetry run diffusion_steps
Time: half a minute on 2 cores of an AMD EPYC.
Expect: much of what the paper says. On- and off-manifold rates never cross; a random perturbation's rate starts at the
off-manifold one, is nearer to the on-manifold one from the sixth reverse step of DDPM (the ninth of DDIM), and ends at
1.00; 0.75 of a perturbation on the manifold is left, and 0.24 off it. Not as it says: on the manifold a step takes 5 to
7 %, where Eq. 19 has kappa > 1; the travelling perturbation passes the on-manifold rate of the data's tangent space and
ends in directions that no step compresses, so that space does not hold them; and Eq. 16 is 0.17 too low in the last
step, where a step is no longer small. The forward pass to the paper's t = 100 leaves 0.947, not 0.90.

Of every sampler at the largest t*. A step's rate is ||J_t||_F / sqrt(d), by Hutchinson's estimator, without the
expansion to first order; beside it stands the paper's form kappa_t (1 - gamma_t / d div eps) (Eq. 16), from the same
products, and on some images the exact Jacobian where d allows. On the manifold means along, off it across, the first
principal axes of the training images nearest to the clean image; the paper's own definition, by eigenvalues, cannot
fail. The travelling rate is that of a random perturbation made at the input. It turns from off to on where its mean is
first nearer to the on-manifold than to the off-manifold rate of the same step.
"""

from collections.abc import Iterator
from functools import partial

import jax.numpy as jnp
import numpy as np

from ..compression import manifold
from ..compression.batches import over_images
from ..compression.purifiers.diffusion import parts
from ..compression.records import Arrays, Measurement
from ..compression.samplers import Steps
from ..compression.statistics import bootstrap
from ..compression.step_rates import StepRates, step_rates
from .pieces import Piece
from .purifiers import SAMPLERS
from .workbench import Cell, Unmet, Workbench, each

LEARNED_FROM = 10_000
"""Training images among which neighbours are looked for."""

CHECKED, EXACT_DIMENSION = 8, 256
"""Images on which Hutchinson's estimates are compared with whole Jacobians, and the largest d where that is done."""

DRAWS = 16
"""Random perturbations of each kind, an image."""

SPACES = ("all", "on", "off")
"""Where random perturbations are drawn from: all directions, the tangent space, and the directions across it."""


def dimension(d: int) -> int:
    """Dimension of the tangent spaces: an eighth of all, at most the paper's 40 (Table S1).

    >>> dimension(64), dimension(3072)
    (8, 40)
    """
    return min(40, d // 8)


def neighbours(bench: Workbench) -> dict[str, int]:
    """What `manifold.local_pca` is told: the dimension, and three times as many neighbours."""
    m = dimension(int(np.prod(bench.dataset.shape)))
    return {"dimension": m, "neighbours": 3 * m}


def together(bench: Workbench) -> int:
    """Images in one compiled call: each has dozens of vectors of its size on their way through the network."""
    return max(1, min(16, 4096 // int(np.prod(bench.dataset.shape))))


def studied(bench: Workbench) -> list[Cell]:
    """Each sampler at the largest t*, but those that take other steps than the schedule's or recall former ones."""
    cells = [Cell(sampler, max(bench.configuration.t_stars)) for sampler in bench.configuration.samplers]
    found = [cell for cell in cells if _by_step(SAMPLERS[cell.sampler](bench.schedule, cell.t_star), cell.t_star)]
    if not found:
        raise Unmet("samplers that do not take the schedule's steps one by one have no rates by step; "
                    "name another than dpm and one_step in --samplers")
    return found


def _by_step(steps: Steps, t_star: int) -> bool:
    return len(steps.t) == t_star and not steps.memory


def rates(bench: Workbench, cell: Cell) -> Arrays:
    """Per image and step: rates in each space, their first-order form, and cumulated from the input (`StepRates`)."""

    def compute():
        arrays = {}
        for space, perturbations in zip(SPACES, _perturbations(bench), strict=True):
            found = _over(bench, cell, perturbations)
            arrays |= {"forward": found.forward[0], f"{space}_local": found.local.mean,
                       f"{space}_first_order": found.first_order.mean, f"{space}_cumulative": found.cumulative.mean}
        return arrays

    return bench.shard("diffusion_steps", str(cell), compute)


def exact_rates(bench: Workbench, cell: Cell) -> Arrays:
    """The rate of each step and its first-order form on a few images, from all d columns of the Jacobian."""

    def compute():
        n, d = min(CHECKED, len(bench.images)), int(np.prod(bench.dataset.shape))
        columns = np.eye(d, dtype=np.float32).reshape(d // DRAWS, 1, DRAWS, *bench.dataset.shape)
        found = [_over(bench, cell, np.repeat(some, n, axis=0)) for some in columns]
        mean_square = lambda rates: np.sqrt(np.mean(np.square(rates), axis=0))
        return {"local": mean_square([some.local.mean for some in found]),
                "first_order": np.mean([some.first_order.mean for some in found], axis=0),
                "cumulative": mean_square([some.cumulative.mean for some in found])}

    return bench.shard("diffusion_steps", f"{cell}-exact", compute)


def is_exact(bench: Workbench) -> bool:
    """Whether whole Jacobians of steps are formed."""
    d = int(np.prod(bench.dataset.shape))
    return d <= EXACT_DIMENSION and d % DRAWS == 0


def pieces(bench: Workbench) -> list[Piece]:
    """Each sampler."""
    _known(bench)
    return bench.pieces(studied(bench), _measure)


def run(bench: Workbench) -> list[Measurement]:
    """Measure every sampler."""
    if not is_exact(bench):
        bench.lacking("diffusion_steps", [
            f"Whole Jacobians of steps are formed up to d = {EXACT_DIMENSION}, for multiples of {DRAWS}; these images "
            f"have d = {np.prod(bench.dataset.shape)}, so Hutchinson's estimates stand alone."
        ])
    cells = each("rates of steps", studied(bench))
    return bench.write("diffusion_steps", [m for cell in cells for m in _measure(bench, cell)])


def first_step(holds: np.ndarray) -> int:
    """Number of the first step, from 1, at which something holds; one more than there are if at none.

    >>> first_step(np.array([False, True, True])), first_step(np.array([False]))
    (2, 2)
    """
    return 1 + int(np.argmax(np.append(holds, True)))


def turn(travelling: np.ndarray, on: np.ndarray, off: np.ndarray) -> int:
    """The first step at which the mean travelling rate is nearer to the on- than to the off-manifold rate.

    Rates: [images, steps]. One more than there are steps if there is none.

    >>> turn(np.array([[0.5, 0.8, 0.9]]), on=np.ones((1, 3)), off=np.full((1, 3), 0.5))
    2
    """
    travelling, on, off = (rates.mean(0) for rates in (travelling, on, off))
    return first_step(np.abs(travelling - on) < np.abs(travelling - off))


def crossing(below: np.ndarray, above: np.ndarray) -> int:
    """The first step at which the mean of the one is above that of the other, as in `turn`.

    >>> crossing(np.array([[0.5, 0.8]]), np.array([[0.6, 0.7]])), crossing(np.zeros((1, 2)), np.ones((1, 2)))
    (2, 3)
    """
    return first_step(below.mean(0) > above.mean(0))


def _measure(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    found = rates(bench, cell)
    steps = parts(bench.purifier(cell))[1]
    given = lambda quantity, value, unit="ratio", **at: bench.measurement(
        "diffusion_steps", quantity, value, None, len(bench.images), unit, {**cell.at, **at})
    mean = lambda quantity, values, unit="ratio", **at: bench.mean(
        "diffusion_steps", quantity, values, unit, {**cell.at, **at})
    for t, rate in enumerate(np.cumprod(found["forward"]), 1):
        yield given("forward_rate", found["forward"][t - 1], t=t)
        yield given("forward_cumulative", rate, t=t)
    travelling = found["all_cumulative"][:, 1:] / found["all_cumulative"][:, :-1]
    for number, (t, state, prediction) in enumerate(zip(*map(np.asarray, (steps.t, steps.state, steps.prediction)),
                                                        strict=True)):
        at = {"t": int(t)}
        yield given("state", state, **at)
        for space in SPACES:
            yield mean(f"rate_{space}", found[f"{space}_local"][:, number], **at)
        yield mean("rate_first_order", found["all_first_order"][:, number], **at)
        yield mean("rate_travelling", travelling[:, number], **at)
        yield mean("divergence", (found["all_first_order"][:, number] - state) / prediction, "per dimension", **at)
    for space in SPACES:
        yield mean(f"whole_{space}", found[f"{space}_cumulative"][:, -1])
    share = bootstrap(_share_of_forward, found["all_cumulative"], resamples=bench.configuration.bootstrap)
    yield bench.measurement("diffusion_steps", "forward_share", 100 * share.value, 100 * share.se, len(bench.images),
                            "% of the logarithm", cell.at)
    yield from _steps_with_intervals(bench, cell, travelling, found["on_local"], found["off_local"])
    if is_exact(bench):
        exact, n = exact_rates(bench, cell), min(CHECKED, len(bench.images))
        off_by = {name: found[f"all_{name}"][:n] - exact[name] for name in exact}
        yield mean("hutchinson_error_rate", off_by["local"].mean(1))
        yield mean("hutchinson_error_first_order", off_by["first_order"].mean(1))
        yield mean("hutchinson_error_whole", off_by["cumulative"][:, -1])


def _steps_with_intervals(bench, cell, travelling, on, off) -> Iterator[Measurement]:
    for quantity, statistic, *samples in (
        ("turn", turn, travelling, on, off), ("travelling_above_on", crossing, travelling, on),
        ("off_above_on", crossing, off, on),
    ):
        found = bootstrap(statistic, *samples, resamples=bench.configuration.bootstrap)
        for part, value, se in (("", found.value, found.se), ("_low", found.low, None), ("_high", found.high, None)):
            yield bench.measurement("diffusion_steps", quantity + part, value, se, len(on), "reverse step", cell.at)


def _share_of_forward(cumulative: np.ndarray) -> float:
    first, last = np.log(1 / cumulative.mean(0)[[0, -1]])
    return first / last


def _known(bench: Workbench) -> np.ndarray:
    return bench.training[0][:LEARNED_FROM]


def _perturbations(bench: Workbench) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random ones at each image, [images, draws, h, w, c], in each of the SPACES."""
    draw = partial(_drawn, tuple(neighbours(bench).items()))
    return over_images(draw, (jnp.asarray(_known(bench)),), bench.images, bench.keys(), size=together(bench),
                       name="tangent spaces")


def _over(bench: Workbench, cell: Cell, perturbations: np.ndarray) -> StepRates:
    """Rates of the steps at the first images, one program for all kinds of perturbations."""
    rows = slice(len(perturbations))
    return over_images(step_rates, (bench.purifier(cell),), bench.images[rows], bench.keys()[rows], perturbations,
                       size=together(bench), name=f"rates of steps of {cell}")


def _drawn(pca, known, x, key):
    basis = manifold.local_pca(known, x, **dict(pca)).basis
    return (manifold.isotropic(x, key, DRAWS), manifold.inside(basis, x, key, DRAWS),
            manifold.outside(basis, x, key, DRAWS))
