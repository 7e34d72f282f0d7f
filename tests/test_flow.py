"""Purification by rectified flow against Euler's method on its own path, and against Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import randomness, samplers, schedules
from purimetry.compression.purifiers.diffusion import parts
from purimetry.theory import gaussian

SHAPE, D = (1, 4, 1), 4
T_STAR, STEPS = 0.4, 6
RANDOM = np.random.default_rng(0)
MEAN, FACTOR = RANDOM.uniform(-0.3, 0.3, SHAPE), 0.2 * RANDOM.normal(size=(D, D))
COVARIANCE = FACTOR @ FACTOR.T
X, XI = jnp.asarray(RANDOM.uniform(0.4, 0.6, SHAPE), jnp.float32), randomness.configuration(0, 0)


def crooked(y, t):
    return jnp.tanh(2 * y) + 0.1 * jnp.sin(3 * y + t / 100)


PURIFY = jax.jit(lambda purifier, x, xi: purifier(x, xi))
DIFFUSE = jax.jit(lambda purifier, xis: jax.vmap(lambda xi: samplers.diffuse(parts(purifier)[1], 2 * X - 1, xi))(xis))
CENTRED = 2 * np.asarray(X) - 1


def test_it_is_eulers_method_on_the_straight_path():
    """y <- y - dt v(y, t) on y = (1 - t) x_0 + t z, with a velocity that is far from linear."""
    purifier = pm.flow(crooked, T_STAR, STEPS)
    signal = np.sqrt((1 - T_STAR) ** 2 / ((1 - T_STAR) ** 2 + T_STAR**2))
    z = (np.asarray(DIFFUSE(purifier, XI[None]))[0] - signal * CENTRED) / np.sqrt(1 - signal**2)
    y, velocity = (1 - T_STAR) * CENTRED + T_STAR * z, jax.jit(crooked)
    for t in T_STAR * np.arange(STEPS, 0, -1) / STEPS:
        y = y - T_STAR / STEPS * np.asarray(velocity(y, np.float32(999 * t)))
    np.testing.assert_allclose(PURIFY(purifier, X, XI), np.clip((y + 1) / 2, 0, 1), atol=2e-6)  # float32, 6 steps


def test_the_noise_at_t_star_is_standard_normal():
    xis, n = randomness.configurations(0, np.arange(3000)), 3000
    y = np.asarray(DIFFUSE(pm.flow(crooked, T_STAR, STEPS), xis)) * np.hypot(1 - T_STAR, T_STAR)
    z = (y - (1 - T_STAR) * CENTRED) / T_STAR
    assert (np.abs(z.mean(0)) < 4 / np.sqrt(n)).all()  # 4 standard errors, as below
    assert (np.abs(z.var(0) - 1) < 4 * np.sqrt(2 / n)).all()


def test_gaussian_data_have_the_exact_linear_map():
    """v = E[z - x_0 | y] is linear in y, so that f_xi is a product of matrices, one a step."""

    def linear(t):
        noisy = (1 - t) ** 2 * COVARIANCE + t**2 * np.eye(D)
        return (t * np.eye(D) - (1 - t) * COVARIANCE) @ np.linalg.inv(noisy)

    times = T_STAR * np.arange(STEPS, 0, -1) / STEPS
    matrices, t32 = np.stack([linear(t) for t in times]), np.float32(999 * times)

    def velocity(y, time):
        which = jnp.abs(jnp.asarray(t32) - time).argmin()
        centred = (y - (1 - time / 999) * MEAN.astype(np.float32)).reshape(-1)
        return (jnp.asarray(matrices, jnp.float32)[which] @ centred).reshape(SHAPE) - MEAN.astype(np.float32)

    purifier = pm.flow(velocity, T_STAR, STEPS)
    whole = (1 - T_STAR) * np.eye(D)
    for matrix in matrices:
        whole = (np.eye(D) - T_STAR / STEPS * matrix) @ whole
    output, found = map(np.asarray, jax.jit(lambda x: (purifier(x, XI), jax.jacfwd(purifier)(x, XI)))(X))
    assert ((output > 0) & (output < 1)).all()  # nothing is clipped
    np.testing.assert_allclose(found.reshape(D, D), whole, atol=5e-6)  # float32, 6 steps

    schedule, steps = schedules.rectified(STEPS, T_STAR), parts(purifier)[1]
    data = gaussian.gaussian(MEAN, COVARIANCE)
    np.testing.assert_allclose(gaussian.purification(data, schedule, steps).matrix, whole, atol=1e-6)
    over_times = lambda predictor: jax.jit(jax.vmap(lambda t: predictor(2 * X - 1, t)))(t32)
    optimal = gaussian.noise_predictor(data, schedule)
    np.testing.assert_allclose(over_times(pm.noise_of(velocity)), over_times(optimal), atol=2e-5)


def test_one_image_alone_is_restored_whatever_the_noise():
    """Its velocity is (y - x_0) / t, along which Euler's steps are exact."""
    clean = jnp.asarray(RANDOM.uniform(0.1, 0.9, SHAPE), jnp.float32)
    purifier = pm.flow(lambda y, t: (y - (2 * clean - 1)) * 999 / t, T_STAR, STEPS)
    np.testing.assert_allclose(PURIFY(purifier, X, XI), clean, atol=2e-6)  # float32


