"""Rates of single steps against Gaussian data, exact Jacobians, and the purifier as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import manifold, samplers, step_rates
from purimetry.theory import directions, first_order
from purimetry.theory import low_rank as theory
from purimetry.theory.spectrum import history

SHAPE, D, M = (4, 4, 1), 16, 3
SCHEDULE = pm.linear(50, 1e-3, 0.1)
RANDOM = np.random.default_rng(0)
DATA = theory.low_rank(np.full(SHAPE, 0.2), RANDOM.normal(size=(D, M)), 0.5, 0.01)
BASIS = jnp.asarray(DATA.basis, jnp.float32)
OPTIMAL = theory.noise_predictor(DATA, SCHEDULE)
WEIGHTS = jnp.asarray(RANDOM.normal(size=(D, D)) / 3, jnp.float32)
KINDS = sorted(samplers.SAMPLERS)
COMPILED = jax.jit(step_rates.step_rates)
X, KEY = jnp.asarray(RANDOM.uniform(0.3, 0.7, SHAPE), jnp.float32), pm.configuration(0, 0)


def crooked(x, t):
    """A predictor whose Jacobian is neither symmetric nor the same everywhere."""
    return (WEIGHTS @ jnp.tanh(x.ravel()) + t * 0.01).reshape(x.shape)


def measured(predictor, kind, t_star, perturbations):
    purifier = pm.diffusion(predictor, samplers.SAMPLERS[kind](SCHEDULE, t_star))
    return COMPILED(purifier, X, KEY, perturbations)


def reverse_gains(kind, t_star):
    steps = samplers.SAMPLERS[kind](SCHEDULE, t_star)
    return directions.sampler_steps(DATA.variances, SCHEDULE, steps).gain[t_star:]


@pytest.mark.parametrize("kind", KINDS)
def test_on_and_off_the_manifold_gaussian_data_have_the_steps_own_gains(kind):
    """Inside either space J_t is a multiple of the identity, so a few perturbations are exact, and have no error."""
    gains = reverse_gains(kind, 20)
    forward = 1 if kind == "reverse" else np.sqrt(SCHEDULE.alpha_bar[20])
    for column, perturbations in enumerate((manifold.inside(BASIS, X, KEY, 3), manifold.outside(BASIS, X, KEY, 3))):
        found = measured(OPTIMAL, kind, 20, perturbations)
        np.testing.assert_allclose(found.local.mean, gains[:, column], rtol=2e-5)  # float32 products
        np.testing.assert_allclose(found.first_order.mean, gains[:, column], rtol=2e-5)
        np.testing.assert_allclose(found.travelling, gains[:, column], rtol=1e-4)
        whole = forward * np.cumprod(np.append(1, gains[:, column]))
        np.testing.assert_allclose(found.cumulative.mean, whole, rtol=1e-4)
        # Of the difference of squares that the error is made from, rounding leaves 1e-6 of the rate.
        assert all((np.asarray(e.se) < 2e-5 * np.asarray(e.mean)).all() for e in found[1:])


def test_isotropic_rates_are_the_theorys_history_within_their_errors():
    """Local, first-order, travelling and cumulative rates of an isotropic perturbation, 4 standard errors each."""
    gains, perturbations = reverse_gains("ddpm", 20), manifold.isotropic(X, KEY, 400)
    found, closed = jax.device_get(measured(OPTIMAL, "ddpm", 20, perturbations)), history(gains, DATA.multiplicity)
    whole = np.sqrt(SCHEDULE.alpha_bar[20]) * closed.cumulative
    for estimate, exact in ((found.local, closed.isotropic), (found.first_order, closed.first_order),
                            (found.cumulative, whole)):
        assert (np.abs(estimate.mean - exact) <= 4 * estimate.se + 1e-5).all()
    np.testing.assert_allclose(found.travelling, closed.perturbation, rtol=0.05)
    np.testing.assert_allclose(found.travelling[-1], gains[-1, 0], rtol=0.01)  # only what is on the manifold is left
    np.testing.assert_allclose(found.forward, np.sqrt(SCHEDULE.alpha[:20]), rtol=1e-6)


def test_rates_of_a_crooked_predictor_are_those_of_its_jacobians():
    """The exact Frobenius form and Eq. 16 from the Jacobian at each state of the trajectory."""
    t_star, steps = 6, samplers.ddpm(SCHEDULE, 6)
    found = jax.device_get(measured(crooked, "ddpm", t_star, manifold.isotropic(X, KEY, 1000)))
    path = jax.device_get(jax.jit(pm.trajectory)(pm.diffusion(crooked, steps), X, KEY))
    states = 2 * np.concatenate([path.forward[-1:], path.reverse[:-1]]).reshape(t_star, D) - 1
    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda v, time: crooked(v.reshape(SHAPE), time).ravel())))
    product = np.sqrt(SCHEDULE.alpha_bar[t_star]) * np.eye(D)
    factors = steps.state.tolist(), steps.prediction.tolist(), np.asarray(jacobians(states, steps.time))
    for i, (state, prediction, jacobian) in enumerate(zip(*factors, strict=True)):
        exact = first_order.rate(state, prediction, jacobian)
        assert abs(found.local.mean[i] - exact.exact) < 4 * found.local.se[i]
        assert abs(found.first_order.mean[i] - exact.first_order) < 4 * found.first_order.se[i]
        product = (state * np.eye(D) + prediction * jacobian) @ product
        whole = np.linalg.norm(product) / D**0.5
        assert abs(found.cumulative.mean[i + 1] - whole) < 4 * found.cumulative.se[i + 1]


def test_the_last_cumulative_rate_is_the_purifiers_rms_rate():
    steps = samplers.ddpm(SCHEDULE, 6)
    found = jax.device_get(measured(crooked, "ddpm", 6, manifold.isotropic(X, KEY, 1000)).cumulative)
    unclipped = lambda x, key: (samplers.run(steps, crooked, 2 * x - 1, key) + 1) / 2
    whole = float(jax.jit(lambda x, key: pm.rms_rate(pm.jacobian(unclipped, x, key)))(X, KEY))
    assert abs(found.mean[-1] - whole) < 4 * found.se[-1]


def test_errors_are_the_spread_of_the_estimates():
    of = lambda key: measured(crooked, "ddim", 3, manifold.outside(BASIS, X, key, 16))
    found = jax.device_get(jax.jit(jax.vmap(of))(pm.configurations(5, np.arange(400))))
    for estimate in (found.local, found.first_order, found.cumulative):
        # A standard deviation of 400 values is known to 3.5 %, an error from 16 draws to 18 % / 20; x 4.
        np.testing.assert_allclose(estimate.mean.std(0, dtype=float), estimate.se.mean(0), rtol=0.18, atol=1e-6)


def test_the_lengths_of_perturbations_do_not_matter():
    perturbations = manifold.isotropic(X, KEY, 1000)
    one, other = (measured(crooked, "ddpm", 6, scale * perturbations) for scale in (1.0, 0.01))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9), one, other)


def test_no_steps_have_no_rates():
    found = measured(crooked, "ddpm", 0, manifold.isotropic(X, KEY, 4))
    assert found.local.mean.shape == found.forward.shape == (0,)
    np.testing.assert_allclose(found.cumulative.mean, [1], rtol=1e-6)


def test_what_has_no_steps_or_no_spread_is_refused():
    with pytest.raises(TypeError, match="made by `diffusion`"):
        step_rates.step_rates(pm.identity, X, KEY, manifold.isotropic(X, KEY, 4))
    with pytest.raises(ValueError, match="at least 2 perturbations, got 1"):
        measured(crooked, "ddpm", 3, manifold.isotropic(X, KEY, 1))
