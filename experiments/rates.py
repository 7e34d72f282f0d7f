"""Compression rates: Table 2 (by sampler and t*), Table 5 (by perturbation size), Table 6 (by seed), and beyond.

Command: purimetry run rates
Time: about 2 minutes on 2 cores of an AMD EPYC.
Expect: rates that fall with t*, reverse-only below DDPM below DDIM, hardly moved by the seed. On CIFAR-10 (48 images,
100 respaced steps, 10 minutes) Table 2's within 2 % at t = 20 and 50, but for DDIM, 3 % too small at 50 and 10 at 20;
at t = 10, which is a single respaced step, 7 % too small for DDPM, 7 too large for reverse-only and 20 too small for
DDIM.

Beside the paper's l2 rate stand the l_inf-to-l_inf ratio (the attack's norm), the root-mean-square form
||J||_F / sqrt(d), exactly and by Hutchinson's estimator, and the singular values of the Jacobian.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ..compression.batches import over_images
from ..compression.decompositions import singular_values
from ..compression.jacobian import jacobian, rms_rate, rms_rate_hutchinson
from ..compression.losses import margin
from ..compression.rates import expected_rates
from ..compression.records import Arrays, Measurement
from .pieces import Passes, Piece
from .workbench import Cell, Workbench, each

HUTCHINSON_DRAWS = 16
"""Of small images, beside the exact value; of large ones, a run's own number of draws, as each costs a gradient."""

ROUNDING = 1e-5
"""Of singular values in float32: a direction that is kept as it is does not count as one that expands."""


def rates(bench: Workbench, cell: Cell, eps: float, seed: int) -> Arrays:
    """Per image: mean l2 and l_inf rates at one perturbation size, with their standard errors over draws."""

    def compute(bench: Workbench) -> Arrays:
        measure = partial(expected_rates, draws=bench.configuration.draws)
        found = over_images(measure, (bench.purifier(cell),), bench.images, bench.keys(seed),
                            np.full(len(bench.images), eps, np.float32), name=f"rate of {cell}")
        return {"l2": found.l2.mean, "l2_se": found.l2.se, "linf": found.linf.mean, "linf_se": found.linf.se}

    return bench.per_image("rates", cell, f"eps{eps:g}-seed{seed}", compute)


def anchors(bench: Workbench, cell: Cell, seed: int) -> Arrays:
    """Per image: the anchor f_xi(x0) and the classifier's margin there."""

    def compute(bench: Workbench) -> Arrays:
        found = over_images(_anchor, (bench.classifier, bench.purifier(cell)), bench.images, bench.labels,
                            bench.keys(seed), name=f"anchor of {cell}")
        return {"anchor": found[0], "margin": found[1]}

    return bench.per_image("rates", cell, f"anchors-seed{seed}", compute)


def spectra(bench: Workbench, cell: Cell) -> Arrays:
    """Per image, first seed: singular values of J, its exact rms rate, and Hutchinson's estimate of it.

    Of large images, the estimate alone.
    """

    def compute(bench: Workbench) -> Arrays:
        if bench.large:
            found = over_images(partial(rms_rate_hutchinson, draws=bench.configuration.draws), (bench.purifier(cell),),
                                bench.images, bench.keys(), name=f"Jacobian of {cell}")
            return dict(zip(("hutchinson", "hutchinson_se"), found, strict=True))
        found = over_images(_spectrum, (bench.purifier(cell),), bench.images, bench.keys(), size=16,
                            name=f"Jacobian of {cell}")
        return dict(zip(("singular_values", "rms", "hutchinson", "hutchinson_se"), found, strict=True))

    return bench.per_image("rates", cell, "spectra", compute)


def pieces(bench: Workbench) -> list[Piece]:
    """Each cell of the grid."""
    return bench.pieces(bench.cells, _measure)


def passes(bench: Workbench) -> list[Passes]:
    """Through what an image goes."""
    c = bench.configuration
    sizes = len(c.seeds) * len(c.eps) + len({factor * c.eps[0] for factor in c.eps_factors} - {*c.eps})
    jacobian = c.draws if bench.large else bench.images[0].size
    return [Passes(cell, len(c.seeds) + sizes * (1 + c.draws), jacobian) for cell in bench.cells]


def run(bench: Workbench) -> list[Measurement]:
    """Measure every cell of the grid."""
    return bench.write("rates", [m for cell in each("rates", bench.cells) for m in _measure(bench, cell)])


def _measure(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    c = bench.configuration
    first = c.seeds[0]
    drift = [factor * c.eps[0] for factor in c.eps_factors]
    for seed in c.seeds:
        clean = anchors(bench, cell, seed)["margin"] < 0
        yield bench.mean("rates", "clean_accuracy", 100 * clean, "%", {**cell.at, "seed": seed}, seed)
        for eps in sorted({*c.eps, *drift} if seed == first else c.eps):
            found = rates(bench, cell, eps, seed)
            at = {**cell.at, "eps": eps, "seed": seed}
            for norm in ("l2", "linf"):
                yield bench.mean("rates", f"rate_{norm}", found[norm], "ratio", at, seed)
                yield bench.measurement("rates", f"rate_{norm}_spread", found[norm].std(ddof=1), None,
                                        len(bench.images), "ratio (standard deviation over images)", at, seed)
    yield from _over_seeds(bench, cell)
    found = spectra(bench, cell)
    yield bench.mean("rates", "rms_rate_hutchinson", found["hutchinson"], "ratio", cell.at)
    if "singular_values" not in found:
        return
    top = found["singular_values"][:, 0]
    yield bench.mean("rates", "rms_rate", found["rms"], "ratio", cell.at)
    yield bench.mean("rates", "largest_singular_value", top, "ratio", cell.at)
    expanding = (found["singular_values"] > 1 + ROUNDING).sum(1)
    yield bench.mean("rates", "expanding_directions", expanding, "directions", cell.at)


def _over_seeds(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    """The mean over base seeds, with its error over images, and how far the seeds' own means lie apart."""
    seeds = bench.configuration.seeds
    if len(seeds) == 1:
        return
    right = np.stack([anchors(bench, cell, seed)["margin"] < 0 for seed in seeds])
    kinds = [("clean_accuracy", "%", cell.at, 100 * right)]
    for eps in bench.configuration.eps:
        found = [rates(bench, cell, eps, seed) for seed in seeds]
        kinds += [(f"rate_{norm}", "ratio", {**cell.at, "eps": eps}, np.stack([of[norm] for of in found]))
                  for norm in ("l2", "linf")]
    for name, unit, at, values in kinds:
        yield bench.mean("rates", f"{name}_over_seeds", values.mean(0), unit, at)
        yield bench.measurement("rates", f"{name}_seed_spread", values.mean(1).std(ddof=1), None, len(seeds),
                                f"{unit} (standard deviation over base seeds)", at)


def _anchor(classifier, purifier, x, label, key):
    anchor = purifier(x, key)
    return anchor, margin(classifier(anchor), label)


def _spectrum(purifier, x, key):
    matrix = jacobian(purifier, x, key)
    linearised = lambda v, key: (matrix @ v.ravel()).reshape(v.shape)  # the same products, without the network
    return (singular_values(matrix), rms_rate(matrix),
            *rms_rate_hutchinson(linearised, x, key, draws=HUTCHINSON_DRAWS))
