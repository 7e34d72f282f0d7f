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


TRAJECTORY, DISTANCES = jax.jit(trajectories.trajectory), jax.jit(trajectories.distances_along)
PURIFY = jax.jit(lambda purifier, x, key: purifier(x, key))


def purifier(kind, t_star):
    return pm.diffusion(PREDICTOR, samplers.SAMPLERS[kind](SCHEDULE, t_star))


@pytest.mark.parametrize("kind", sorted(samplers.SAMPLERS))
def test_the_last_state_clipped_is_the_purified_image(kind):
    path, purified = jax.device_get([f(purifier(kind, 12), X, KEY) for f in (TRAJECTORY, PURIFY)])
    np.testing.assert_allclose(np.clip(path.reverse, 0, 1)[-1], purified, atol=1e-6)  # float32
    assert path.forward.shape == path.reverse.shape == (12, *SHAPE)


def test_each_state_follows_from_the_one_before():
    """Eq. 3 and Eq. 4 with the noise of xi, one at a time."""
    path = TRAJECTORY(purifier("ddpm", 5), X, KEY)
    steps, states = jax.device_get(samplers.ddpm(SCHEDULE, 5)), 2 * np.concatenate([[X], *path]) - 1
    drawn = jax.jit(lambda direction, t: randomness.normal(randomness.step_key(KEY, direction, t), X))
    noise, predictor = lambda direction, t: np.asarray(drawn(direction, t)), jax.jit(PREDICTOR)
    for i in range(5):
        later = steps.forward_state[i] * states[i] + steps.forward_noise[i] * noise(randomness.FORWARD, i + 1)
        np.testing.assert_allclose(states[i + 1], later, atol=1e-6)
        x_t, t = states[5 + i], 5 - i
        predicted = steps.prediction[i] * np.asarray(predictor(x_t, steps.time[i]))
        later = steps.state[i] * x_t + predicted + steps.noise[i] * noise(randomness.REVERSE, t)
        np.testing.assert_allclose(states[6 + i], later, atol=1e-6)


def test_reverse_only_waits_where_it_is():
    forward, reverse = map(np.asarray, TRAJECTORY(purifier("reverse", 6), X, KEY))
    np.testing.assert_allclose(forward, np.broadcast_to(X, forward.shape), atol=1e-7)  # 2 x - 1 and back
    assert np.abs(reverse[0] - np.asarray(X)).max() > 1e-3


def test_no_steps_leave_only_the_input():
    found, apart = DISTANCES(purifier("ddpm", 0), X, KEY, CLEAN), np.subtract(X, CLEAN)
    np.testing.assert_allclose(found.l2, [np.linalg.norm(apart)], rtol=1e-6)
    np.testing.assert_allclose(found.linf, [np.abs(apart).max()], rtol=1e-6)


def test_distances_are_those_of_the_states():
    path, found = TRAJECTORY(purifier("ddim", 7), X, KEY), DISTANCES(purifier("ddim", 7), X, KEY, CLEAN)
    apart = np.concatenate([[X], path.forward, path.reverse]).astype(np.float64) - np.asarray(CLEAN)
    np.testing.assert_allclose(found.l2, [np.linalg.norm(state) for state in apart], rtol=1e-5)
    np.testing.assert_allclose(found.linf, np.abs(apart).max((1, 2, 3)), rtol=1e-5)


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