@pytest.mark.parametrize("process", [schedules.linear(), schedules.respaced(schedules.linear(), 100),
                                     schedules.cosine()])
def test_a_noise_predictor_as_velocity_says_the_same_noise(process):
    """At the times it was trained on, at which it is told its own times again."""
    predictor = lambda x, time: jnp.tanh(x) + jnp.sin(time / 50)
    again, steps = pm.noise_of(pm.velocity_of(predictor, process)), np.array([1, 2, 40, process.steps // 2])
    for step in steps:
        time = jnp.float32(999 * schedules.rectified_time(process.alpha_bar[step]))
        expected = predictor(X, jnp.float32(process.time[step]))
        np.testing.assert_allclose(again(X, time), expected, atol=2e-4)  # float32 of times near 999, over 50


def test_flow_along_a_noise_predictor_is_ddim_at_times_that_are_even_for_flow():
    process = schedules.vp(1000)
    predictor = lambda x, time: jnp.tanh(2 * x) + time / 500
    t = T_STAR * np.arange(STEPS + 1) / STEPS
    alpha_bar = (1 - t) ** 2 / ((1 - t) ** 2 + t**2)
    even = schedules.Schedule(alpha_bar, np.interp(t, schedules.rectified_time(process.alpha_bar), process.time))
    theirs = pm.diffusion(predictor, samplers.ddim(even, STEPS))
    ours = pm.flow(pm.velocity_of(predictor, process), T_STAR, STEPS)
    np.testing.assert_allclose(PURIFY(ours, X, XI), PURIFY(theirs, X, XI), atol=5e-6)  # float32, 6 steps


def test_a_predictor_is_told_times_between_its_steps_and_none_below_0():
    told = lambda process, t: float(pm.noise_of(pm.velocity_of(lambda x, time: x * 0 + time, process))(
        X, jnp.float32(999 * t)).max())
    process = schedules.respaced(schedules.linear(), 100)
    first, second = schedules.rectified_time(process.alpha_bar[1:3])
    assert told(process, (first + second) / 2) == pytest.approx((9 + 19) / 2, rel=1e-4)  # float32
    assert told(process, first / 10) == pytest.approx(0.9, rel=1e-4)
    assert told(process, 0) == 0


def test_no_time_is_the_identity():
    assert pm.flow(crooked, 0, STEPS) is pm.identity


@pytest.mark.parametrize("t_star", [-0.1, 1.0, 5, np.nan])
def test_a_time_outside_of_the_flow_is_refused(t_star):
    with pytest.raises(ValueError, match="0 <= t_star < 1, got"):
        pm.flow(crooked, t_star, STEPS)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        pm.flow(crooked, 0.3, 0)
