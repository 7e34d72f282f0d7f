"""MagNet (Meng and Chen 2017): inputs that the autoencoder reconstructs badly are rejected, the others reformed.

How rejected inputs are counted: an attack has won only with an input that is accepted and misclassified, so a rejected
adversary counts for the defence; but a clean image that is rejected counts as wrong, or rejecting everything would be
perfect. With r the images for which `reconstruction_errors(...) > threshold` when clean,

    robust accuracy = share of images that are not in r, right when clean, and whose adversary is rejected or right,

which is the mean of `row.robust * ~r` for a row of `protocol.evaluate` with the view `MagNet`.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .batches import over_images
from .checks import check_images, check_keys
from .losses import Criterion, margin, margins
from .types import Classifier, Image, Key, Keys, Label, Loss, Objective, Purifier, Scalar


def reconstruction_error(x: Image, purified: Image, order: int = 1) -> Scalar:
    """||x - f(x)||_p over all pixels (Meng and Chen 2017, Eq. 2), p = 1 or 2 as there.

    >>> import jax
    >>> float(jax.jit(reconstruction_error)(np.ones((2, 2, 1)), np.full((2, 2, 1), 0.5)))
    2.0
    """
    return jnp.linalg.norm((x - purified).ravel(), order)


def reconstruction_errors(purifier: Purifier, images, keys: Keys, order: int = 1) -> Float[np.ndarray, "n"]:
    """Reconstruction error of each image [n, height, width, channel] in [0, 1] under its own xi, keys [n]."""
    images = check_images(images)
    check_keys(keys, len(images))
    return over_images(partial(_error, order), (purifier,), images, keys, name="reconstruction error")


def rejection_threshold(errors: Float[np.ndarray, "n"], false_positive_rate: float = 0.01) -> float:
    """The smallest threshold above which at most this share of clean images' errors lies.

    errors: of clean images that nothing was trained on, at least 1 / false_positive_rate of them.

    >>> rejection_threshold(np.arange(100.0), 0.05)
    94.0
    """
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"a false positive rate is in (0, 1), got {false_positive_rate}; MagNet takes 0.001 to 0.01")
    allowed = int(len(errors) * false_positive_rate + 1e-9)  # 0.29 * 100 is a little below 29
    if allowed < 1:
        raise ValueError(f"a false positive rate of {false_positive_rate} needs at least {1 / false_positive_rate:g} "
                         f"clean images, got {len(errors)}; take more, or a larger rate")
    return float(np.sort(errors)[len(errors) - 1 - allowed])


class MagNet(NamedTuple):
    """The view of a defence whose purifier is both reformer and detector: what it is attacked and judged by.

    Every rival's logit is held below the true one by (1 - error / threshold) logits as long as the input is accepted,
    so its margin is at most that, and >= 0 only where the input is accepted and misclassified. An attack ascends
    whichever lags behind: it knows the detector (Carlini and Wagner 2017, "MagNet ... not robust").

    threshold: of the reconstruction error, > 0. order: of its norm, 1 or 2.

    >>> import jax, purimetry as pm
    >>> half = lambda x, key: x / 2
    >>> view = jax.jit(MagNet(threshold=0.5)(lambda x: x.reshape(-1), half, jnp.int32(0)))
    >>> at = lambda *pixels: float(view(np.array(pixels).reshape(1, 2, 1), jax.random.key(0)).margin)
    >>> at(0.25, 0.5), at(0.0, 2.0)  # misclassified and accepted, misclassified and rejected
    (0.125, -1.0)
    """

    threshold: float
    order: int = 1

    def __call__(
        self, classifier: Classifier, purifier: Purifier, label: Label, criterion: Criterion = margin
    ) -> Loss:
        if not self.threshold > 0:
            raise ValueError(f"a threshold of a reconstruction error is > 0, got {self.threshold}; see "
                             "`rejection_threshold`")

        def loss(x: Image, key: Key) -> Objective:
            purified = purifier(x, key)
            logits = classifier(purified)
            evasion = 1 - reconstruction_error(x, purified, self.order) / self.threshold
            others = jnp.arange(len(logits)) != label
            held = jnp.where(others, logits[label] + jnp.minimum(logits - logits[label], evasion), logits)
            return Objective(criterion(held, label), margins(held, label))

        return loss


def _error(order, purifier, x, key):
    return reconstruction_error(x, purifier(x, key), order)
