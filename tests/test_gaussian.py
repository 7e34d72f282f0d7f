"""Samplers on Gaussian data against their closed form (compression_paper Sec. 6, App. A)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purimetry.compression import randomness, samplers, schedules
from purimetry.theory import gaussian as theory

SHAPE, D = (2, 3, 1), 6
SCHEDULE = schedules.linear(100, 1e-3, 0.2)
KINDS = sorted(samplers.SAMPLERS)
RANDOM = np.random.default_rng(0)
FACTOR = RANDOM.normal(size=(D, D)) * np.array([1.0, 0.5, 0.3, 0.1, 0.01, 0.0])  # rank 5: one collapsed direction
DATA = theory.gaussian(RANDOM.uniform(-1, 1, SHAPE), FACTOR @ FACTOR.T)
PREDICTOR = theory.noise_predictor(DATA, SCHEDULE)
X = jnp.asarray(RANDOM.uniform(-1, 1, SHAPE), jnp.float32)
XI = randomness.configuration(0, 0)


@jax.jit
def jacobian(steps, x, xi):
    return jax.jacfwd(lambda x: samplers.run(steps, PREDICTOR, x.reshape(SHAPE), xi).reshape(-1))(x.reshape(-1))


@jax.jit
def pulled_back(steps, cotangent):
    return jax.vjp(lambda x: samplers.run(steps, PREDICTOR, x, XI), X)[1](cotangent)[0]


@jax.jit
def outputs(steps, xis):
    return jax.vmap(lambda xi: samplers.run(steps, PREDICTOR, X, xi))(xis)


def test_predictor_solves_the_linear_system_and_is_minus_the_score():
    predicted = jax.jit(lambda predictor, x, t: predictor(x, t))(PREDICTOR, X, jnp.float32(29))
    ab = SCHEDULE.alpha_bar[30]
    covariance = ab * FACTOR @ FACTOR.T + (1 - ab) * np.eye(D)
    centred = (np.asarray(X) - np.sqrt(ab) * DATA.mean).reshape(-1)
    expected = np.sqrt(1 - ab) * np.linalg.solve(covariance, centred).reshape(SHAPE)
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-6)  # float32 against float64

    log_density = lambda x: -0.5 * (x - np.sqrt(ab) * DATA.mean.reshape(-1)) @ jnp.linalg.solve(
        covariance, x - np.sqrt(ab) * DATA.mean.reshape(-1))
    score = np.asarray(jax.jit(jax.grad(log_density))(np.reshape(X, -1)))
    np.testing.assert_allclose(np.reshape(predicted, -1), -np.sqrt(1 - ab) * score, rtol=1e-4, atol=1e-5)  # Eq. 17


@pytest.mark.parametrize("t_star", [0, 1, 30, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_is_the_theorys_matrix_at_every_input_and_configuration(kind, t_star):
    steps = samplers.SAMPLERS[kind](SCHEDULE, t_star)
    matrix = theory.purification(DATA, SCHEDULE, steps).matrix
    tolerance = dict(rtol=0, atol=2e-6 * max(1, np.abs(matrix).max()))  # 100 float32 steps, each rounding by 6e-8
    np.testing.assert_allclose(jacobian(steps, X, XI), matrix, **tolerance)
    np.testing.assert_allclose(jacobian(steps, -np.asarray(X), randomness.configuration(5, 7)), matrix, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_pullback_is_the_transpose(kind):
    steps = samplers.SAMPLERS[kind](SCHEDULE, 30)
    matrix = theory.purification(DATA, SCHEDULE, steps).matrix
    cotangent = RANDOM.normal(size=SHAPE)
    pulled = np.reshape(pulled_back(steps, cotangent.astype(np.float32)), -1)
    np.testing.assert_allclose(pulled, matrix.T @ cotangent.reshape(-1), atol=2e-5)  # float32, 30 steps


@pytest.mark.parametrize("kind", KINDS)
def test_eigendirections_stay_and_shrink_by_their_rate(kind):
    steps = samplers.SAMPLERS[kind](SCHEDULE, 30)
    closed = theory.purification(DATA, SCHEDULE, steps)
    measured = np.asarray(jacobian(steps, X, XI)) @ DATA.directions
    np.testing.assert_allclose(measured, DATA.directions * closed.gains, atol=5e-6)  # float32, 30 steps
    np.testing.assert_allclose(np.linalg.norm(measured, axis=0), closed.spectrum.rates, atol=5e-6)
    assert (np.diff(closed.spectrum.rates) > 0).all()  # the smaller the variance, the stronger the compression (Eq. 14)
    assert closed.spectrum.rms_rate == pytest.approx(np.linalg.norm(closed.matrix) / np.sqrt(D), rel=1e-12)


def test_known_factors_of_one_direction():
    """A collapsed, a unit-variance and a flat direction, in products that are known without the recursion."""
    data = theory.gaussian(np.zeros((1, 3, 1)), np.diag([0.0, 1.0, 1e9]))
    ab = SCHEDULE.alpha_bar[: 40 + 1]
    angle = np.arccos(np.sqrt(ab))
    known = {
        "ddpm": [0, ab[-1], 1],  # each reverse step of a unit direction is sqrt(alpha_t), as is each forward one
        "reverse": [0, np.sqrt(ab[-1]), 1 / np.sqrt(ab[-1])],
        "ddim": [0, np.sqrt(ab[-1]) * np.prod(np.cos(np.diff(angle))), 1],  # each step is a rotation, projected
    }
    for kind, factors in known.items():
        steps = samplers.SAMPLERS[kind](SCHEDULE, 40)
        closed = theory.purification(data, SCHEDULE, steps)
        # The coefficients are float32, so 40 factors are off by 40 * 6e-8; the flat direction by 1/variance more.
        np.testing.assert_allclose(closed.gains, factors, rtol=5e-6, atol=5e-6)


def test_ddim_converges_to_the_flow_at_first_order():
    """The probability flow scales a direction by sqrt(ab s / (ab s + 1 - ab)) there and back; Euler's error is O(h)."""
    data = theory.gaussian(np.zeros((1, 1, 1)), np.array([[0.1]]))
    fine = schedules.linear(1600, 1e-4 * 1000 / 1600, 0.02 * 1000 / 1600)
    errors = []
    for steps in (100, 200, 400):
        schedule = schedules.respaced(fine, steps)
        ab = schedule.alpha_bar[steps // 2]
        gain = theory.purification(data, schedule, samplers.ddim(schedule, steps // 2)).gains[0]
        errors.append(gain - np.sqrt(ab * 0.1 / (ab * 0.1 + 1 - ab)))
    ratios = np.divide(errors[:-1], errors[1:])
    np.testing.assert_allclose(ratios, 2, atol=0.2)  # 2 in the limit; the rest is the next order of h


@pytest.mark.parametrize("kind", KINDS)
def test_output_has_the_mean_and_the_variance_of_the_affine_map(kind):
    steps, n = samplers.SAMPLERS[kind](SCHEDULE, 20), 4000
    closed = theory.purification(DATA, SCHEDULE, steps)
    found = np.asarray(outputs(steps, randomness.configurations(3, np.arange(n))), np.float64)
    along = found.reshape(n, D) @ DATA.directions
    mean = DATA.directions.T @ (closed.matrix @ np.asarray(X, np.float64).reshape(-1) + closed.offset)
    rounding = 1e-5  # where there is no variance; float32 over 20 steps
    assert (np.abs(along.mean(0) - mean) < 4 * np.sqrt(closed.noise / n) + rounding).all()  # 4 standard errors
    # A Gaussian's sample variance has standard error variance * sqrt(2 / n).
    assert (np.abs(along.var(0) - closed.noise) < 4 * closed.noise * np.sqrt(2 / n) + rounding**2).all()


@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
def test_the_mean_of_the_data_is_the_fixed_point_of_the_mean_map(kind):
    closed = theory.purification(DATA, SCHEDULE, samplers.SAMPLERS[kind](SCHEDULE, 60))
    mean = DATA.mean.reshape(-1)
    np.testing.assert_allclose(closed.matrix @ mean + closed.offset, mean, atol=1e-5)  # coefficients are float32


def test_zero_steps_are_the_identity():
    closed = theory.purification(DATA, SCHEDULE, samplers.ddpm(SCHEDULE, 0))
    np.testing.assert_allclose(closed.matrix, np.eye(D), atol=1e-14)
    assert not closed.offset.any() and not closed.noise.any() and closed.spectrum.rms_rate == 1


def test_respaced_steps_are_looked_up_by_their_time():
    short = schedules.respaced(SCHEDULE, 10)
    steps = samplers.ddim(short, 5)
    whole, own = (theory.purification(DATA, schedule, steps) for schedule in (SCHEDULE, short))
    np.testing.assert_array_equal(whole.gains, own.gains)
    with pytest.raises(ValueError, match="which the schedule lacks"):
        theory.purification(DATA, short, samplers.ddim(SCHEDULE, 5))


@pytest.mark.parametrize("mean, covariance, message", [
    (np.zeros((2, 1)), np.eye(2), "expected a mean"),
    (np.zeros((1, 2, 1)), np.eye(3), "expected a mean"),
    (np.zeros((1, 2, 1)), np.array([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
    (np.zeros((1, 2, 1)), np.diag([1.0, -0.5]), "smallest eigenvalue is -0.5"),
])
def test_what_is_no_gaussian_is_refused(mean, covariance, message):
    with pytest.raises(ValueError, match=message):
        theory.gaussian(mean, covariance)
