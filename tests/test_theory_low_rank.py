"""Low-rank data in closed form against dense algebra, autodiff, numerical integration and sampling, d = 2 to 3072."""

import jax
import numpy as np
import pytest
from scipy import integrate, special

from purimetry.compression import randomness, samplers, schedules
from purimetry.compression.purifiers.diffusion import diffusion
from purimetry.theory import directions, gaussian, low_rank
from purimetry.theory.spectrum import Spectrum, history, uniform_variance

SCHEDULE = schedules.linear(100, 1e-3, 0.2)
KINDS = sorted(samplers.SAMPLERS)
SHAPES = {2: (1, 2, 1), 64: (8, 8, 1), 3072: (32, 32, 3)}
RANKS = {2: 1, 64: 8, 3072: 40}
XI = randomness.configuration(0, 0)


def data_of(d, on=0.25, off=0.002):
    generator = np.random.default_rng(d)
    mean = generator.uniform(-0.2, 0.2, SHAPES[d])
    return low_rank.low_rank(mean, generator.normal(size=(d, RANKS[d])), on, off)


def image_of(d):
    return np.float32(np.random.default_rng(d + 1).uniform(-0.3, 0.3, SHAPES[d]))


@jax.jit
def run(steps, predictor, x, xi):
    return samplers.run(steps, predictor, x, xi)


@jax.jit
def derivatives(steps, predictor, x, tangents, cotangent):
    """Both directions forwards, one back."""
    f = lambda x: samplers.run(steps, predictor, x, XI)
    return jax.vmap(lambda v: jax.jvp(f, (x,), (v,))[1])(tangents), jax.vjp(f, x)[1](cotangent)[0]


@pytest.mark.parametrize("d", [2, 64])
def test_it_is_the_dense_gaussian_of_the_same_covariance(d):
    data, steps, x = data_of(d), samplers.ddpm(SCHEDULE, 20), image_of(d)
    covariance = 0.25 * data.basis @ data.basis.T + 0.002 * (np.eye(d) - data.basis @ data.basis.T)
    dense = gaussian.gaussian(data.mean, covariance)
    predicted, expected = (jax.jit(predictor)(x, np.float32(19)) for predictor in (
        low_rank.noise_predictor(data, SCHEDULE), gaussian.noise_predictor(dense, SCHEDULE)))
    np.testing.assert_allclose(predicted, expected, atol=1e-5)  # float32, sums of d terms

    ours, theirs = low_rank.purification(data, SCHEDULE, steps), gaussian.purification(dense, SCHEDULE, steps)
    flat = np.float64(x).ravel()
    np.testing.assert_allclose(ours.jacobian_product(x).ravel(), theirs.matrix @ flat, atol=1e-12)
    np.testing.assert_allclose(ours.mean(x).ravel(), theirs.matrix @ flat + theirs.offset, atol=1e-12)
    for quantity in ("rms_rate", "expected_rate", "first_order_rate"):
        assert getattr(ours.spectrum, quantity) == pytest.approx(getattr(theirs.spectrum, quantity), rel=1e-9)
    assert ours.spectrum.variances(0.1) == pytest.approx(theirs.spectrum.variances(0.1))


