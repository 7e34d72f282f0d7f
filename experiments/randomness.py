"""How much of a purified image is the purifier's randomness, and how much its input: Fig. 2, Eq. 7, Tables S12, S13.

Command: purimetry run randomness
Time: about 1 minute on 2 cores of an AMD EPYC.
Expect: randomness to outweigh the input far less than in the paper, whose SNR of 0.006 at t = 100 is 0.27 (DDPM), 0.47
(DDIM) and 0.63 (reverse-only) on digits at t* = 5: a budget of 0.1 is three times 8/255, and the input's variance
grows with its square. So the radius does not grow from 0.456 to many times that under randomness alone, it falls to
0.415 (DDPM): randomness expands only balls of eps below 0.091. With randomness fixed it falls to 0.216, as the
paper's falls. Directions correlate with 0.52 at one input and 0.64 under one xi (the paper's: 0.22 and
0.93), for reverse-only even the other way about, 0.72 and 0.51.

As in App. E.4: the first 50 images, each with 50 uniform perturbations of the first budget (which may leave [0, 1]),
each purified under the same 50 configurations; every sampler at the middle t*. Variances are unbiased, so the law of
total variance can be tested: the total is measured once more, from independent pairs of an input and a xi, and the
variance of kind "total_gap" is the difference. `expansion_threshold` is the eps at which the inputs' radius, which
grows with eps, reaches that of one input's outputs, which does not: randomness expands smaller balls and shrinks larger
ones. Table S13 exchanges the headings "Fix Inputs" and "Fix Random"; the text and Fig. 2 have them right.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ..compression.batches import at_most, over_draws, over_images
from ..compression.randomness import redraw, redraws
from ..compression.rates import uniform_perturbations
from ..compression.records import Arrays, Measurement
from ..compression.statistics import bootstrap
from ..compression.variance import mean_over_pairs, stochasticity
from .pieces import Piece
from .workbench import Cell, Workbench, each

IMAGES = 50
"""Images, the first of the run's (App. E.4)."""

REPEATS = 50
"""Perturbations of each image, and configurations for each of them (App. E.4); at most as many as the run's images."""

PAIRS = 500
"""Independent pairs of an input and a configuration behind the direct estimate of the total variance."""

BINS = 60
"""Bins of the histogram of distances to centroids (Fig. 2f)."""

RADII = ("initial", "fixed_randomness", "fixed_input", "vary_both")
"""Sets of images whose distances to their centroid are measured, as `variance.Radii` names them."""


def measured(bench: Workbench, cell: Cell) -> Arrays:
    """Per image: variances, mean correlations and mean radii; correlations of the first; histograms of radii."""

    def compute() -> Arrays:
        images, keys = bench.images[:IMAGES], bench.keys()[:IMAGES]
        eps = np.full(len(images), bench.configuration.eps[0], np.float32)
        measure = partial(_everything, min(REPEATS, len(images)))
        found, means, total = over_images(measure, (bench.purifier(cell),), images, keys, eps, size=at_most(2, images),
                                          name=f"output of {cell}")
        edges = np.linspace(0, max(radii.max() for radii in found.radii), BINS + 1)
        return {
            **found.variances._asdict(), "total_direct": total, "edges": edges,
            **{f"correlation_{name}": values for name, values in means.items()},
            **{f"matrix_{name}": matrix[0] for name, matrix in found.correlations._asdict().items()},
            **{f"radius_{name}": _by_image(radii).mean(1) for name, radii in found.radii._asdict().items()},
            **{f"density_{name}": np.histogram(radii, edges, density=True)[0]
               for name, radii in found.radii._asdict().items()},
        }

    return bench.shard("randomness", str(cell), compute)


def pieces(bench: Workbench) -> list[Piece]:
    """Each sampler."""
    return bench.pieces(bench.one_of_each, _measure)


def run(bench: Workbench) -> list[Measurement]:
    """Measure every sampler at the middle t*."""
    still = [str(cell) for cell in bench.one_of_each if not is_random(measured(bench, cell))]
    if still:
        bench.lacking("randomness", [f"The SNR of {', '.join(still)}, whose output hardly depends on xi at some",
                                     "image; a larger --t-stars gives it one."])
    cells = each("randomness", bench.one_of_each)
    return bench.write("randomness", [m for cell in cells for m in _measure(bench, cell)])


def is_random(found: Arrays) -> bool:
    """Whether the internal variance is more than what rounding leaves of none."""
    return bool((found["internal"] > np.finfo(np.float32).eps * found["input"]).all())


def _measure(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    name, found, at = "randomness", measured(bench, cell), {**cell.at, "eps": bench.configuration.eps[0]}
    given, internal, direct = found["input"], found["internal"], found["total_direct"]
    for kind, values in {"input": given, "internal": internal, "interaction": found["interaction"],
                         "total": given + internal, "total_direct": direct,
                         "total_gap": direct - given - internal}.items():
        yield bench.mean(name, "variance", values, "squared pixels, a mean over pixels", {**at, "of": kind})
    if is_random(found):
        yield bench.mean(name, "snr", given / internal, "ratio", at)
        means = bootstrap(lambda a, b: float(a.mean() / b.mean()), given, internal,
                          resamples=bench.configuration.bootstrap)
        yield bench.measurement(name, "snr_of_means", means.value, means.se, len(given), "ratio", at)
    for fixed in ("fixed_input", "fixed_randomness"):
        yield bench.mean(name, "correlation", found[f"correlation_{fixed}"], "Pearson correlation",
                         {**at, "set": fixed})
    for kind in RADII:
        yield bench.mean(name, "radius", found[f"radius_{kind}"], "pixel (l2)", {**at, "set": kind})
    threshold = at["eps"] * found["radius_fixed_input"] / found["radius_initial"]
    yield bench.mean(name, "expansion_threshold", threshold, "pixel", cell.at)


def _everything(repeats, purifier, x, key, eps):
    found = stochasticity(purifier, x, key, eps, inputs=repeats, configurations=repeats)
    means = {name: mean_over_pairs(matrix) for name, matrix in found.correlations._asdict().items()}
    return found, means, _total(purifier, x, redraw(key, repeats), eps)


def _total(purifier, x, key, eps):
    """Var f(x | xi) as a mean over pixels, from pairs that share neither an input nor a configuration."""
    noisy = x + uniform_perturbations(x, eps, key, PAIRS)
    return over_draws(lambda pair: purifier(*pair), (noisy, redraws(key, PAIRS)), x).var(0, ddof=1).mean()


def _by_image(radii):
    return radii.reshape(len(radii), -1)
