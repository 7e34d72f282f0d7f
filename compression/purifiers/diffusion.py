"""Diffusion purification (DiffPure and its variants): noise, then denoise, with fixed randomness."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
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
    if not isinstance(steps, samplers.Steps):
        found = getattr(steps, "__name__", type(steps).__name__)
        raise TypeError(f"expected a sampler's steps at one t*, got {found}; give pm.ddpm(schedule, t_star=10), say")
    return Partial(_purify, as_pytree(noise_predictor), steps, Partial(step_key))


def _purify(noise_predictor, steps, step_key, x: Image, key: Key) -> Image:
    if len(steps.t) == 0:
        return x
    return jnp.clip((samplers.run(steps, noise_predictor, 2 * x - 1, key, step_key) + 1) / 2, 0, 1)


def fewer_steps(purifier: Purifier, steps: samplers.Steps) -> Purifier:
    """The purification of a diffusion purifier with fewer reverse steps: an attacker's cheaper surrogate.

    steps: a sampler at the same noise in fewer steps, for example 2 of a schedule respaced to 20 instead of 10 of one
        respaced to 100. The forward pass stays the purifier's own, and the noise of a long step is that of the short
        ones which it replaces, weighted by what they leave of it and scaled to unit variance.

    Raises ValueError if the two differ in t*, as attack and defence must not mix up their steps, and for samplers with
    memory (those of `solvers`).

    >>> import jax.numpy as jnp, purimetry as pm
    >>> ten, two = (pm.ddpm(pm.respaced(pm.linear(), 10 * t_star), t_star) for t_star in (10, 2))
    >>> short = fewer_steps(pm.diffusion(lambda x_t, t: 0 * x_t, ten), two)
    >>> short(jnp.full((8, 8, 1), 0.5), pm.configuration(seed=0, index=0)).shape
    (8, 8, 1)
    """
    noise_predictor, own, step_key = parts(purifier)
    if own.memory or steps.memory:
        raise ValueError("a surrogate of fewer steps needs samplers without memory, got one of `solvers`; use `ddim`")
    if len(own.t) == len(steps.t) == 0:
        return purifier  # the identity has no step to save
    ratio, left = len(own.t) // max(len(steps.t), 1), [float(s.signal[0]) if len(s.t) else 1.0 for s in (own, steps)]
    if ratio * len(steps.t) != len(own.t) or abs(left[0] / left[1] - 1) > 1e-4:  # float32
        raise ValueError(
            f"a surrogate needs a divisor of the purifier's {len(own.t)} steps that ends at the same noise, got "
            f"{len(steps.t)} steps that scale by {left[1]:.4f} instead of {left[0]:.4f}; respace its schedule"
        )
    state, noise, t = (np.asarray(c, np.float64).reshape(-1, ratio) for c in (own.state, own.noise, own.t))
    weights = noise * np.cumprod(state[:, ::-1], 1)[:, ::-1] / state
    weights /= np.maximum(np.sqrt((weights**2).sum(1, keepdims=True)), np.finfo(np.float32).tiny)
    short = jnp.asarray(t, jnp.int32), jnp.asarray(weights, jnp.float32)
    return Partial(_purify_by, noise_predictor, own, steps, short, step_key)


def _purify_by(noise_predictor, own, steps, short, step_key, x: Image, key: Key) -> Image:

    @jax.checkpoint
    def step(x, row):
        c, t, weights = row
        z = jax.vmap(lambda t: randomness.normal(step_key(key, randomness.REVERSE, t), x))(t)
        z = jnp.tensordot(weights.astype(x.dtype), z, 1)
        return c.state * x + c.prediction * noise_predictor(x, c.time) + c.noise * z, None

    noisy = samplers.diffuse(own.astype(x.dtype), 2 * x - 1, key, step_key)
    denoised, _ = jax.lax.scan(step, noisy, (steps.astype(x.dtype), *short))
    return jnp.clip((denoised + 1) / 2, 0, 1)


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