@pytest.mark.parametrize("d", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_samplers_have_the_jacobian_of_the_theory(kind, d):
    data, steps, x = data_of(d), samplers.SAMPLERS[kind](SCHEDULE, 20), image_of(d)
    closed = low_rank.purification(data, SCHEDULE, steps)
    across = np.random.default_rng(0).normal(size=d)
    across -= data.basis @ (data.basis.T @ across)
    pushed = np.stack([data.basis[:, 0], across / np.linalg.norm(across)]).reshape(2, *x.shape)
    v = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    moved, pulled = derivatives(steps, low_rank.noise_predictor(data, SCHEDULE), x, pushed, v)
    expected = closed.along.gain[:, None, None, None] * pushed
    np.testing.assert_allclose(moved, expected, atol=2e-6)  # 20 float32 steps of gain near 1
    np.testing.assert_allclose(pulled, closed.jacobian_product(v), atol=1e-5)  # entries of size 3


@pytest.mark.parametrize("d, n", [(2, 4000), (64, 1000), (3072, 30)])
@pytest.mark.parametrize("kind", KINDS)
def test_samplers_have_the_mean_and_the_variance_of_the_theory(kind, d, n):
    data, steps, x = data_of(d), samplers.SAMPLERS[kind](SCHEDULE, 20), image_of(d)
    closed, predictor = low_rank.purification(data, SCHEDULE, steps), low_rank.noise_predictor(data, SCHEDULE)
    outputs = jax.vmap(lambda xi: run(steps, predictor, x, xi))(randomness.configurations(3, np.arange(n)))
    residual = (np.asarray(outputs, np.float64) - closed.mean(x)).reshape(n, d)
    on = residual @ data.basis
    squares = (on**2).sum(1), (residual**2).sum(1) - (on**2).sum(1)
    rounding = 1e-5  # float32 over 20 steps, in each of d entries
    for square, noise, many in zip(squares, closed.along.noise, data.multiplicity, strict=True):
        # A sum of `many` squared normals has mean many * noise and variance 2 many noise^2.
        error = 4 * noise * np.sqrt(2 * many / n) + rounding * many * np.sqrt(noise)
        assert abs(square.mean() - many * noise) < error
        assert square.var(ddof=1) == pytest.approx(2 * many * noise**2, rel=4 * np.sqrt((2 + 12 / many) / n), abs=1e-9)
    standard_error = np.sqrt(closed.along.noise.max() / n)
    assert np.abs(residual.mean(0)).max() < 5 * standard_error + rounding  # 5, as it is the largest of 3072


@pytest.mark.parametrize("variance", [1e-3, 0.3, 1.0, 4.0])
def test_exact_flow_is_what_integration_of_its_equation_gives(variance):
    """dx/d(alpha_bar) = (x + score) / (2 alpha_bar), the probability flow ODE in the clock of alpha_bar."""
    mean, end = 0.3, SCHEDULE.alpha_bar[40]
    score = lambda ab, x: -(x - np.sqrt(ab) * mean) / (ab * variance + 1 - ab)
    # An 8th-order method at a relative tolerance of 1e-10 a step.
    solution = integrate.solve_ivp(lambda ab, x: (x + score(ab, x)) / (2 * ab), (end, 1), [0.0, 1.0],
                                   method="DOP853", rtol=1e-10, atol=1e-12)
    at_0, at_1 = solution.y[:, -1]
    closed = directions.reverse_flow(np.array([variance]), SCHEDULE, 40)
    assert closed.gain[0] == pytest.approx(at_1 - at_0, rel=1e-7)
    assert closed.offset[0] * mean == pytest.approx(at_0, rel=1e-7)


@pytest.mark.parametrize("variance", [1e-3, 0.3, 1.0, 4.0])
def test_exact_reverse_sde_is_the_posterior(variance):
    """Conditioning the joint Gaussian of (x_0, x_t) by linear algebra."""
    ab = SCHEDULE.alpha_bar[40]
    joint = np.array([[variance, np.sqrt(ab) * variance], [np.sqrt(ab) * variance, ab * variance + 1 - ab]])
    closed = directions.reverse_sde(np.array([variance]), SCHEDULE, 40)
    gain = joint[0, 1] / joint[1, 1]
    assert closed.gain[0] == pytest.approx(gain, rel=1e-12)
    assert closed.offset[0] == pytest.approx(1 - gain * np.sqrt(ab), rel=1e-12)
    assert closed.noise[0] == pytest.approx(np.linalg.det(joint) / joint[1, 1], rel=1e-10)


def errors_of(sampler, limit, steps):
    """Gain, offset and noise (on, off) of a sampler against its limit, when all of the process has `steps` steps."""
    data = low_rank.low_rank(np.zeros((1, 2, 1)), np.eye(2, 1), 1.5, 0.1)
    schedule = schedules.respaced(schedules.linear(1600, 1e-4 * 1000 / 1600, 0.02 * 1000 / 1600), steps)
    found = low_rank.purification(data, schedule, sampler(schedule, steps // 2)).along
    return np.subtract(found, limit(data, schedule, steps // 2).along)


def test_ddim_converges_to_the_flow_at_first_order():
    errors = [errors_of(samplers.ddim, low_rank.flow, steps) for steps in (100, 200, 400)]
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, atol=0.3)  # 2 in the limit; h^2 is the rest


def test_ddpm_has_the_gain_of_the_reverse_sde_at_any_number_of_steps_and_converges_to_its_noise():
    """A DDPM step is the mean of x_{t-1} given x_t, and these compose to the mean of x_0 given x_t."""
    errors = [errors_of(samplers.ddpm, low_rank.diffuse_and_denoise, steps) for steps in (2, 100, 200, 400)]
    np.testing.assert_allclose([(gain, offset) for gain, offset, _ in errors], 0, atol=5e-6)  # float32 coefficients
    noise = [noise for *_, noise in errors[1:]]
    np.testing.assert_allclose(np.divide(noise[:-1], noise[1:]), 2, atol=0.3)


@pytest.mark.parametrize("limit", [low_rank.flow, low_rank.diffuse_and_denoise])
def test_exact_reverse_processes_keep_the_distribution(limit):
    """The data's law goes in, so it comes out: variance gain^2 s^2 + noise = s^2, and the mean is a fixed point."""
    along = limit(data_of(64), SCHEDULE, 30).along
    np.testing.assert_allclose(along.gain**2 * [0.25, 0.002] + along.noise, [0.25, 0.002], rtol=1e-12)
    np.testing.assert_allclose(along.gain + along.offset, 1, rtol=1e-12)


def test_limits_of_variance_and_time():
    for process in (directions.reverse_flow, directions.reverse_sde):
        flat = process(np.array([0.0]), SCHEDULE, 30)
        assert flat.gain == 0 and flat.offset == 1 and flat.noise == 0  # collapses on its mean
        wide = process(np.array([1e12]), SCHEDULE, 30)
        np.testing.assert_allclose(wide.gain, 1 / np.sqrt(SCHEDULE.alpha_bar[30]), rtol=1e-9)  # nothing is known
        identity = process(np.array([0.3, 0.0]), SCHEDULE, 0)
        np.testing.assert_allclose(identity, [[1, 1], [0, 0], [0, 0]], atol=1e-15)
    np.testing.assert_allclose(low_rank.flow(data_of(2), SCHEDULE, 0).spectrum.rates, 1)


def test_one_jump_forward_is_all_forward_steps():
    steps = directions.sampler_steps(np.array([0.3]), SCHEDULE, samplers.ddpm(SCHEDULE, 30))
    forward = directions.composed(directions.Along(*(part[:30] for part in steps)))
    at_once = directions.diffused(np.array([0.3]), SCHEDULE, 30)
    np.testing.assert_allclose(forward, at_once, rtol=1e-6)  # the sampler's coefficients are float32


def test_drawn_data_has_the_covariance_it_says():
    data, n = data_of(64), 4000
    draws = (low_rank.sample(data, n, np.random.default_rng(0)) - data.mean).reshape(n, -1)
    on = draws @ data.basis
    # The relative error of a variance from n * k squares is sqrt(2 / (n k)).
    assert on.var() == pytest.approx(0.25, rel=4 * np.sqrt(2 / (n * 8)))
    assert ((draws**2).sum() - (on**2).sum()) / (n * 56) == pytest.approx(0.002, rel=4 * np.sqrt(2 / (n * 56)))


def test_expected_rate_of_two_gains_is_an_elliptic_integral():
    for small in (0.0, 1e-3, 0.3, 1.0):
        found = Spectrum(np.array([2.0, 2 * small]), np.zeros(2), np.ones(2)).expected_rate
        assert found == pytest.approx(2 * 2 / np.pi * special.ellipe(1 - small**2), rel=1e-10)


@pytest.mark.parametrize("d, k", [(2, 1), (64, 8), (3072, 1), (3072, 40), (3072, 3072)])
def test_expected_rate_of_a_projection_is_a_ratio_of_gammas(d, k):
    """||P u||^2 is Beta(k / 2, (d - k) / 2), whose root has the mean B((k + 1) / 2, (d - k) / 2) / B(k / 2, ...)."""
    found = Spectrum(np.array([-0.7, 0.0]), np.zeros(2), np.array([k, d - k], float)).expected_rate
    log_gamma = special.gammaln([(k + 1) / 2, k / 2, d / 2, (d + 1) / 2])
    assert found == pytest.approx(0.7 * np.exp(log_gamma @ [1, -1, 1, -1]), rel=1e-9)


def test_expected_rate_is_the_mean_over_directions():
    generator, gains = np.random.default_rng(0), np.geomspace(1e-3, 1, 20)
    eta = generator.normal(size=(20_000, 20))
    rates = np.linalg.norm(gains * eta, axis=1) / np.linalg.norm(eta, axis=1)
    spectrum = Spectrum(gains, np.zeros(20), np.ones(20))
    assert abs(rates.mean() - spectrum.expected_rate) < 4 * rates.std() / np.sqrt(len(rates))
    assert rates.mean() < spectrum.rms_rate and Spectrum(0 * gains, gains, np.ones(20)).expected_rate == 0


def test_first_order_rate_misses_the_variance_of_the_gains():
    gains, many = np.array([0.9, 0.5, -0.2]), np.array([3.0, 5.0, 2.0])
    spectrum = Spectrum(gains, 0 * gains, many)
    every = np.repeat(gains, many.astype(int))
    assert spectrum.rms_rate**2 - spectrum.first_order_rate**2 == pytest.approx(every.var())


def test_variances_of_the_output_are_those_of_pixels():
    """Analysis of variance of a grid of inputs and configurations, with a purifier that takes and gives pixels."""
    data, steps, eps, n = data_of(64), samplers.ddpm(SCHEDULE, 10), 0.1, 60
    purifier = diffusion(low_rank.noise_predictor(data, SCHEDULE), steps)
    closed = low_rank.purification(data, SCHEDULE, steps).spectrum.variances(uniform_variance(eps))
    x = np.random.default_rng(1).uniform(0.5 - eps, 0.5 + eps, (n, *SHAPES[64]))
    grid = jax.jit(jax.vmap(jax.vmap(purifier, (0, None)), (None, 0)))(x, randomness.configurations(0, np.arange(n)))
    grid = np.asarray(grid, np.float64).reshape(n, n, 64)
    assert 0 < grid.min() and grid.max() < 1  # so the clip does nothing
    assert grid.var(1, ddof=1).mean(0).sum() == pytest.approx(closed.input, rel=4 * np.sqrt(2 / (8 * n)))
    between = grid.mean(1).var(0, ddof=1).sum() - closed.input / n  # the mean over n inputs is itself noisy
    # Both are sums of at least 8 equal directions, with n - 1 degrees of freedom each: standard error sqrt(2 / 8n).
    assert between == pytest.approx(closed.internal, rel=4 * np.sqrt(2 / (8 * n)))
    assert closed.total == closed.input + closed.internal and closed.snr == closed.input / closed.internal


def test_without_noise_the_ratio_of_signal_to_noise_is_infinite():
    steps = samplers.reverse_only(SCHEDULE, 10, sigma=lambda schedule: np.zeros(schedule.steps))
    assert low_rank.purification(data_of(2), SCHEDULE, steps).spectrum.variances(0.1).snr == np.inf


def test_history_is_that_of_the_products_of_matrices():
    generator = np.random.default_rng(0)
    basis, gains = np.linalg.qr(generator.normal(size=(6, 6)))[0], generator.uniform(-0.5, 1, (4, 2))
    followed, product = history(gains, np.array([2.0, 4.0])), np.eye(6)
    rms = lambda matrix: np.linalg.norm(matrix) / np.sqrt(6)
    for t, (on, off) in enumerate(gains):
        step = basis @ np.diag([on] * 2 + [off] * 4) @ basis.T
        before, product = rms(product), step @ product
        assert followed.cumulative[t + 1] == pytest.approx(rms(product))
        assert followed.perturbation[t] == pytest.approx(rms(product) / before)
        assert followed.isotropic[t] == pytest.approx(rms(step))
        assert followed.first_order[t] == pytest.approx(np.trace(step) / 6)


def test_rate_goes_from_off_to_on_the_manifold_in_the_reverse_process():
    """Fig. 4d: it starts within k / d of the off-manifold rate and ends at the on-manifold one."""
    data = data_of(3072, on=1.0, off=1e-4)
    steps = samplers.reverse_only(schedules.linear(), 200)
    followed = low_rank.rates_over_time(data, schedules.linear(), steps)
    on, off = followed.directions[200:].T
    rates = followed.perturbation[200:]
    assert rates[0] == pytest.approx(off[0], rel=40 / 3072)
    assert rates[-1] == pytest.approx(on[-1], rel=2e-5) and off[-1] < 0.7  # 2e-5 of its square is still off
    assert (np.abs(followed.first_order[200:] - off) < 0.02).all()  # Eq. 19, exact up to k / d
    spectrum = low_rank.purification(data, schedules.linear(), steps).spectrum
    assert followed.cumulative[-1] == pytest.approx(spectrum.rms_rate)


def test_a_perturbation_that_is_gone_has_no_rate():
    with pytest.raises(ValueError, match="step 1 leaves nothing"):
        history(np.zeros((2, 1)), np.ones(1))


@pytest.mark.parametrize("t", [-1, 101])
def test_time_outside_of_the_schedule_is_refused(t):
    with pytest.raises(ValueError, match="0..100, got"):
        low_rank.flow(data_of(2), SCHEDULE, t)


@pytest.mark.parametrize("mean, vectors, on, off, message", [
    (np.zeros((2, 1)), np.eye(2, 1), 1.0, 0.1, "expected a mean"),
    (np.zeros((1, 2, 1)), np.eye(3, 1), 1.0, 0.1, "expected a mean"),
    (np.zeros((1, 2, 1)), np.eye(2, 3), 1.0, 0.1, "expected a mean"),
    (np.zeros((1, 2, 1)), np.zeros((2, 0)), 1.0, 0.1, "expected a mean"),
    (np.zeros((1, 2, 1)), np.ones((2, 2)), 1.0, 0.1, "leave out column 1"),
    (np.zeros((1, 2, 1)), np.eye(2, 1), 1.0, -0.1, "variances must be >= 0"),
])
def test_what_is_no_low_rank_data_is_refused(mean, vectors, on, off, message):
    with pytest.raises(ValueError, match=message):
        low_rank.low_rank(mean, vectors, on, off)
