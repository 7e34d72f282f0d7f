"""Whether ALP depends on its seed: five trainings, their mean and standard deviation (alp Fig. 5, App. A).

Command: purimetry run alp_trials
Time: about 1 minute on 2 cores of an AMD EPYC after alp_sigma, by its 120 seconds of both.
Expect: on digits PGD-7 at eps 0.2 leaves 7.1 ± 1.1 % through the ensemble, with a standard deviation over trials of 2.4
points, and 36 ± 2 %, with one of 5.4, where it knows the classifier alone; the document's is 1.94, and so few images
alone make it 2.2 and 3.7. FGSM through the ensemble leaves 47 ± 2 % at sigma = 0 and 26 ± 2 % at 0.5 (eps 0.2): noise
makes it stronger. On CIFAR-10 (32 images, 24 minutes after alp_sigma) PGD-7 at 8/255 leaves nothing through the
ensemble, and 63 ± 2 % with a deviation of 4.1 points, images alone 5.0, where it knows the classifier alone.

The trials of `alp_sigma`: each has its own seed of weights, batches and noise, and its own first sigma. At every sigma
of the matrix, in place of the learned one, and every budget: accuracy of the ensemble of 20 under FGSM through it, its
draws held. At the learned sigma: clean accuracy, PSNR of purified clean images under one draw, and accuracy under PGD-7
that knows the classifier alone, or the ensemble. A "spread" is the standard deviation over trials, the document's band;
it holds what so few images add, which `alp_claims` takes out before it is judged. The standard error of a mean is that
over the square root of five, so it is for these images and this classifier. The first 48 images.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ..compression.attacks.fgsm import fgsm
from ..compression.purifiers.autoencoder import alp
from ..compression.purifiers.purify import purify
from ..compression.records import Arrays, Measurement
from .adversarial import targets
from .autoencoders import (
    FGSM_EPS, SIGMAS, STARTS, THREATS, budget, margins, network, pgd_7, trial, trial_weights, under_attack,
)
from .pieces import Piece
from .workbench import Workbench, each

PGD = ("classifier", "ensemble")
"""What PGD-7 knows, of `autoencoders.THREATS`."""

SHOWN = 6
"""Images of a trial's grid, the first."""


def measured(bench: Workbench, number: int) -> Arrays:
    """A trial's sigma; margins [sigmas, budgets, images] under FGSM, [images] under PGD-7; PSNR; its grid of images."""

    def compute() -> Arrays:
        own, (images, _) = network(bench, trial(number), number), targets(bench)
        count, keys = len(images), bench.keys()[: len(images)]
        under = lambda attack, made, threat, eps: under_attack(bench, attack, made, THREATS[threat], eps, count)
        swept = [[under(fgsm, alp(own, sigma), "ensemble", eps)["margin"] for eps in FGSM_EPS] for sigma in SIGMAS]
        made = alp(own)
        found = {threat: under(pgd_7, made, threat, budget(bench)) for threat in PGD}
        purified, attacked = purify(made, images, keys), found[PGD[-1]]["x"]
        error = ((purified - images) ** 2).mean((1, 2, 3))
        return {
            "sigma": np.array(float(own.module.sigma)), "fgsm": np.array(swept),
            **{threat: found[threat]["margin"] for threat in PGD},
            "clean": margins(bench, made, THREATS["ensemble"].judged, images), "psnr": -10 * np.log10(error),
            "grid": np.stack([images, attacked, purified, purify(made, attacked, keys)])[:, :SHOWN],
        }

    return bench.shard("alp_trials", f"trial{number}", compute)


def pieces(bench: Workbench) -> list[Piece]:
    """Each trial; they share their programs, two processes their work."""
    return [Piece(number % 2, 1, partial(measured, bench, number)) for number in range(len(STARTS))]


def run(bench: Workbench) -> list[Measurement]:
    """Measure each trial, and how they differ."""
    found = [measured(bench, number) for number in each("alp_trials", list(range(len(STARTS))))]
    return bench.write("alp_trials", _measure(bench, found), trial_weights(bench, len(STARTS)))


def _measure(bench: Workbench, found: list[Arrays]) -> Iterator[Measurement]:
    right = lambda margin: 100 * (margin < 0).mean(-1)
    yield from _over_trials(bench, "sigma", [one["sigma"] for one in found], "latent units", {})
    yield from _over_trials(bench, "psnr", [one["psnr"].mean() for one in found], "dB", {})
    yield from _over_trials(bench, "accuracy", [right(one["clean"]) for one in found], "%", _at("none", "none", 0.0))
    for threat in PGD:
        values = [right(one[threat]) for one in found]
        yield from _over_trials(bench, "accuracy", values, "%", _at("PGD-7", threat, budget(bench)))
    for i, sigma in enumerate(SIGMAS):
        for j, eps in enumerate(FGSM_EPS):
            values = [right(one["fgsm"][i, j]) for one in found]
            yield from _over_trials(bench, "accuracy", values, "%", {**_at("FGSM", "ensemble", eps), "sigma": sigma})


def _at(attack, threat, eps):
    return {"attack": attack, "threat": threat, "eps": eps}


def _over_trials(bench: Workbench, quantity: str, values: list, unit: str, at: dict) -> Iterator[Measurement]:
    yield bench.mean("alp_trials", quantity, values, unit, at)
    yield bench.measurement("alp_trials", f"{quantity}_spread", np.std(values, ddof=1), None, len(values), unit, at)
    for number, value in enumerate(values):
        yield bench.measurement("alp_trials", f"{quantity}_of_trial", value, None, 1, unit, {**at, "trial": number})
