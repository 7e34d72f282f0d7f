"""Samplers of continuous time and higher order: measured orders, closed forms, direct recursions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import randomness, samplers, schedules, solvers
from purimetry.compression.purifiers.diffusion import fewer_steps
from purimetry.theory import directions, gaussian, low_rank, mixture, mixture_jacobian, tweedie

HALVED = np.array([1, 1, 0.5])
"""What diffusers takes of each derivative in its multistep method of order 3."""

ORDERS = {
    "ode": (pm.ode, 1), "ddim": (pm.ddim, 1), "heun": (pm.heun, 2), "dpm 2": (pm.dpm, 2),
    "dpm 2, midpoint": (partial(pm.dpm, moments=solvers.midpoint), 2), "dpm 3": (partial(pm.dpm, order=3), 3),
    "dpm 3, as published": (partial(pm.dpm, order=3, moments=lambda h, n: solvers.integrated(h, n) * HALVED[:n]), 2),
    "singlestep 2": (pm.dpm_singlestep, 2),
    "singlestep 2, midpoint": (partial(pm.dpm_singlestep, moments=solvers.midpoint), 2),
    "singlestep 3": (partial(pm.dpm_singlestep, order=3), 3),
}
SOLVERS = {name: ORDERS[name][0] for name in ("heun", "dpm 2", "dpm 3", "singlestep 2", "singlestep 3")}
SHAPE, D = (1, 3, 1), 3
SCHEDULE = schedules.linear(20, 1e-3, 0.2)
RANDOM = np.random.default_rng(0)
FACTOR = RANDOM.normal(size=(D, D)) * np.array([1.0, 0.3, 0.0])  # one collapsed direction
DATA = gaussian.gaussian(RANDOM.uniform(-1, 1, SHAPE), FACTOR @ FACTOR.T)
PREDICTOR = gaussian.noise_predictor(DATA, SCHEDULE)
X, XI = jnp.asarray(RANDOM.uniform(-1, 1, SHAPE), jnp.float32), randomness.configuration(0, 0)


def crooked(x, t):
    """Far from linear, and different at every time."""
    return jnp.tanh(0.8 * x) + 0.1 * jnp.sin(3 * x + t / 100)


def at_times(t):
    """The VP schedule at the times t, ascending from 0."""
    return schedules.Schedule(np.exp(-0.1 * t - 19.9 * t**2 / 2), 999 * t)


def without_last(steps):
    """The reverse steps from x_t* on, but for the last."""
    steps = jax.tree.map(np.asarray, steps)
    forward, reverse, (*_, memory) = steps[:2], steps[2:8], steps
    return samplers.Steps(*(c[:0] for c in forward), *(c[:-1] for c in reverse),
                          memory and samplers.Memory(*(c[:-1] for c in memory)))


@pytest.mark.parametrize("name", ORDERS)
def test_error_falls_at_the_order_of_the_theory(name):
    """Against the exact flow between two times. The last step goes from there to 0, where the noise vanishes.

    The first two steps of a multistep method of order 3 are of order 1 and 2: for their own error to be O(h^3), they
    last about h^1.5 here.
    """
    (make, order), variances, early, late, errors = ORDERS[name], np.array([0.5, 2.0, 4.0]), 0.1, 0.5, []
    for n in (12, 24, 48):
        h = (late - early) / n
        short = 2 * h**1.5 if name.startswith("dpm 3") else h
        even = np.linspace(early, late - 2 * short, n - 1)
        schedule = at_times(np.concatenate([[0], even, [late - short, late]]))
        found = directions.purified(variances, schedule, without_last(make(schedule, n + 1)))
        before, after = (schedule.alpha_bar[i] * variances + 1 - schedule.alpha_bar[i] for i in (-1, 1))
        errors.append(np.linalg.norm(found.gain - np.sqrt(after / before)))
    measured = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(measured[-1], order, atol=0.15)  # what is left is the next order of h
    assert errors[-1] > 1e-5  # float32 coefficients are far below


def test_euler_maruyama_is_of_weak_order_one():
    """Mean and variance against the exact reverse SDE. Those of the steps themselves are exact: see test_gaussian."""
    variances, errors = np.array([0.1, 1.0, 3.0]), []
    for n in (100, 200, 400):
        schedule = schedules.vp(n, 0.3)
        closed = directions.diffused(variances, schedule, n).then(directions.reverse_sde(variances, schedule, n))
        found = directions.purified(variances, schedule, pm.sde(schedule, n))
        errors.append([found.gain - closed.gain, found.offset - closed.offset, found.noise - closed.noise])
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, atol=0.2)  # the rest is the next order of h


def test_diffpures_own_recursion_is_approached_at_first_order():
    """dt beta(t) at the end of each step, from t* in one draw; the same process in the same limit."""
    variances, apart = np.array([0.1, 1.0, 3.0]), []
    for n in (100, 200, 400):
        schedule = schedules.vp(n, 0.3)
        dt, gain, noise = 0.3 / n, np.sqrt(schedule.alpha_bar[-1]) + 0 * variances, 1 - schedule.alpha_bar[-1]
        for t in 0.3 * np.arange(n, 0, -1) / n:
            beta = 0.1 + 19.9 * t
            ab = np.exp(-0.1 * t - 19.9 * t**2 / 2)
            factor = 1 + beta * dt / 2 - beta * dt / (ab * variances + 1 - ab)
            gain, noise = factor * gain, factor**2 * noise + beta * dt
        found = directions.purified(variances, schedule, pm.sde(schedule, n))
        apart.append([found.gain - gain, found.noise - noise])
    np.testing.assert_allclose(np.divide(apart[:-1], apart[1:]), 2, atol=0.2)


diffuse = jax.jit(samplers.diffuse)
predicted = jax.jit(crooked)
crookedly = jax.jit(lambda steps: samplers.run(steps, crooked, X, XI))
gaussianly = jax.jit(lambda steps: samplers.run(steps, PREDICTOR, X, XI))


@jax.jit
def jacobian(steps, x):
    return jax.jacfwd(lambda x: samplers.run(steps, PREDICTOR, x.reshape(SHAPE), XI).reshape(-1))(x.reshape(-1))


@pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS)
def test_jacobian_and_mean_are_the_theorys(make):
    steps = make(SCHEDULE, 8)
    closed = gaussian.purification(DATA, SCHEDULE, steps)
    np.testing.assert_allclose(jacobian(steps, X), closed.matrix, atol=3e-6)  # 8 or 15 float32 steps
    noiseless = steps._replace(forward_noise=0 * steps.forward_noise)
    mean = np.reshape(gaussianly(noiseless), -1)
    np.testing.assert_allclose(mean, closed.matrix @ np.asarray(X).reshape(-1) + closed.offset, atol=3e-6)


def test_heun_is_the_textbooks_recursion():
    """x <- x + h (f(x) + f(x + h f(x))) / 2 with f = (x + score) / 2 in time -log alpha_bar, and Euler at the end."""
    t_star, ab = 6, SCHEDULE.alpha_bar
    slope = lambda x, t: x / 2 - np.asarray(predicted(x, np.float32(SCHEDULE.time[t]))) / (2 * np.sqrt(1 - ab[t]))
    x = np.asarray(diffuse(pm.ddpm(SCHEDULE, t_star), X, XI))
    for t in range(t_star, 0, -1):
        h = -np.log(ab[t] / ab[t - 1])
        euler = x + h * slope(x, t)
        x = x + h * (slope(x, t) + slope(euler, t - 1)) / 2 if t > 1 else euler
    np.testing.assert_allclose(crookedly(pm.heun(SCHEDULE, t_star)), x, atol=5e-6)  # float32


def test_euler_on_the_flow_and_on_the_sde_differ_by_half_the_score_and_the_noise():
    sde, ode = pm.sde(SCHEDULE, 7), pm.ode(SCHEDULE, 7)
    np.testing.assert_array_equal(sde.state, ode.state)
    np.testing.assert_allclose(sde.prediction, 2 * np.asarray(ode.prediction), rtol=1e-6)
    assert not np.any(ode.noise) and np.all(np.asarray(sde.noise) > 0)


def test_order_one_is_ddim():
    for make in (pm.dpm, pm.dpm_singlestep):
        jax.tree.map(np.testing.assert_array_equal, make(SCHEDULE, 5, order=1), pm.ddim(SCHEDULE, 5))


@pytest.mark.parametrize("make", [*SOLVERS.values(), pm.sde, pm.ode, pm.one_step])
def test_zero_steps_are_the_identity_bit_for_bit(make):
    purifier = pm.diffusion(crooked, make(SCHEDULE, 0))
    image = jnp.asarray(np.abs(X) ** 3)
    np.testing.assert_array_equal(purifier(image, XI), image)


@pytest.mark.parametrize("make", [*SOLVERS.values(), pm.sde, pm.ode])
def test_all_samplers_start_from_the_same_noisy_image(make):
    """So that they are compared on the same noise, at one configuration."""
    np.testing.assert_array_equal(diffuse(make(SCHEDULE, 6), X, XI), diffuse(pm.ddpm(SCHEDULE, 6), X, XI))


def test_samplers_of_one_memory_share_a_program():
    run = jax.jit(lambda steps: samplers.run(steps, crooked, X, XI))
    for make in (pm.dpm, pm.dpm_singlestep, partial(pm.dpm, moments=solvers.midpoint)):
        run(make(SCHEDULE, 5))
        run(make(schedules.vp(5, 0.2), 5))
    assert run._cache_size() == 1


@pytest.mark.parametrize("t_star", [1, 20])
def test_one_step_is_the_posterior_mean(t_star):
    steps, ab = pm.one_step(SCHEDULE, t_star), SCHEDULE.alpha_bar[t_star]
    x_t = diffuse(steps, X, XI)
    expected = tweedie.posterior_mean_from_noise(x_t, predicted(x_t, np.float32(SCHEDULE.time[t_star])), ab)
    np.testing.assert_allclose(crookedly(steps), expected, rtol=1e-5, atol=1e-6)  # float32
    closed = gaussian.purification(DATA, SCHEDULE, steps)
    exact = directions.reverse_sde(DATA.variances, SCHEDULE, t_star)  # without its noise
    np.testing.assert_allclose(closed.gains, np.sqrt(ab) * exact.gain, rtol=1e-6, atol=1e-7)  # float32 coefficients
    np.testing.assert_allclose(closed.noise, (1 - ab) * exact.gain**2, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [*SOLVERS.values(), pm.one_step])
@pytest.mark.parametrize("t_star", [-1, 21, 0.1])
def test_t_star_outside_the_schedule_or_as_a_fraction_is_refused(make, t_star):
    with pytest.raises(ValueError, match="0..20, got|whole number of steps"):
        make(SCHEDULE, t_star)


@pytest.mark.parametrize("make", [pm.dpm, pm.dpm_singlestep])
@pytest.mark.parametrize("order", [0, 4])
def test_an_order_that_there_is_not_is_refused(make, order):
    with pytest.raises(ValueError, match=f"order 1, 2 or 3, got {order}"):
        make(SCHEDULE, 5, order)


def test_what_needs_steps_without_memory_says_so():
    steps = pm.dpm(SCHEDULE, 5)
    purifier = pm.diffusion(crooked, steps)
    with pytest.raises(ValueError, match="no rate of its own"):
        pm.step_rates(purifier, X, XI, jnp.ones((2, *SHAPE)))
    with pytest.raises(ValueError, match="samplers without memory"):
        fewer_steps(purifier, pm.ddim(SCHEDULE, 5))
    with pytest.raises(ValueError, match="no gain of their own"):
        low_rank.rates_over_time(low_rank.low_rank(np.zeros(SHAPE), np.eye(D, 1), 1.0, 0.1), SCHEDULE, steps)
    data, levels = mixture.mixture(np.ones(1), np.zeros((1, *SHAPE)), 0.1), directions.noise_levels(SCHEDULE)
    with pytest.raises(ValueError, match="no own Jacobian"):
        mixture_jacobian.purification_jacobian(data, levels, steps, np.eye(D, 1), jnp.zeros((5, *SHAPE)))
