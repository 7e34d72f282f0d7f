"""ALP's robustness matrix: FGSM of three budgets against latents of five noise levels (alp Sec. Experiments A).

Command: purimetry run alp_matrix
Time: about 2 minutes on 2 cores of an AMD EPYC after the trainings of alp_tradeoff, by its 170 seconds of both.
Expect: no gain from noise through the ensemble. On digits (128 images, eps 0.2) FGSM through the ensemble leaves 33 ± 4
% at sigma = 0 and 19 ± 3 % at 0.5 where sigma is changed after training, 21 ± 4 % at both where it is trained at
each. An attack of the classifier alone finds that trained noise helps, 26, 44 and 63 % at sigma = 0, 0.5 and 2; one
through the single draw that decides less, 25, 28 and 34 %. The document has 33.1 and 37.7 % at eps 0.3 on CIFAR-10;
there (32 images, 53 minutes with other work) FGSM of the classifier alone leaves 19 ± 7 % at both, trained at each, and
no attack through ALP leaves more than 12 ± 6 %.

The document says neither whether sigma is changed in a network that is trained or the network is trained at it, nor
whether FGSM goes through ALP. So both readings of sigma are measured: "test", ALP as it was trained, with another sigma
in place of its own; and "trained", an autoencoder for each sigma, that of sigma = 0 by reconstruction alone, of which
the rate cannot be part. And three attacks: "classifier" knows the classifier alone, and its input is decided on by the
ensemble of 20; "fixed" goes through one draw, which also decides; "ensemble" through all 20, which decide together.
Draws are held between attack and decision. The classifier is the undefended one. A gain is over sigma = 0 of the same
reading, at the same images.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np

from ..compression.attacks.fgsm import fgsm
from ..compression.purifiers.autoencoder import alp
from ..compression.purifiers.identity import identity
from ..compression.records import Arrays, Measurement
from ..compression.types import Purifier
from .autoencoders import FGSM_EPS, SIGMAS, THREATS, at_sigma, held, margins, network, under_attack, weights
from .pieces import Piece
from .workbench import Workbench, each

READINGS = ("test", "trained")
"""Of "sigma"."""

BARE = ("none", 0.0)
"""No purifier, in place of a reading and its sigma."""


def purifier(bench: Workbench, reading: str, sigma: float) -> Purifier:
    """ALP at this sigma, in a reading of it."""
    if reading == "none":
        return identity
    if reading == "test":
        return alp(network(bench), sigma)
    still = network(bench, at_sigma(0.0))  # whose architecture has another constant: with one, all share programs
    return alp(still.with_state(network(bench, at_sigma(sigma)).state), sigma)


def matrix(bench: Workbench, reading: str, sigma: float, threat: str) -> Arrays:
    """Margins of every image, [images] without an attack and [budgets, images] with it."""

    def compute() -> Arrays:
        made, of = purifier(bench, reading, sigma), THREATS[threat]
        attack = lambda eps: under_attack(bench, fgsm, made, of, eps, len(bench.images))["margin"]
        return {"clean": margins(bench, made, of.judged, bench.images), "attacked": np.stack([*map(attack, FGSM_EPS)])}

    return bench.shard("alp_matrix", f"{reading}-sigma{sigma:g}-{threat}", compute)


def rows() -> list[tuple[str, float, str]]:
    """Reading, sigma and attack of each row of the matrix."""
    return [(*BARE, "classifier"), *product(READINGS, SIGMAS, THREATS)]


def pieces(bench: Workbench) -> list[Piece]:
    """Each row; those of a reading share their programs."""
    cost = {"classifier": 1, "fixed": 1, "ensemble": 8}
    return [Piece(reading, cost[threat], partial(matrix, bench, reading, sigma, threat))
            for reading, sigma, threat in rows()]


def run(bench: Workbench) -> list[Measurement]:
    """Attack each row."""
    return bench.write("alp_matrix", [m for row in each("alp_matrix", rows()) for m in _measure(bench, *row)],
                       weights(bench, held(SIGMAS)))


def _measure(bench: Workbench, reading: str, sigma: float, threat: str) -> Iterator[Measurement]:
    right, still = (_right(bench, reading, s, threat) for s in (sigma, 0.0))
    for eps, now, before in zip((0.0, *FGSM_EPS), right, still, strict=True):
        at = {"reading": reading, "sigma": sigma, "threat": threat, "eps": eps}
        yield bench.mean("alp_matrix", "accuracy", 100 * now, "%", at)
        if sigma:
            yield bench.mean("alp_matrix", "gain", 100 * (now - before), "percentage points", at)


def _right(bench, reading, sigma, threat):
    """[1 + budgets, images], the first without an attack."""
    found = matrix(bench, reading, sigma, threat)
    return (np.vstack([found["clean"][None], found["attacked"]]) < 0).astype(float)
