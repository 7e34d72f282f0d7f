"""The contract of every noise schedule."""

import numpy as np
import pytest

from purimetry.compression import schedules

SCHEDULES = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(),
    "short linear": schedules.linear(7, 0.1, 0.4),
    "respaced linear": schedules.respaced(schedules.linear(), 100),
    "respaced cosine": schedules.respaced(schedules.cosine(), 8),
    "one step": schedules.respaced(schedules.linear(), 1),
    "continuous VP": schedules.vp(50),
    "continuous VP to t* = 0.1": schedules.vp(7, 0.1),
    "rectified flow": schedules.rectified(20, 0.9),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_contract(schedule):
    ab = schedule.alpha_bar
    assert ab.dtype == np.float64 and ab.shape == schedule.time.shape == (schedule.steps + 1,)
    assert ab[0] == 1 and ab[-1] > 0 and (np.diff(ab) < 0).all()
    np.testing.assert_allclose(np.cumprod(schedule.alpha), ab[1:], rtol=1e-10)  # float64, up to 1000 factors
    assert (np.diff(schedule.time) > 0).all() and schedule.time[1] >= 0


def test_linear_is_ddpms():
    betas = 1e-4 + (0.02 - 1e-4) * np.arange(1000) / 999
    np.testing.assert_allclose(1 - schedules.linear().alpha, betas, rtol=1e-9)  # float64 cancels in 1 - alpha
    assert schedules.linear().time[[1, 1000]].tolist() == [0, 999]


def test_cosine_is_nichol_and_dhariwals_up_to_its_limit():
    schedule = schedules.cosine()
    f = np.cos((np.arange(1000) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2  # the last step alone meets the limit
    np.testing.assert_allclose(schedule.alpha_bar[:1000], f / f[0], rtol=1e-9)
    assert 1 - schedule.alpha[-1] == pytest.approx(0.999, rel=1e-9)


def test_the_continuous_schedule_is_the_integral_of_beta():
    """beta = 0.1 .. 20; the trapezoidal rule is exact for it. DDPM's schedule has beta / 1000 in each step."""
    schedule, t = schedules.vp(1000), np.arange(1001) / 1000
    beta = 0.1 + 19.9 * t
    integral = np.concatenate([[0], np.cumsum((beta[1:] + beta[:-1]) / 2000)])
    np.testing.assert_allclose(-np.log(schedule.alpha_bar), integral, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(schedule.time, 999 * t)
    # A sum at one end of each step, and -log(1 - beta) = beta + beta^2 / 2: first-order differences of 1/1000.
    np.testing.assert_allclose(schedule.alpha_bar, schedules.linear().alpha_bar, atol=2e-3)
    short = schedules.vp(50, 0.15)
    np.testing.assert_allclose(short.alpha_bar[10], schedule.alpha_bar[30], rtol=1e-12)  # t = 0.03


def test_rectified_flow_is_the_straight_path_at_unit_variance():
    schedule, t = schedules.rectified(10, 0.8), 0.08 * np.arange(11)
    np.testing.assert_allclose(np.sqrt(1 / schedule.alpha_bar - 1), t / (1 - t), atol=1e-7)  # noise over signal
    np.testing.assert_allclose(schedule.time, 999 * t)


@pytest.mark.parametrize("make, message", [
    (lambda: schedules.vp(10, 0.0), "0 < t_end <= 1, got 0.0"), (lambda: schedules.vp(10, 5), "0 < t_end <= 1, got 5"),
    (lambda: schedules.vp(0), "at least 1 step, got 0"), (lambda: schedules.vp(10, beta_min=30.0), "got 30.0 to 20"),
    (lambda: schedules.rectified(10, 1.0), "0 < t_end < 1, got 1.0"),
])
def test_a_process_without_time_noise_or_steps_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("steps", [1, 8, 100, 1000])
def test_respacing_keeps_every_kth_step_with_its_time(steps):
    whole, stride = schedules.linear(), 1000 // steps
    short = schedules.respaced(whole, steps)
    np.testing.assert_array_equal(short.alpha_bar[1:], whole.alpha_bar[stride::stride])
    np.testing.assert_array_equal(short.time[1:], whole.time[stride::stride])
    np.testing.assert_array_equal(short.time[1:], np.arange(1, steps + 1) * stride - 1)


@pytest.mark.parametrize("betas", [[], [[0.1]], [0.0], [1.0], [0.1, -0.1], [np.nan]])
def test_bad_betas_are_refused(betas):
    with pytest.raises(ValueError, match=r"vector in \(0, 1\)"):
        schedules.from_betas(np.array(betas))


@pytest.mark.parametrize("steps", [0, -1, 3, 2000])
def test_a_respacing_that_would_not_share_times_is_refused(steps):
    with pytest.raises(ValueError, match=f"must divide the schedule's 1000 steps, got {steps}"):
        schedules.respaced(schedules.linear(), steps)
