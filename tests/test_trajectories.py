"""States of a purifier and their distances, against the purifier itself and Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import randomness, samplers, trajectories
from purimetry.theory import low_rank as theory

SHAPE, D = (4, 4, 1), 16
SCHEDULE = pm.linear(50, 1e-3, 0.1)
DATA = theory.low_rank(np.full(SHAPE, 0.2), np.eye(D, 3), 0.1, 0.01)
PREDICTOR = theory.noise_predictor(DATA, SCHEDULE)
X, CLEAN = (jnp.asarray(v, jnp.float32) for v in np.random.default_rng(0).uniform(0.3, 0.7, (2, *SHAPE)))
KEY = pm.configuration(0, 0)


TRAJECTORY, PURIFY = jax.jit(trajectories.trajectory), jax.jit(lambda purifier, x, key: purifier(x, key))


def purifier(kind, t_star):
    return pm.diffusion(PREDICTOR, samplers.SAMPLERS[kind](SCHEDULE, t_star))


@pytest.mark.parametrize("kind", sorted(samplers.SAMPLERS))
def test_the_last_state_clipped_is_the_purified_image(kind):
    path, purified = (f(purifier(kind, 12), X, KEY) for f in (TRAJECTORY, PURIFY))
    np.testing.assert_allclose(jnp.clip(path.reverse[-1], 0, 1), purified, atol=1e-6)  # float32
    assert path.forward.shape == path.reverse.shape == (12, *SHAPE)


def test_each_state_follows_from_the_one_before():
    """Eq. 3 and Eq. 4 with the noise of xi, one at a time."""
    steps, path = samplers.ddpm(SCHEDULE, 5), trajectories.trajectory(purifier("ddpm", 5), X, KEY)
    states = 2 * jnp.concatenate([X[None], *path]) - 1
    noise = lambda direction, t: randomness.normal(randomness.step_key(KEY, direction, t), X)
    for i in range(5):
        later = steps.forward_state[i] * states[i] + steps.forward_noise[i] * noise(randomness.FORWARD, i + 1)
        np.testing.assert_allclose(states[i + 1], later, atol=1e-6)
        x_t, t = states[5 + i], 5 - i
        predicted = steps.prediction[i] * PREDICTOR(x_t, steps.time[i])
        later = steps.state[i] * x_t + predicted + steps.noise[i] * noise(randomness.REVERSE, t)
        np.testing.assert_allclose(states[6 + i], later, atol=1e-6)


def test_reverse_only_waits_where_it_is():
    path = trajectories.trajectory(purifier("reverse", 6), X, KEY)
    np.testing.assert_allclose(path.forward, np.broadcast_to(X, path.forward.shape), atol=1e-7)  # 2 x - 1 and back
    assert jnp.abs(path.reverse[0] - X).max() > 1e-3


def test_no_steps_leave_only_the_input():
    found = trajectories.distances_along(purifier("ddpm", 0), X, KEY, CLEAN)
    np.testing.assert_allclose(found.l2, [jnp.linalg.norm(X - CLEAN)], rtol=1e-6)
    np.testing.assert_allclose(found.linf, [jnp.abs(X - CLEAN).max()], rtol=1e-6)


def test_distances_are_those_of_the_states():
    path = trajectories.trajectory(purifier("ddim", 7), X, KEY)
    found = trajectories.distances_along(purifier("ddim", 7), X, KEY, CLEAN)
    states = np.concatenate([X[None], path.forward, path.reverse]).astype(np.float64)
    np.testing.assert_allclose(found.l2, [np.linalg.norm((s - CLEAN).ravel()) for s in states], rtol=1e-5)
    np.testing.assert_allclose(found.linf, [np.abs(s - CLEAN).max() for s in states], rtol=1e-5)


def test_mean_squared_distances_are_the_theorys():
    """A state has a mean and a variance over xi, known for Gaussian data: E |x_t - c|^2 = |mean - c|^2 + variance."""
    t_star, n = 20, 3000
    of = lambda key: trajectories.distances_along(purifier("ddpm", t_star), X, key, CLEAN).l2
    square = np.asarray(jax.jit(jax.vmap(of))(pm.configurations(0, np.arange(n))), np.float64) ** 2
    in_range = lambda x: 2 * np.asarray(x, np.float64) - 1
    expected = []
    for ab in SCHEDULE.alpha_bar[: t_star + 1]:
        expected.append((((np.sqrt(ab) * in_range(X) - in_range(CLEAN)) ** 2).sum() + (1 - ab) * D) / 4)
    closed = theory.purification(DATA, SCHEDULE, samplers.ddpm(SCHEDULE, t_star))
    end = ((closed.mean(in_range(X)) - in_range(CLEAN)) ** 2).sum() / 4 + closed.spectrum.variances(0.0).internal
    for state, value in [*enumerate(expected), (2 * t_star, end)]:
        error = square[:, state].std(ddof=1) / n**0.5
        assert abs(square[:, state].mean() - value) < 4 * error + 1e-5, state  # float32 over 40 steps


@pytest.mark.parametrize("call", [trajectories.trajectory, lambda *a: trajectories.distances_along(*a, CLEAN)])
def test_a_purifier_without_steps_is_refused(call):
    with pytest.raises(TypeError, match="made by `diffusion`"):
        call(pm.identity, X, KEY)
