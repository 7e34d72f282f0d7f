"""Networks that predict v, x_0 or the score, as noise predictors: of Gaussian data, where all four are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm

SCHEDULE = pm.linear()
VARIANCE = 0.3
"""Of data with mean 0."""


def exact(t):
    """alpha_bar, and the optimal (noise, x_0) in units of x_t, at the network's time t."""
    a = SCHEDULE.alpha_bar[t + 1]
    whole = a * VARIANCE + 1 - a
    return a, (1 - a) ** 0.5 / whole, a**0.5 * VARIANCE / whole


def table(values):
    """A network that multiplies x_t by a number of its time."""
    values = jnp.float32(values)
    return lambda x_t, t: values[t.astype(int)] * x_t


TIMES = np.arange(SCHEDULE.steps)
A, NOISE, X_0 = np.array([exact(t) for t in TIMES]).T
PREDICTORS = {
    "v": pm.from_v(table(np.sqrt(A) * NOISE - np.sqrt(1 - A) * X_0), SCHEDULE),
    "x_0": pm.from_x0(table(X_0), SCHEDULE),
    "score": pm.from_score(table(-NOISE / np.sqrt(1 - A)), SCHEDULE),
}


@pytest.mark.parametrize("name", PREDICTORS)
def test_the_noise_is_the_optimal_one(name):
    """At every step. Of x_0 it is a difference of order 1 over sqrt(1 - a) >= 0.01: a hundred roundings of float32."""
    at = jax.vmap(jax.jit(PREDICTORS[name]), (None, 0))(np.ones((1, 1, 1), np.float32), np.float32(TIMES))
    np.testing.assert_allclose(np.ravel(at), NOISE, rtol=1e-5, atol=100 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_purifier_is_that_of_the_noise_predictor(name):
    steps, x, key = pm.ddpm(SCHEDULE, 20), jnp.full((2, 2, 1), 0.7), pm.configuration(0, 0)
    ours, theirs = (pm.diffusion(p, steps)(x, key) for p in (PREDICTORS[name], table(NOISE)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)  # 20 steps of the above


def test_a_respaced_schedule_is_asked_at_the_networks_own_times():
    """Steps of the respaced schedule keep the times of the whole, so the conversion is with the whole."""
    steps = pm.ddim(pm.respaced(SCHEDULE, 100), 5)
    x, key = jnp.full((2, 2, 1), 0.7), pm.configuration(0, 0)
    ours, theirs = (pm.diffusion(p, steps)(x, key) for p in (PREDICTORS["v"], table(NOISE)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
