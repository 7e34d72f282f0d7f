"""Our samplers against diffusers' schedulers: every state of the reverse process on the same noise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purimetry.compression import randomness, samplers, schedules, solvers

pytestmark = pytest.mark.peer
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SCHEDULE = schedules.linear()
SHAPE = (4, 4, 2)
XI = randomness.configuration(0, 0)
X = jax.random.normal(jax.random.key(1), SHAPE)
FLOAT = dict(rtol=2e-5, atol=2e-5)  # float32 over up to 50 steps


def predictor(x, t):
    """Nonlinear, and different at every time; the same in both libraries."""
    sine, tanh = (torch.sin, torch.tanh) if isinstance(x, torch.Tensor) else (jnp.sin, jnp.tanh)
    return tanh(0.8 * x) + 0.1 * sine(3 * x + t / 100)


def peer_states(scheduler, schedule, t_star, set_times=lambda s, schedule, t_star: s.set_timesteps(schedule.steps)):
    """diffusers' states from t* to 0, its times being those of our schedule."""
    # In float64, as ours: diffusers' float32 products leave 1 - alpha_bar_1 = 1e-4 with an error of 1e-3 of itself.
    scheduler.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas, scheduler.alphas_cumprod = 1 - scheduler.betas, torch.cumprod(1 - scheduler.betas, 0)
    set_times(scheduler, schedule, t_star)
    times = scheduler.timesteps[-t_star:]
    assert times.tolist() == schedule.time[t_star:0:-1].tolist()
    x, states = torch.tensor(np.asarray(X, np.float64)), []
    for time in times:
        x = scheduler.step(predictor(x, time), time, x).prev_sample
        states.append(x.numpy())
    return np.stack(states)


@jax.jit
def our_states(steps):
    return samplers.denoise(steps, predictor, X, XI)[1]


@pytest.mark.parametrize("schedule, t_star", [(SCHEDULE, 50), (schedules.respaced(SCHEDULE, 20), 20)],
                         ids=["full", "respaced"])
@pytest.mark.parametrize("variance, sigma", [("fixed_small", samplers.posterior_sigma),
                                             ("fixed_large", samplers.beta_sigma)])
def test_ddpm_equals_diffusers(schedule, t_star, variance, sigma, monkeypatch):
    # diffusers draws noise in the last step of a respaced process too (Ho et al. do not), so it is given zeros there.
    noise = (np.asarray((t > 1) * randomness.normal(randomness.step_key(XI, randomness.REVERSE, t), X))
             for t in range(t_star, 0, -1))
    module = diffusers.schedulers.scheduling_ddpm
    monkeypatch.setattr(module, "randn_tensor", lambda *shape, **options: torch.tensor(next(noise)))
    scheduler = diffusers.DDPMScheduler(
        1000, 1e-4, 0.02, "linear", clip_sample=False, variance_type=variance, timestep_spacing="trailing")
    np.testing.assert_allclose(our_states(samplers.ddpm(schedule, t_star, sigma)),
                               peer_states(scheduler, schedule, t_star), **FLOAT)


@pytest.mark.parametrize("schedule, t_star", [(SCHEDULE, 50), (schedules.respaced(SCHEDULE, 20), 20)],
                         ids=["full", "respaced"])
def test_ddim_equals_diffusers(schedule, t_star):
    scheduler = diffusers.DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False, timestep_spacing="trailing")
    np.testing.assert_allclose(our_states(samplers.ddim(schedule, t_star)),
                               peer_states(scheduler, schedule, t_star), **FLOAT)


def halved(h, n):
    """`integrated` with half of the second derivative, as diffusers' multistep method of order 3 has it."""
    return solvers.integrated(h, n) * np.array([1, 1, 0.5])[:n]


@pytest.mark.parametrize("form, order, solver, moments", [
    ("Multistep", 1, "heun", solvers.integrated), ("Multistep", 2, "heun", solvers.integrated),
    ("Multistep", 2, "midpoint", solvers.midpoint), ("Multistep", 3, "heun", halved),
    ("Singlestep", 2, "heun", solvers.integrated), ("Singlestep", 2, "midpoint", solvers.midpoint),
    ("Singlestep", 3, "heun", solvers.integrated),
])
@pytest.mark.parametrize("t_star", [9, 10, 20])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' use of numpy
def test_dpm_solver_equals_diffusers(form, order, solver, moments, t_star):
    schedule = schedules.respaced(SCHEDULE, 20)
    scheduler = getattr(diffusers, f"DPMSolver{form}Scheduler")(
        1000, 1e-4, 0.02, "linear", solver_order=order, algorithm_type="dpmsolver++", solver_type=solver,
        lower_order_final=form == "Singlestep", final_sigmas_type="zero", use_karras_sigmas=False)
    given = lambda s, schedule, t_star: s.set_timesteps(timesteps=schedule.time[t_star:0:-1].tolist())
    make = solvers.dpm if form == "Multistep" else solvers.dpm_singlestep
    np.testing.assert_allclose(our_states(make(schedule, t_star, order, moments)),
                               peer_states(scheduler, schedule, t_star, given), rtol=1e-4, atol=1e-4)  # float32 sigmas


@pytest.mark.parametrize("ours, beta_schedule", [(SCHEDULE, "linear"), (schedules.cosine(), "squaredcos_cap_v2")])
def test_schedules_and_forward_process_equal_diffusers(ours, beta_schedule):
    theirs = diffusers.DDPMScheduler(1000, 1e-4, 0.02, beta_schedule)
    np.testing.assert_allclose(ours.alpha_bar[1:], theirs.alphas_cumprod, rtol=2e-4)  # theirs is a float32 product
    steps, signal = samplers.ddim(ours, 100), np.sqrt(ours.alpha_bar[100])
    noise = (samplers.diffuse(steps, X, XI) - signal * X) / np.sqrt(1 - ours.alpha_bar[100])
    noised = theirs.add_noise(torch.tensor(np.asarray(X)), torch.tensor(np.asarray(noise)), torch.tensor(99))
    moved = partial(samplers.diffuse, steps, xi=XI)
    np.testing.assert_allclose(moved(X), noised, atol=2e-5)  # float32
    np.testing.assert_allclose(moved(X + 1) - moved(X), np.full(SHAPE, signal), atol=2e-5)
