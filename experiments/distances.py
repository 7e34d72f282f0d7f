"""Whether purification brings an image closer to its clean one: Fig. 1c, Tables 1, S7 to S9, Figs. S2 to S4.

Command: purimetry run distances
Time: about 2 minutes on 2 cores of an AMD EPYC, after randomness_evaluation, whose inputs it shares.
Expect: the push away of the paper where the perturbation is small against the purifier's own noise, and no further.
At t* = 5 DDPM leaves uniform noise of 0.1 at an l2 distance of 0.54 instead of 0.46, but that of 0.2 at 0.66 instead of
0.92; the crossing is at 0.12, and grows with t* from 0.04 (t* = 1) to 0.25 (t* = 15; reverse-only 0.20, DDIM 0.21).
So PGD's inputs at eps 0.2 come closer in l2 (1.25 to 1.02) and in SSIM (0.90 to 0.91), against the paper's Table 1,
while in l_inf they are pushed away at every image (0.20 to 0.38). In l_inf the crossing is two to seven times as far.
Attacked inputs end farther away than uniform noise of the same l2 size would.

Distances in l2 and l_inf to the clean image, of the input, after each forward and each reverse step, as the states are
("end": the last of them), and of the clipped output that the classifier sees ("output"), with SSIM. Inputs are clean
images with uniform noise of several sizes (all images, every t*; the noise may leave [0, 1]) and adversarial ones (the
first 48 images, every sampler at the middle t*, largest budget, each purified under the attack's xi).

The crossing is the size of uniform noise at which the mean distance after equals the mean distance before, by linear
interpolation between the sizes, with a bootstrap interval over images; at either end of the sizes it lies beyond.
Tables S8 and S9 label rows as 16/255 and 32/255 whose initial l_inf distances are 32/255 and 64/255: so their
"shrinkage beyond 16/255" is a crossing between 8/255 and 32/255, by interpolation of Table S8 at 30/255 in l2, and
in Table S9 there is none in l_inf.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ..compression.batches import over_images
from ..compression.distances import l2_distance, linf_distance, ssim
from ..compression.rates import uniform_perturbations
from ..compression.records import Arrays, Measurement
from ..compression.statistics import bootstrap
from ..compression.trajectories import distances_along
from .adversarial import BPDA, BPDA_EOT, PGD, PGD_EOT, Kind, adversaries, budget, targets
from .pieces import Piece
from .workbench import Cell, Workbench, each

KINDS = {"PGD": PGD, "PGD-EOT": PGD_EOT, "BPDA": BPDA, "BPDA-EOT": BPDA_EOT}
"""Attacks, by the paper's names."""

FACTORS = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8)
"""Sizes of uniform noise, relative to the first budget."""


def sizes(bench: Workbench) -> list[float]:
    """Sizes of uniform noise, in pixel units."""
    return [round(factor * bench.configuration.eps[0], 9) for factor in FACTORS]


def noisy(bench: Workbench, cell: Cell) -> Arrays:
    """Per size and image: distances of uniform noise along the way, of the output, and SSIM."""

    def compute() -> Arrays:
        found = [over_images(_from_noise, (bench.purifier(cell),), bench.images, bench.keys(),
                             np.full(len(bench.images), eps, np.float32), name=f"distance of {cell}")
                 for eps in sizes(bench)]
        return {name: np.stack([one[name] for one in found]) for name in found[0]}

    return bench.shard("distances", f"{cell}-uniform", compute)


def attacked(bench: Workbench, cell: Cell, name: str) -> Arrays:
    """The same of adversarial inputs, per image."""
    found = adversaries(bench, cell, KINDS[name])

    def compute() -> Arrays:
        images, _ = targets(bench)
        return over_images(_distances, (bench.purifier(cell),), images, found, bench.keys()[: len(images)],
                           name=f"distance of {cell}")

    return bench.shard("distances", f"{cell}-{name}", compute)


