"""The networks of the run: clean accuracy of the classifier, denoising error of the noise predictor by t.

Command: purimetry run training
Time: about 100 s on 2 cores of an AMD EPYC, once; later runs load the weights.
Expect: clean test accuracy >= 97 % on all 500 test digits; CIFAR-10's published ResNet-20 has 91.73 %.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ..compression import schedules
from ..compression.batches import over_images
from ..compression.checks import check_classifier
from ..compression.losses import margin
from ..compression.purifiers.flow import noise_of
from ..compression.records import Measurement
from ..compression.schedules import CONTINUOUS, rectified_time
from .pieces import Piece
from .workbench import Workbench

TESTED = 512
"""Test images, the first ones, on which the denoiser is tested at most."""

TIMES = (10, 20, 50, 100, 150, 300, 600)
"""Steps of 1000 at which the denoiser is tested."""


def pieces(bench: Workbench) -> list[Piece]:
    """Each network is trained by itself."""
    flow = [Piece("velocity", 4, lambda: bench.networks.velocity)] if bench.networks.trains_velocity else []
    denoiser = [Piece("denoiser", 4, lambda: bench.denoiser)] if bench.networks.has_denoiser else []
    return [Piece("classifier", 1, lambda: bench.classifier), *denoiser, *flow]


def run(bench: Workbench) -> list[Measurement]:
    """Measure the networks on the whole test set, on the run's images where they come without training images."""
    check_classifier(bench.classifier, bench.images)
    return bench.write("training", _measure(bench))


def _measure(bench: Workbench) -> Iterator[Measurement]:
    images, labels = bench.images, bench.labels
    if len(bench.dataset.train_images):
        images, labels = bench.dataset.test_images, bench.dataset.test_labels

    def compute():
        schedule = schedules.linear()
        found = {"margin": margins(bench.classifier, images, labels)}
        shown = images[:TESTED]
        keys = jax.random.split(jax.random.key(0), len(images))[:TESTED]

        def errors(predictor, times):
            return np.stack([
                over_images(squared_error, (predictor,), shown, keys,
                            np.full(len(shown), schedule.alpha_bar[t], np.float32),
                            np.full(len(shown), time, np.float32))
                for t, time in zip(TIMES, times, strict=True)
            ])

        if bench.networks.has_denoiser:
            found["squared_error"] = errors(bench.denoiser, schedule.time[list(TIMES)])
        if bench.networks.trains_velocity:
            times = [CONTINUOUS * rectified_time(schedule.alpha_bar[t]) for t in TIMES]
            found["flow_squared_error"] = errors(noise_of(bench.networks.velocity), times)
        return found

    arrays = bench.shard("training", "test", compute)
    yield bench.mean("training", "clean_accuracy", 100 * (arrays["margin"] < 0), "%", {})
    for t, errors in zip(TIMES, arrays["squared_error"], strict=True) if bench.networks.has_denoiser else ():
        yield bench.mean("training", "noise_prediction_error", errors, "mean squared error", {"t": t})
    if bench.networks.trains_velocity:
        for t, errors in zip(TIMES, arrays["flow_squared_error"], strict=True):
            yield bench.mean("training", "flow_prediction_error", errors, "mean squared error", {"t": t})


def margins(classifier, images, labels) -> np.ndarray:
    """The margin of each image; below 0 it is classified right."""
    return over_images(_margin, (classifier,), images, labels)


def _margin(classifier, x, label):
    return margin(classifier(x), label)


def squared_error(denoiser, x, key, alpha_bar, time):
    """Mean squared error of the noise predicted in an image at one time, in units of its variance."""
    noise = jax.random.normal(key, x.shape)
    x_t = jnp.sqrt(alpha_bar) * (2 * x - 1) + jnp.sqrt(1 - alpha_bar) * noise
    return jnp.mean((denoiser(x_t, time) - noise) ** 2)
