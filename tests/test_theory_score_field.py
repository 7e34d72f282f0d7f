"""The Gaussian score field and the first-order forms against autodiff, simulation, linear algebra and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purimetry.compression import samplers, schedules
from purimetry.theory import directions, first_order, score_field
from purimetry.theory.low_rank import low_rank
from purimetry.theory.score_field import PRINTED, STABLE

RANDOM = np.random.default_rng(0)
SHAPES = {2: (1, 2, 1), 64: (8, 8, 1), 3072: (32, 32, 3)}


def data_of(field):
    vectors = RANDOM.normal(size=(field.d, field.d_in))
    return low_rank(RANDOM.uniform(-0.5, 0.5, SHAPES[field.d]), vectors, *field.variances)


def test_score_is_the_gradient_of_the_log_density():
    data, x = data_of(STABLE._replace(d=64, d_in=4)), jnp.asarray(RANDOM.normal(size=(8, 8, 1)))
    on = data.basis @ data.basis.T
    precision = on / data.variances[0] + (np.eye(64) - on) / data.variances[1]
    with jax.enable_x64(True):
        log_density = lambda x: -0.5 * (x - data.mean).ravel() @ precision @ (x - data.mean).ravel()
        x = jnp.asarray(x, jnp.float64)
        np.testing.assert_allclose(score_field.score(data, x), jax.grad(log_density)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("field", [STABLE._replace(d=2, d_in=1), STABLE._replace(d=64, d_in=8), STABLE, PRINTED])
def test_euler_has_the_rates_of_the_eigendirections(field):
    data = data_of(field)
    across = RANDOM.normal(size=field.d)
    across -= data.basis @ (data.basis.T @ across)
    x = jnp.asarray(RANDOM.uniform(-1, 1, data.mean.shape), jnp.float32)
    for direction, rate in zip((data.basis[:, 0], across), score_field.spectrum(field).rates, strict=True):
        v = jnp.asarray(direction.reshape(x.shape), jnp.float32)
        _, moved = jax.jvp(lambda x: score_field.euler(data, field.step, x), (x,), (v,))
        measured = jnp.linalg.norm(moved) / jnp.linalg.norm(v)
        # A rotated direction is known to 1e-7 in float32, and what strays off the manifold is multiplied by up to 10.
        np.testing.assert_allclose(measured, rate, rtol=1e-5)


@pytest.mark.parametrize("field", [STABLE._replace(d=2, d_in=1), STABLE._replace(d=64, d_in=8), STABLE, PRINTED])
def test_rate_over_time_is_what_simulated_perturbations_have(field):
    field, n = field._replace(steps=30), 2000 if field.d < 3072 else 40
    data, followed = data_of(field), score_field.rates_over_time(field)
    with jax.enable_x64(True):
        eta = jnp.asarray(RANDOM.normal(size=(n, *data.mean.shape)))
        sizes = [jnp.sum(eta**2, (1, 2, 3))]
        # The field is affine: a perturbation moves as the difference of two points, here of eta and the mean.
        step = jax.jit(jax.vmap(lambda v: score_field.euler(data, field.step, data.mean + v) - data.mean))
        for _ in range(field.steps):
            eta = step(eta)
            sizes.append(jnp.sum(eta**2, (1, 2, 3)))
    sizes = np.asarray(sizes)
    squares = sizes / sizes[0].mean()
    error = 5 * squares.std(1) / np.sqrt(n) + 5 * squares[0].std() / np.sqrt(n) * squares.mean(1)
    assert (np.abs(squares.mean(1) - followed.cumulative**2) < error).all()


def test_rate_over_time_goes_from_off_to_on_the_manifold():
    followed, on, off = score_field.rates_over_time(STABLE), *score_field.spectrum(STABLE).rates
    assert (np.diff(followed.perturbation) > 0).all()
    assert followed.perturbation[0] == pytest.approx(off, abs=40 / 3072)  # Eq. 14 is exact up to d_in / d
    longer = score_field.rates_over_time(STABLE._replace(steps=300))
    assert longer.perturbation[-1] == pytest.approx(on, rel=1e-9)
    assert longer.cumulative[-1] == pytest.approx(np.sqrt(40 / 3072) * on**300, rel=1e-9)
    np.testing.assert_allclose(followed.first_order, 1 - 0.001 / 3072 * (40 / 1 + 3032 / 0.01))  # Eq. 13


def test_printed_hyperparameters_diverge_and_the_stable_reading_does_not():
    assert not score_field.stability(PRINTED).stable and score_field.stability(STABLE).stable
    np.testing.assert_allclose(score_field.spectrum(PRINTED).rates, [0.999, 9])
    assert score_field.rates_over_time(PRINTED).cumulative[-1] > 1e95
    edge = STABLE._replace(step=2 * 0.1**2)
    assert score_field.stability(edge).stable
    np.testing.assert_allclose(score_field.spectrum(edge).rates[1], 1)
    assert not score_field.stability(edge._replace(step=0.0201)).stable


def test_error_of_eq_13_is_of_second_order_in_the_step():
    gaps = []
    for step in (2e-4, 1e-4, 5e-5):
        one = score_field.spectrum(STABLE._replace(step=step))
        gaps.append(one.rms_rate - one.first_order_rate)
    np.testing.assert_allclose(np.divide(gaps[:-1], gaps[1:]), 4, rtol=0.05)


@pytest.mark.parametrize("symmetric", [True, False])
def test_exact_rate_is_the_frobenius_norm_of_the_step(symmetric):
    jacobian = RANDOM.normal(size=(8, 8))
    jacobian = jacobian + jacobian.T if symmetric else jacobian
    step = 1.01 * np.eye(8) - 0.1 * jacobian
    found = first_order.rate(1.01, -0.1, jacobian)
    assert found.exact == pytest.approx(np.linalg.norm(step) / np.sqrt(8))
    assert found.first_order == pytest.approx(np.trace(step) / 8)
    eigenvalues = np.linalg.eigvalsh((step + step.T) / 2)
    antisymmetric = np.linalg.norm(step - step.T) ** 2 / 4 / 8
    assert found.exact**2 - found.first_order**2 == pytest.approx(eigenvalues.var() + antisymmetric)


def test_rates_from_moments_take_a_step_each():
    jacobians = RANDOM.normal(size=(5, 8, 8))
    found = first_order.rate_from_moments(
        1.0, np.full(5, -0.1), np.trace(jacobians, axis1=1, axis2=2), (jacobians**2).sum((1, 2)), 8)
    each = [first_order.rate(1.0, -0.1, jacobian) for jacobian in jacobians]
    np.testing.assert_allclose(found.exact, [one.exact for one in each])
    np.testing.assert_allclose(found.first_order, [one.first_order for one in each])


@pytest.mark.parametrize("t", [1, 50, 100])
def test_first_order_forms_of_a_ddpm_step_on_gaussian_data(t):
    """Eqs. 15, 16 and 19 against the sampler's own coefficients and the exact gains of a manifold."""
    schedule, d, k = schedules.linear(), 64, 4
    variances, many = np.array([1.0, 1e-4]), np.array([k, d - k], float)
    steps = samplers.ddpm(schedule, t)
    gains = directions.sampler_steps(variances, schedule, steps).gain
    kappa, gamma = (c[t - 1] for c in first_order.coefficients(schedule))
    np.testing.assert_allclose([steps.state[0], steps.prediction[0]], [kappa, -kappa * gamma], rtol=1e-6)  # float32
    ab = schedule.alpha_bar[t]
    jacobian = np.diag(np.repeat(directions.eigenvalue(variances, ab, 1 - ab), [k, d - k]))
    found = first_order.rate(kappa, -kappa * gamma, jacobian)
    assert found.exact == pytest.approx(np.sqrt(gains[t] ** 2 @ many / d), rel=1e-5)
    assert found.first_order == pytest.approx(gains[t] @ many / d, rel=1e-5)
    rates = first_order.direction_rates(kappa, -kappa * gamma, jacobian)
    np.testing.assert_allclose(rates.exact[[0, -1]], gains[t], rtol=1e-5)
    paper = first_order.manifold_rates(kappa, -kappa * gamma, jacobian)
    assert paper.on == kappa and abs(paper.on - gains[t, 0]) < kappa * gamma  # lambda_on <= 1 is neglected
    assert abs(paper.off - gains[t, 1]) <= k / d * abs(gains[t, 0] - gains[t, 1]) + 1e-5  # and k / d
    np.testing.assert_allclose(first_order.forward_rates(schedule, t), gains[:t, 0], rtol=1e-6)
    assert first_order.forward_rates(schedule, t).prod() == pytest.approx(np.sqrt(ab))