def crossing(sizes: np.ndarray, difference: np.ndarray) -> float:
    """The first size at which a difference falls to 0, linear between sizes; the first or the last if it lies beyond.

    sizes, difference: of one length, sizes ascending.

    >>> crossing(np.array([1.0, 2.0, 4.0]), np.array([3.0, 1.0, -1.0]))
    3.0
    """
    below = np.flatnonzero(difference <= 0)
    if len(below) == 0:
        return float(sizes[-1])
    last = below[0]
    if last == 0:
        return float(sizes[0])
    return float(np.interp(0.0, difference[[last, last - 1]], sizes[[last, last - 1]]))


def pieces(bench: Workbench) -> list[Piece]:
    """Uniform noise at each cell, and each attack on every sampler at the middle t*."""
    noise = [Piece(cell.t_star, 1 + cell.t_star, partial(noisy, bench, cell)) for cell in bench.grid]
    attacks = [Piece((cell.t_star, name), 20 * kind.draws, partial(attacked, bench, cell, name))
               for name, kind in KINDS.items() for cell in bench.middle_cells]
    return attacks + noise


def run(bench: Workbench) -> list[Measurement]:
    """Measure every cell."""
    found = []
    for cell in each("distances", bench.grid):
        found += _noise(bench, cell)
        if cell in bench.middle_cells:
            for name, kind in KINDS.items():
                found += _inputs(bench, attacked(bench, cell, name), _at(bench, cell, name, kind))
    return bench.write("distances", found)


def _at(bench: Workbench, cell: Cell, name: str, kind: Kind) -> dict:
    return {**cell.at, "input": name, "eps": budget(bench), **kind.at, "steps": bench.configuration.paper_steps}


def _noise(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    found = noisy(bench, cell)
    for number, eps in enumerate(sizes(bench)):
        one_size = {name: values[number] for name, values in found.items()}
        yield from _inputs(bench, one_size, {**cell.at, "input": "uniform", "eps": eps})
    for norm in ("l2", "linf"):
        before = found[norm][:, :, 0]
        for state, after in {"end": found[norm][:, :, -1], "output": found[f"output_{norm}"]}.items():
            yield from _crossing(bench, (after - before).T, {**cell.at, "norm": norm, "state": state})


def _inputs(bench: Workbench, found: Arrays, at: dict) -> Iterator[Measurement]:
    for norm in ("l2", "linf"):
        path = found[norm]
        states = {"input": path[:, 0], "noised": path[:, path.shape[1] // 2], "end": path[:, -1],
                  "output": found[f"output_{norm}"]}
        for state, values in states.items():
            yield bench.mean("distances", "distance", values, "pixel", {**at, "norm": norm, "state": state})
        farther = 100 * (states["output"] > states["input"])
        yield bench.mean("distances", "pushed_away", farther, "% of images", {**at, "norm": norm})
    for state in ("input", "output"):
        yield bench.mean("distances", "ssim", found[f"ssim_{state}"], "SSIM", {**at, "state": state})


def _crossing(bench: Workbench, difference: np.ndarray, at: dict) -> Iterator[Measurement]:
    """difference: [images, sizes] of after minus before."""
    statistic = lambda rows: crossing(np.array(sizes(bench)), rows.mean(0))
    found = bootstrap(statistic, difference, resamples=bench.configuration.bootstrap)
    for name, value, se in (("crossing", found.value, found.se), ("crossing_low", found.low, None),
                            ("crossing_high", found.high, None)):
        yield bench.measurement("distances", name, value, se, len(difference), "pixel", at)


def _from_noise(purifier, clean, key, eps):
    return _distances(purifier, clean, clean + uniform_perturbations(clean, eps, key, 1)[0], key)


def _distances(purifier, clean, x, key):
    path, output = distances_along(purifier, x, key, clean), purifier(x, key)
    return {**path._asdict(), "output_l2": l2_distance(output, clean), "output_linf": linf_distance(output, clean),
            "ssim_input": ssim(x, clean), "ssim_output": ssim(output, clean)}
