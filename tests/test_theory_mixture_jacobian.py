"""The closed-form Jacobian of a mixture's purifier against autodiff and its limits."""

from functools import partial

import jax
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression.samplers import SAMPLERS
from purimetry.theory import directions, mixture, mixture_jacobian

SHAPE, D = (2, 3, 2), 12
RANDOM = np.random.default_rng(0)
SCHEDULE, KEY = pm.respaced(pm.linear(), 100), pm.configuration(0, 0)
X = np.float32(RANDOM.uniform(0.4, 0.6, SHAPE))
MEANS = RANDOM.uniform(-0.3, 0.3, (4, *SHAPE))


TRAJECTORY, JACOBIAN = jax.jit(pm.trajectory), jax.jit(mixture_jacobian.purification_jacobian)
AUTODIFF = jax.jit(pm.jacobian)


def closed(data, kind, x=X):
    steps = SAMPLERS[kind](SCHEDULE, 12)
    purifier = pm.diffusion(mixture.noise_predictor(data, SCHEDULE), steps)
    path = jax.device_get(TRAJECTORY(purifier, x, KEY))
    states = 2 * np.concatenate([path.forward[-1:], path.reverse[:-1]]) - 1
    levels = directions.noise_levels(SCHEDULE)
    basis = mixture_jacobian.mean_differences(data)
    return purifier, JACOBIAN(data, levels, steps, basis, states)


@pytest.mark.parametrize("kind", sorted(SAMPLERS))
def test_it_is_the_jacobian_by_autodiff(kind):
    purifier, found = closed(mixture.mixture(np.arange(1, 5), MEANS, 0.02), kind)
    basis, matrix = np.asarray(found.basis), np.asarray(AUTODIFF(purifier, X, KEY), np.float64)
    off = np.eye(D) - basis @ basis.T
    np.testing.assert_allclose(basis @ found.within @ basis.T + found.outside * off, matrix, atol=2e-5)  # float32
    np.testing.assert_allclose(found.spectrum.rms_rate, np.linalg.norm(matrix) / np.sqrt(D), rtol=1e-4)
    v = RANDOM.normal(size=(3, D))
    np.testing.assert_allclose(found.pull(v), v @ matrix, atol=1e-4)
    # The posterior is undecided here, so that the means' directions matter.
    assert np.abs(np.diag(found.within) - found.outside).max() > 0.05


def test_rates_of_a_step_are_the_norm_and_the_trace_of_its_jacobian():
    data = mixture.mixture(np.ones(4), MEANS, 0.02)
    _, found = closed(data, "ddpm")
    steps = SAMPLERS["ddpm"](SCHEDULE, 12)
    purifier = pm.diffusion(mixture.noise_predictor(data, SCHEDULE), steps)
    x_t = 2 * np.asarray(TRAJECTORY(purifier, X, KEY).forward)[-1] - 1
    predictor = partial(mixture.noise_predictor(data, SCHEDULE), t=steps.time[0])
    predicted = jax.jit(partial(pm.jacobian, lambda x, key: predictor(x)))(x_t, KEY)
    jacobian = steps.state[0] * np.eye(D) + steps.prediction[0] * np.asarray(predicted)
    np.testing.assert_allclose(found.first_order[0], np.trace(jacobian) / D, rtol=1e-5)
    np.testing.assert_allclose(found.isotropic[0], np.linalg.norm(jacobian) / np.sqrt(D), rtol=1e-5)


def test_a_sure_posterior_compresses_like_its_component_alone():
    _, found = closed(mixture.mixture(np.ones(2), np.stack([-50 + 0 * MEANS[0], MEANS[0]]), 0.02), "ddim")
    steps = SAMPLERS["ddim"](SCHEDULE, 12)
    alone = directions.composed(directions.sampler_steps(np.array([0.02]), SCHEDULE, steps)).gain
    np.testing.assert_allclose(found.outside, alone[0], rtol=1e-4)  # float32, 24 steps
    np.testing.assert_allclose(found.spectrum.expected_rate, alone[0], rtol=1e-4)


def test_components_of_several_variances_are_refused():
    with pytest.raises(ValueError, match="share one variance, got 0.1..0.2"):
        mixture_jacobian.mean_differences(mixture.mixture(np.ones(2), MEANS[:2], np.array([0.1, 0.2])))
