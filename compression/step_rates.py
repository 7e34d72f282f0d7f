"""Compression step by step along the trajectory of f_xi at an image (compression_paper Sec. 6.2, App. A.3, Fig. 4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import samplers
from .batches import over_draws
from .checks import check_image
from .purifiers.diffusion import parts
from .rates import Estimate, root
from .types import Image, Key, Purifier


class StepRates(NamedTuple):
    """Root-mean-square rates of a set of random perturbations, t = 1..t* forward and t = t*..1 reverse.

    forward: factor of each forward step, in all directions (Eq. 15 as Eq. 3 implies it: sqrt(alpha_t)).
    local: rate of each reverse step on the perturbations as they are given, ||J_t||_F / sqrt(d) for isotropic ones.
    first_order: its first-order form, state_t + prediction_t (mean eigenvalue of J_eps) (Eq. 16, and 19 in a subspace).
    cumulative: rate from the input up to x_{t*}, and up to each state after it: f_xi's own, without its clip, at last.
    """

    forward: Float[Array, "t_star"]
    local: Estimate
    first_order: Estimate
    cumulative: Estimate

    @property
    def travelling(self) -> Float[np.ndarray | Array, "*images t_star"]:
        """Rate of each reverse step on what is left of perturbations made at the input (Fig. 4d)."""
        return self.cumulative.mean[..., 1:] / self.cumulative.mean[..., :-1]


def step_rates(
    purifier: Purifier, x: Image, key: Key, perturbations: Float[Array, "draws height width channel"]
) -> StepRates:
    """Rates of the steps of a purifier made by `purifiers.diffusion`, by Hutchinson's estimator.

    perturbations: at least 2, random with E v v^T a multiple of a projection: `manifold.isotropic(x, key, draws)` for
        the expected rates, `inside` and `outside` for those on and off the manifold. Their length does not matter.

    A reverse step has the Jacobian J_t = state_t I + prediction_t J_eps(x_t, t), J_eps the noise predictor's. Rates
    are sqrt(E ||J v||^2 / E ||v||^2), exact in expectation of the squares and not an expansion in the step; the
    first-order form is E v^T J_t v / E ||v||^2. One product with J_eps for each perturbation and rate.

    Raises TypeError for other purifiers, and ValueError for samplers with memory (those of `solvers`).

    >>> import purimetry as pm
    >>> from purimetry.compression.manifold import isotropic
    >>> x, key = jnp.full((8, 8, 1), 0.5), pm.configuration(0, 0)
    >>> halving = pm.diffusion(lambda x_t, t: x_t, pm.ddpm(pm.linear(), 3)._replace(prediction=jnp.full(3, -0.5)))
    >>> step_rates(halving, x, key, isotropic(x, key, 4)).local.mean.round(3).tolist()
    [0.5, 0.5, 0.5]
    """
    check_image(x)
    if len(perturbations) < 2:
        raise ValueError(f"a standard error needs at least 2 perturbations, got {len(perturbations)}; draw more")
    noise_predictor, steps, step_key = parts(purifier)
    if steps.memory:
        raise ValueError("a step that recalls former predictions has no rate of its own; measure the whole purifier")
    steps = steps.astype(x.dtype)
    noisy = samplers.diffuse(steps, 2 * x - 1, key, step_key)
    later = samplers.denoise(steps, noise_predictor, noisy, key, step_key)[1]
    states = jnp.concatenate([noisy[None], later])[: len(steps.t)]
    start = steps.forward_state.prod() * perturbations

    def step(travelling, row):
        x_t, c = row
        _, change = jax.linearize(lambda x: noise_predictor(x, c.time), x_t)
        push = lambda v: c.state * v + c.prediction * change(v)
        moved, travelling = (over_draws(push, vectors, x) for vectors in (perturbations, travelling))
        return travelling, (_inner(moved, moved), _inner(perturbations, moved), _inner(travelling, travelling))

    local, along, travelled = jax.lax.scan(step, start, (states, steps))[1]
    length = _inner(perturbations, perturbations)
    travelled = jnp.concatenate([_inner(start, start)[None], travelled])
    return StepRates(steps.forward_state, root(_ratio(local, length)), _ratio(along, length),
                     root(_ratio(travelled, length)))


def _inner(a, b):
    return (a * b).sum((1, 2, 3))


def _ratio(values: Float[Array, "rates draws"], length: Float[Array, "draws"]) -> Estimate:
    """Mean of values over mean of length, with the standard error of a ratio."""
    mean = values.mean(1) / length.mean()
    rest = values - mean[:, None] * length
    return Estimate(mean, rest.std(1, ddof=1) / length.mean() / len(length) ** 0.5)
