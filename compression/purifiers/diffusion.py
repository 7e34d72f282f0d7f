"""Diffusion purification (DiffPure and its variants): noise, then denoise, with fixed randomness."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.tree_util import Partial

from .. import randomness, samplers
from ..callables import as_pytree
from ..types import Image, Key, NoisePredictor, Purifier


def diffusion(
    noise_predictor: NoisePredictor, steps: samplers.Steps, step_key: Callable = randomness.step_key
) -> Purifier:
    """The purifier x -> clip(f_xi(x)) of a diffusion model (compression_paper Eqs. 2-4).

    noise_predictor: network of (x_t in [-1, 1], time).
    steps: a sampler at one t*, for example `samplers.ddpm(schedule, 10)`; t* = 0 gives the identity.
    step_key: how a step's noise derives from xi; `randomness.paper_step_key` for the paper's hash.

    Takes and returns pixels in [0, 1]; the change to [-1, 1] is inside, and what leaves [0, 1] is clipped.

    >>> import jax, jax.numpy as jnp, purimetry as pm
    >>> steps = pm.ddpm(pm.respaced(pm.linear(), 100), t_star=5)
    >>> purifier = pm.diffusion(lambda x_t, t: 0 * x_t, steps)
    >>> purifier(jnp.full((8, 8, 1), 0.5), pm.configuration(seed=0, index=0)).shape
    (8, 8, 1)
    """
    return Partial(_purify, as_pytree(noise_predictor), steps, Partial(step_key))


def _purify(noise_predictor, steps, step_key, x: Image, key: Key) -> Image:
    if len(steps.t) == 0:
        return x
    return jnp.clip((samplers.run(steps, noise_predictor, 2 * x - 1, key, step_key) + 1) / 2, 0, 1)


def is_diffusion(purifier: Purifier) -> bool:
    """Whether a purifier was made by `diffusion`."""
    return isinstance(purifier, Partial) and purifier.func is _purify


def parts(purifier: Purifier) -> tuple[NoisePredictor, samplers.Steps, Callable]:
    """Noise predictor, steps and step key of a purifier made by `diffusion`; TypeError for any other."""
    if not is_diffusion(purifier):
        raise TypeError(f"this needs the steps of a purifier made by `diffusion`, got {purifier!r}; pass that one")
    return purifier.args


def first_bad_step(purifier: Purifier, x: Image, key: Key) -> int | None:
    """The reverse step t (of t*..1) after which a purifier made by `diffusion` is first not finite, None if none."""
    noise_predictor, steps, step_key = parts(purifier)
    noisy = samplers.diffuse(steps, 2 * x - 1, key, step_key)
    states = samplers.denoise(steps, noise_predictor, noisy, key, step_key)[1]
    bad = ~jnp.isfinite(states).reshape(len(steps.t), -1).all(1)
    return int(steps.t[bad.argmax()]) if bad.any() else None
