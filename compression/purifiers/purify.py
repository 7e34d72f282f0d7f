"""Purify many images."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..batches import NonFinite, over_images
from ..checks import check_images, check_keys, check_shape
from ..types import Keys, Purifier
from .diffusion import first_bad_step, is_diffusion


def purify(purifier: Purifier, images, keys: Keys) -> Float[np.ndarray, "n height width channel"]:
    """f_xi of each image with its own xi: the anchors of the paper, if the images are clean.

    images: [n, height, width, channel] in [0, 1]; keys: [n].

    Raises NonFinite with the first bad image and, for a diffusion purifier, the reverse step where it went wrong.

    >>> import purimetry as pm
    >>> purify(pm.identity, np.zeros((2, 4, 4, 1), np.float32), pm.configurations(0, np.arange(2))).shape
    (2, 4, 4, 1)
    """
    images = check_images(images)
    check_keys(keys, len(images))
    check_shape(purifier, images[0], keys[0])
    try:
        return over_images(_apply, (purifier,), images, keys, name="purified image")
    except NonFinite as error:
        if not is_diffusion(purifier):
            raise
        step = first_bad_step(purifier, jnp.asarray(images[error.image]), keys[error.image])
        raise NonFinite(f"{error}; first in reverse step t = {step}", error.image) from error


def _apply(purifier, x, key):
    return purifier(x, key)
