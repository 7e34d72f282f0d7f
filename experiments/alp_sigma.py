"""Where a learned latent noise ends, whatever it begins at, and that reconstruction alone drives it to 0 (alp Fig. 2).

Command: purimetry run alp_sigma
Time: about 2 minutes on 2 cores of an AMD EPYC, by its 210 seconds of both; trainings are kept.
Expect: a sigma that is learned, whatever it begins at. On digits five trials, from 0.05 to 2, end at 0.331 ± 0.005,
their standard deviation 0.012; the linear optimum is 0.264 ± 0.001, and reconstruction alone is at 0.078 and falling.
On CIFAR-10 they end at 0.281 ± 0.002 (linear: 0.259); the document has 0.219 there.

Five trials, each with its own seed and first sigma. The objective is ours, for the document names none: distortion and
2 s^2 times the rate (`training.autoencoders`), s = 0.05 in pixel units. Without the rate ("reconstruction") there is no
optimal sigma. Of a linear autoencoder of as large a latent, and Gaussian images with the mean and covariance of the
training images, the optimum is known (`theory.linear_autoencoder`): it stands beside, "linear", though the network is
not linear and images are not Gaussian. Its standard error is over images, by the jackknife; large ones have none.
"""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from ..compression.records import Arrays, Measurement
from ..theory.gaussian import gaussian
from ..theory.linear_autoencoder import learned_sigma
from .autoencoders import COLLAPSING, NARROW, STARTS, network, sigma_path, trial, trial_weights, weights
from .pieces import Piece
from .workbench import Workbench, each

POINTS = 50
"""Of each path."""

LEARNED_FROM = 4000
"""Training images, the first, of which the linear optimum is taken at most."""

BLOCKS = 10
"""Of the jackknife."""


def path(bench: Workbench, number: int | None) -> Arrays:
    """Sigma before the first step and after each; of a trial, or without a number of reconstruction alone."""

    def compute() -> Arrays:
        first, learned = (STARTS[number], sigma_path(bench, trial(number), number)) if number is not None else (
            COLLAPSING.sigma, sigma_path(bench, COLLAPSING))
        return {"sigma": np.concatenate([[first], learned]).astype(np.float64)}

    return bench.shard("alp_sigma", "reconstruction" if number is None else f"trial{number}", compute)


def linear(bench: Workbench) -> Arrays:
    """The linear optimum of all images, and without each block of them."""

    def compute() -> Arrays:
        images = np.asarray(bench.training[0][:LEARNED_FROM], np.float64) * 2 - 1
        places = jax.eval_shape(lambda n, x: n.module.encode(x).mean, network(bench), images[0].astype(np.float32))
        k = min(places.size, images[0].size)
        block = np.arange(len(images)) * BLOCKS // len(images)
        kept = [images, *(images[block != b] for b in range(BLOCKS if not bench.large else 0))]
        return {"sigma": np.array([learned_sigma(_gaussian(some), k, NARROW.pixel_noise) for some in kept]),
                "images": np.array(len(images))}

    return bench.shard("alp_sigma", "linear", compute)


def _gaussian(images):
    flat = images.reshape(len(images), -1)
    return gaussian(images.mean(0), np.cov(flat.T))


def pieces(bench: Workbench) -> list[Piece]:
    """Each training."""
    return [Piece(number, 1, partial(path, bench, number)) for number in (*range(len(STARTS)), None)]


def run(bench: Workbench) -> list[Measurement]:
    """Follow sigma in every trial."""
    made_of = weights(bench, {"reconstruction": COLLAPSING}) | trial_weights(bench, len(STARTS))
    return bench.write("alp_sigma", _measure(bench), made_of)


def _measure(bench: Workbench) -> Iterator[Measurement]:
    emit = partial(bench.measurement, "alp_sigma")
    objective = lambda number: "reconstruction" if number is None else "distortion + rate"
    last = []
    for number in each("alp_sigma", [*range(len(STARTS)), None]):
        found = path(bench, number)["sigma"]
        at = {"objective": objective(number), "trial": 0 if number is None else number, "first": float(found[0])}
        for step in sorted({*np.linspace(0, len(found) - 1, POINTS).round().astype(int).tolist()}):
            yield emit("sigma", found[step], None, 1, "latent units", {**at, "step": step})
        yield emit("last_sigma", found[-1], None, 1, "latent units", at)
        if number is not None:
            last.append(found[-1])
    at, n = {"objective": objective(0)}, len(last)
    yield emit("learned_sigma", np.mean(last), np.std(last, ddof=1) / n**0.5, n, "latent units", at)
    yield emit("spread", np.std(last, ddof=1), None, n, "latent units", at)
    optimum = linear(bench)
    whole, *without = optimum["sigma"]
    se = (np.var(without) * (len(without) - 1)) ** 0.5 if without else None
    yield emit("linear_sigma", whole, se, int(optimum["images"]), "latent units", {})
