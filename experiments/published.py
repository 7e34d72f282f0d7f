"""The networks that come with Purimetry, for scripts; runs on their images take the same from their options."""

from typing import NamedTuple

from ..compression.networks.pure import Network
from ..compression.weights import ddpm_unet, velocity_unet
from . import architectures
from .configuration import CLASSIFIER, DENOISER, FLOW, PUBLISHED, ROBUST_CLASSIFIER


class Published(NamedTuple):
    """Of one data set; `compression/published/` has a card of each with its data, recipe, quality and SHA-256.

    classifier, robust_classifier: an image to logits; the second is adversarially trained.
    denoiser: predicts the noise of the schedule `linear()`. velocity: of rectified flow, for `flow`.
    """

    classifier: Network
    robust_classifier: Network
    denoiser: Network
    velocity: Network


def published(name: str = "cifar10") -> Published:
    """The networks that come with Purimetry: nothing is trained or downloaded, they are read in seconds.

    name: of the data set, "cifar10". Its denoiser is for t up to 250 of 1000, its velocity for as much noise as t = 150
        has; classifiers normalise inside and take images [32, 32, 3] in [0, 1].

    Raises ValueError for a data set without.

    >>> import jax, jax.numpy as jnp
    >>> jax.eval_shape(published("cifar10").classifier, jnp.zeros((32, 32, 3))).shape
    (10,)
    """
    if name != PUBLISHED.name:
        raise ValueError(f"networks come with Purimetry for {PUBLISHED.name}, got {name!r}; pm.trained(dataset) trains "
                         "some for other images")
    classifiers = (architectures.classifier(f"airbench:{PUBLISHED / path}") for path in (CLASSIFIER, ROBUST_CLASSIFIER))
    return Published(*(given.network for given in classifiers), ddpm_unet(PUBLISHED / DENOISER),
                     velocity_unet(PUBLISHED / FLOW))
