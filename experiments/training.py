"""The networks of the run: clean accuracy of the classifier, denoising error of noise predictor and flow by t.

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
"""Test images, the first ones, on which networks of noisy images are tested at most."""

TIMES = (10, 20, 50, 100, 150, 300, 600)
"""Steps of 1000 at which they are tested, a flow where as much of the image is left."""


def pieces(bench: Workbench) -> list[Piece]:
    """Each network is trained by itself."""
    networks = bench.networks
    found = [Piece("classifier", 1, lambda: bench.classifier, needs=())]
    if networks.has_denoiser:
        found.append(Piece("denoiser", 4, lambda: bench.denoiser, needs=()))
    if networks.has_velocity:
        found.append(Piece("velocity", 4, lambda: networks.velocity, needs=()))
    return found


def run(bench: Workbench) -> list[Measurement]:
    """Measure the networks on the whole test set, on the run's images where they come without training images."""
    check_classifier(bench.classifier, bench.images)
    return bench.write("training", _measure(bench))


def _measure(bench: Workbench) -> Iterator[Measurement]:
    images, labels = bench.images, bench.labels
    if len(bench.dataset.train_images):
        images, labels = bench.dataset.test_images, bench.dataset.test_labels

    def compute():
        found = {"margin": margins(bench.classifier, images, labels)}
        shown, keys = images[:TESTED], jax.random.split(jax.random.key(0), len(images))[:TESTED]
        if bench.networks.has_denoiser:
            found["squared_error"] = noise_errors(bench.denoiser, shown, keys)
        if bench.networks.has_velocity:
            found["flow_squared_error"] = flow_errors(bench.networks.velocity, shown, keys)
        return found

    arrays = bench.shard("training", "test", compute)
    yield bench.mean("training", "clean_accuracy", 100 * (arrays["margin"] < 0), "%", {})
    for t, errors in zip(TIMES, arrays["squared_error"], strict=True) if bench.networks.has_denoiser else ():
        yield bench.mean("training", "noise_prediction_error", errors, "mean squared error", {"t": t})
    if bench.networks.has_velocity:
        for t, errors in zip(TIMES, arrays["flow_squared_error"], strict=True):
            yield bench.mean("training", "flow_prediction_error", errors, "mean squared error", {"t": t})


def margins(classifier, images, labels) -> np.ndarray:
    """The margin of each image; below 0 it is classified right."""
    return over_images(_margin, (classifier,), images, labels)


def _margin(classifier, x, label):
    return margin(classifier(x), label)


def noise_errors(predictor, images, keys) -> np.ndarray:
    """[time, image]: mean squared error of the noise predicted at TIMES, in units of its variance."""
    return _errors(predictor, images, keys, schedules.linear().time[list(TIMES)])


def flow_errors(velocity, images, keys) -> np.ndarray:
    """As `noise_errors`, of a velocity of rectified flow, at the times of as much noise."""
    times = CONTINUOUS * rectified_time(schedules.linear().alpha_bar[list(TIMES)])
    return _errors(noise_of(velocity), images, keys, times)


def _errors(predictor, images, keys, told) -> np.ndarray:
    whole = lambda value: np.full(len(images), value, np.float32)
    return np.stack([over_images(_squared_error, (predictor,), images, keys, whole(schedules.linear().alpha_bar[t]),
                                 whole(time)) for t, time in zip(TIMES, told, strict=True)])


def _squared_error(denoiser, x, key, alpha_bar, time):
    noise = jax.random.normal(key, x.shape)
    x_t = jnp.sqrt(alpha_bar) * (2 * x - 1) + jnp.sqrt(1 - alpha_bar) * noise
    return jnp.mean((denoiser(x_t, time) - noise) ** 2)
