"""The way of an image through a diffusion purifier, and how far it leads from a clean image (Sec. 3.1, App. E.1)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from . import samplers
from .checks import check_image
from .purifiers.diffusion import parts
from .types import Image, Key, Purifier


class Trajectory(NamedTuple):
    """States of a purifier under one xi, in pixels and as they are: nothing is clipped to [0, 1].

    forward: x_1..x_{t*}; they all equal the input where a sampler has no forward process (`reverse_only`).
    reverse: x_{t*-1}..x_0.
    """

    forward: Float[Array, "t_star height width channel"]
    reverse: Float[Array, "t_star height width channel"]


class Distances(NamedTuple):
    """Distances to one image, in pixels: of the input, then after each forward step and each reverse step."""

    l2: Float[Array, "states"]
    linf: Float[Array, "states"]


def trajectory(purifier: Purifier, x: Image, key: Key) -> Trajectory:
    """All states of a purifier made by `purifiers.diffusion`; TypeError for any other.

    >>> import purimetry as pm
    >>> purifier = pm.diffusion(lambda x_t, t: 0 * x_t, pm.ddpm(pm.linear(), t_star=5))
    >>> path = trajectory(purifier, jnp.full((8, 8, 1), 0.5), pm.configuration(0, 0))
    >>> path.forward.shape, path.reverse.shape
    ((5, 8, 8, 1), (5, 8, 8, 1))
    """
    check_image(x)
    noise_predictor, steps, step_key = parts(purifier)
    steps = steps.astype(x.dtype)
    noisy, forward = samplers.forward(steps, 2 * x - 1, key, step_key)
    reverse = samplers.denoise(steps, noise_predictor, noisy, key, step_key)[1]
    return Trajectory((forward + 1) / 2, (reverse + 1) / 2)


def distances_along(purifier: Purifier, x: Image, key: Key, reference: Image) -> Distances:
    """How far each of the 2 t* + 1 states from input to output is from `reference` (Fig. 1c, Figs. S2-S4).

    x: what is purified, for example an attacked image; reference: in the paper the clean image.

    >>> import purimetry as pm
    >>> purifier = pm.diffusion(lambda x_t, t: 0 * x_t, pm.reverse_only(pm.linear(), t_star=5))
    >>> x = jnp.full((8, 8, 1), 0.5)
    >>> distances_along(purifier, x, pm.configuration(0, 0), x).l2[:6].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    states = jnp.concatenate([x[None], *trajectory(purifier, x, key)])
    away = (states - reference).reshape(len(states), -1)
    return Distances(jnp.linalg.norm(away, axis=1), jnp.abs(away).max(1))