def test_eigendirections_are_exact_where_the_jacobian_is_symmetric_and_a_model_elsewhere():
    symmetric = RANDOM.normal(size=(6, 6))
    symmetric = symmetric + symmetric.T
    found = first_order.direction_rates(1.0, -0.2, symmetric)
    np.testing.assert_allclose(found.exact, found.model)
    np.testing.assert_allclose(np.sort(found.exact)[::-1], found.singular_values)
    rotation = np.array([[0.0, -1.0], [1.0, 0.0]])  # its symmetric part is zero, but the step expands
    found = first_order.direction_rates(1.0, -1.0, rotation)
    np.testing.assert_allclose(found.model, 1)
    np.testing.assert_allclose(found.exact, np.sqrt(2))
    np.testing.assert_allclose(found.singular_values, np.sqrt(2))


@pytest.mark.parametrize("measure", [first_order.rate, first_order.direction_rates, first_order.manifold_rates])
def test_what_is_no_jacobian_is_refused(measure):
    with pytest.raises(ValueError, match="expected a Jacobian"):
        measure(1.0, -0.1, np.zeros((2, 3)))


def test_forward_steps_beyond_the_schedule_are_refused():
    with pytest.raises(ValueError, match="0..1000, got 1001"):
        first_order.forward_rates(schedules.linear(), 1001)
