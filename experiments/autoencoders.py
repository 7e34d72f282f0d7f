"""What the ALP experiments share: autoencoders of the run, the defences they make, the document's settings."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ..compression.attacks.iterative import Iterative
from ..compression.attacks.pgd import pgd
from ..compression.attacks.search import attack_images
from ..compression.batches import at_most, over_images
from ..compression.claim import view_margin
from ..compression.ensembles import Pooled
from ..compression.losses import View, cross_entropy, defended
from ..compression.networks.pure import Network
from ..compression.purifiers.autoencoder import alp
from ..compression.purifiers.identity import identity
from ..compression.types import Classifier, Purifier
from . import models
from .models import Bottleneck
from .workbench import Workbench

DRAWS = 20
"""Draws of the ensemble (alp Eq. 3)."""

SIGMAS = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Noise of the robustness matrix."""

FGSM_EPS = (0.1, 0.2, 0.3)
"""Its budgets, l_inf in pixel units."""

PGD_EPS = 8 / 255
"""The document's other budget."""

pgd_7 = partial(pgd, steps=7, step_size=0.25)
"""Its other attack. The step is Madry et al.'s (2018) on CIFAR-10, for the document does not say its own."""

NARROW, WIDE = Bottleneck(), Bottleneck(latent=512)
"""The document's "ultra-compact" latent of 64 channels, and its "wide" one; sigma is learned, from 0.5."""

COLLAPSING = Bottleneck(pixel_noise=0.0)
"""A learned sigma under reconstruction alone."""

STARTS = (0.5, 0.05, 0.2, 1.0, 2.0)
"""First sigma of each of the five trials. The first trial is the run's own ALP."""


def at_sigma(sigma: float) -> Bottleneck:
    """Trained at a sigma that is held; without noise by reconstruction alone, for the rate would be infinite.

    >>> at_sigma(0.5).pixel_noise == NARROW.pixel_noise, at_sigma(0.0).pixel_noise
    (True, 0.0)
    """
    return Bottleneck(sigma=sigma, learned=False, pixel_noise=NARROW.pixel_noise if sigma else 0.0)


def network(bench: Workbench, bottleneck: Bottleneck = NARROW, trial: int = 0) -> Network:
    """A trained autoencoder of the run, from the cache or trained now; ALP's unless told."""
    return models.autoencoder(*_what(bench, bottleneck, trial))[0]


def variational(bench: Workbench) -> Network:
    """A VAE of ALP's sizes, as long trained."""
    return models.variational(*_what(bench, NARROW, 0))[0]


def variational_weights(bench: Workbench) -> dict[str, str]:
    """SHA-256 of the weights of the VAE, by its name."""
    return {"vae": models.variational(*_what(bench, NARROW, 0))[1]}


def weights(bench: Workbench, others: dict[str, Bottleneck] | None = None) -> dict[str, str]:
    """SHA-256 of the weights of the run's ALP, and of other autoencoders of its seed, by name."""
    named = {"alp": NARROW, **(others or {})}
    return {name: models.autoencoder(*_what(bench, bottleneck, 0))[1] for name, bottleneck in named.items()}


def held(sigmas) -> dict[str, Bottleneck]:
    """Autoencoders trained at each sigma, by name."""
    return {f"alp trained at sigma {sigma:g}": at_sigma(sigma) for sigma in sigmas}


def trial_weights(bench: Workbench, trials: int) -> dict[str, str]:
    """SHA-256 of the weights of ALP in the first so many trials, by name."""
    numbers = {f"alp trial {number}": number for number in range(trials)}
    return {name: models.autoencoder(*_what(bench, trial(number), number))[1] for name, number in numbers.items()}


def sigma_path(bench: Workbench, bottleneck: Bottleneck = NARROW, trial: int = 0) -> np.ndarray:
    """Sigma after each step of that training, [steps]."""
    return models.sigma_path(*_what(bench, bottleneck, trial))


def purifier(bench: Workbench) -> Purifier:
    """ALP at its learned sigma."""
    return alp(network(bench))


def trial(number: int) -> Bottleneck:
    """The autoencoder of a trial, which has its own seed and first sigma."""
    return Bottleneck(sigma=STARTS[number])


def classifiers(bench: Workbench) -> dict[str, Classifier]:
    """The document's two: undefended and adversarially trained; made when they are called for."""
    return {"undefended": bench.classifier, "adversarially trained": bench.networks.robust_classifier}


ENSEMBLE = Pooled(DRAWS)
"""What decides by 20 draws (Eq. 3), and is attacked through all of them, whose noise is fixed."""


class Threat(NamedTuple):
    """What an attack knows and by what its input is judged.

    attacked: the view that it ascends; None is the classifier alone. judged: the view that decides.
    """

    attacked: View | None
    judged: View


THREATS = {
    "classifier": Threat(None, ENSEMBLE), "fixed": Threat(defended, defended), "ensemble": Threat(ENSEMBLE, ENSEMBLE),
}
"""By name. The document does not say whether its attacks go through ALP, so one knows the classifier only, one a single
draw with xi held, and one the ensemble of 20, each draw held."""


def budget(bench: Workbench) -> float:
    """Of PGD-7: the document's, or the run's largest where that is larger, for 8/255 hardly moves a digit."""
    return max(PGD_EPS, *bench.configuration.eps)


def under_attack(
    bench: Workbench, attack: Callable[..., Iterative], purifier: Purifier, threat: Threat, eps: float, count: int
) -> dict[str, np.ndarray]:
    """The attack's inputs for the run's first `count` images, and their margins; below 0 an image stays right.

    Every image gets all steps, on cross-entropy, as inputs do that have to fool a defence which they do not know.
    """
    images, labels, keys = bench.images[:count], bench.labels[:count], bench.keys()[:count]
    seen = identity if threat.attacked is None else purifier
    found = attack_images(attack, bench.classifier, seen, images, labels, keys, eps, cross_entropy,
                          at_most(TOGETHER, images), view=threat.attacked or defended, confidence=np.inf)
    return {"x": found.x, "margin": margins(bench, purifier, threat.judged, found.x)}


def margins(bench: Workbench, purifier: Purifier, view: View, images: np.ndarray) -> np.ndarray:
    """The margin of each of the run's first images, or of what an attack made of it, as a view judges it."""
    count = len(images)
    return over_images(partial(view_margin, view), (bench.classifier, purifier), images, bench.labels[:count],
                       bench.keys()[:count], size=at_most(TOGETHER, images), name="margin of ALP")


TOGETHER = 16
"""Images in one compiled call, each with 20 draws."""


def _what(bench: Workbench, bottleneck: Bottleneck, trial: int):
    c = bench.configuration
    training = replace(c.training, seed=c.training.seed + trial)
    return training, bench.dataset, c.cache, replace(bottleneck, steps=training.autoencoder_steps)
