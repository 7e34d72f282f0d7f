"""What ALP's noise costs in fidelity and buys in robustness: PSNR and defence accuracy against sigma (alp Fig. 3).

Command: purimetry run alp_tradeoff
Time: about 3 minutes on 2 cores of an AMD EPYC after alp_sigma, by its 310 seconds of both.
Expect: no peak to be seen on digits (eps 0.2). With sigma changed after training PSNR falls from 30.1 ± 0.3 dB at 0 to
12.6 ± 0.2 at 2, and PGD-7 leaves 27 to 35 % where it knows the classifier alone, 6 to 12 % through the ensemble
(standard error 7 and 4 points), whatever sigma. Trained at each sigma, what the unaware attack leaves rises from 10 ± 4
to 77 ± 6 %, what the other leaves from 2 ± 2 to 15 ± 5 %: the latent of more noise carries less, and hides from an
attack that is not told. On CIFAR-10 (32 images, 8/255, 25 minutes) PGD-7 through the ensemble leaves nothing at any
sigma, and one of the classifier alone about what no attack leaves: 62 ± 9 % at 0 and 0.5, 19 ± 7 % at 2.

PSNR of purified clean images under one draw, clean accuracy of the ensemble of 20, and its accuracy under PGD-7 that
knows the classifier alone or goes through the ensemble, whose draws are held between attack and decision. Budget:
8/255, or the run's largest where that is larger. Readings of sigma as in `alp_matrix`: "test", ALP as it was trained
at another sigma, among them its own ("learned"); "trained", an autoencoder for each sigma; and "wide", as "test" of the
latent of 512 channels, which the document holds to let perturbations through. The first 48 images.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ..compression.batches import over_images
from ..compression.distances import psnr
from ..compression.purifiers.autoencoder import alp
from ..compression.records import Arrays, Measurement
from ..compression.types import Purifier
from .adversarial import targets
from .alp_matrix import purifier
from .autoencoders import SIGMAS, THREATS, WIDE, budget, held, margins, network, pgd_7, under_attack, weights
from .pieces import Piece
from .workbench import Workbench, each

SWEPT = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Sigmas of a network that is trained already."""

LEARNED = "learned"
"""In place of a number: the sigma that the network was trained to."""

CELLS = (
    *(("test", sigma) for sigma in (*SWEPT, LEARNED)), *(("wide", sigma) for sigma in (0.0, LEARNED)),
    *(("trained", sigma) for sigma in SIGMAS),
)
"""Reading and sigma of each purifier."""

THREATENED = ("classifier", "ensemble")
"""Attacks, of `autoencoders.THREATS`."""


def measured(bench: Workbench, reading: str, sigma: float | str) -> Arrays:
    """Per image: PSNR of the purified clean image, margins without an attack and under each; and sigma."""

    def compute() -> Arrays:
        made, at = _made(bench, reading, sigma)
        images, _ = targets(bench)
        found = {threat: under_attack(bench, pgd_7, made, THREATS[threat], budget(bench), len(images))["margin"]
                 for threat in THREATENED}
        clean = margins(bench, made, THREATS["ensemble"].judged, images)
        fidelity = over_images(_fidelity, (made,), images, bench.keys()[: len(images)], name="PSNR of ALP")
        return {**found, "clean": clean, "psnr": fidelity, "sigma": np.array(at)}

    return bench.shard("alp_tradeoff", f"{reading}-{sigma}", compute)


def _made(bench, reading, sigma) -> tuple[Purifier, float]:
    if reading == "trained":
        return purifier(bench, reading, sigma), sigma
    own = network(bench, WIDE) if reading == "wide" else network(bench)
    at = float(own.module.sigma) if sigma == LEARNED else sigma
    return alp(own, at), at


def pieces(bench: Workbench) -> list[Piece]:
    """Each purifier; those of a reading share their programs."""
    return [Piece(reading, 1, partial(measured, bench, reading, sigma)) for reading, sigma in CELLS]


def run(bench: Workbench) -> list[Measurement]:
    """Measure each purifier."""
    cells = each("alp_tradeoff", list(CELLS))
    return bench.write("alp_tradeoff", [m for cell in cells for m in _measure(bench, *cell)],
                       weights(bench, {"wide": WIDE, **held(s for reading, s in CELLS if reading == "trained")}))


def _measure(bench: Workbench, reading: str, sigma: float | str) -> Iterator[Measurement]:
    found = measured(bench, reading, sigma)
    at = {"reading": reading, "sigma": float(found["sigma"]), "learned": sigma == LEARNED}
    yield bench.mean("alp_tradeoff", "psnr", found["psnr"], "dB", at)
    yield bench.mean("alp_tradeoff", "accuracy", 100 * (found["clean"] < 0), "%", {**at, "threat": "none", "eps": 0.0})
    for threat in THREATENED:
        there = {**at, "threat": threat, "eps": budget(bench)}
        yield bench.mean("alp_tradeoff", "accuracy", 100 * (found[threat] < 0), "%", there)


def _fidelity(purifier, x, key):
    return psnr(purifier(x, key), x)
