"""Variance decomposition, directions and radii against linear purifiers, brute force and the Gaussian theory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import variance
from purimetry.theory import low_rank as theory
from purimetry.theory.spectrum import uniform_variance

KEY, KEYS = pm.configuration(0, 0), pm.configurations(0, np.arange(40))
RANDOM = np.random.default_rng(0)
TABLE = np.float32(RANDOM.normal(size=(5, 4, 3)))
X = jnp.full((4, 4, 1), 0.5)
stochasticity = jax.jit(variance.stochasticity, static_argnames=("purifier", "inputs", "configurations"))
mean_over_pairs = jax.jit(variance.mean_over_pairs)


def within_four_errors(values, expected, slack=0.0):
    """values: one an independent key."""
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / len(values) ** 0.5 + slack


def test_both_orders_of_the_law_of_total_variance_give_the_same_unbiased_total():
    """A pair that shares neither configuration nor input differs by twice the total variance, in expectation."""
    y = np.float64(TABLE)
    found, swapped = jax.jit(lambda y: (variance.variances(y), variance.variances(y.swapaxes(0, 1))))(TABLE)
    unlike = [((y[i, j] - y[k, m]) ** 2).mean() / 2
              for i in range(5) for k in range(5) for j in range(4) for m in range(4) if i != k and j != m]
    same_configuration = [((y[i, j] - y[i, m]) ** 2).mean() / 2 for i in range(5) for j in range(4) for m in range(j)]
    np.testing.assert_allclose(found.total, np.mean(unlike), rtol=1e-5)  # float32
    np.testing.assert_allclose(swapped.total, np.mean(unlike), rtol=1e-5)
    np.testing.assert_allclose(found.input, np.mean(same_configuration), rtol=1e-5)
    np.testing.assert_allclose(found.interaction, swapped.interaction, rtol=1e-5)
    np.testing.assert_allclose(swapped.internal, found.input - found.interaction, atol=1e-5)


def test_components_of_a_random_table_are_recovered_without_bias():
    """Configurations, inputs and their interaction with variances 4, 1 and 2, in tables as small as 3 x 2."""
    tables = (2 * RANDOM.normal(size=(2000, 3, 1, 5)) + RANDOM.normal(size=(2000, 1, 2, 5))
              + 2**0.5 * RANDOM.normal(size=(2000, 3, 2, 5)))
    found = jax.jit(jax.vmap(variance.variances))(tables)
    within_four_errors(found.input, 1 + 2)
    within_four_errors(found.internal, 4)
    within_four_errors(found.interaction, 2)
    within_four_errors(found.total, 7)


def test_a_linear_purifier_with_additive_noise_has_its_closed_form():
    """f = A x + s z: the input variance is eps^2 / 3 ||A||_F^2 / d, the internal one s^2, and nothing interacts."""
    matrix, s, eps = np.float32(RANDOM.normal(size=(16, 16)) / 4), 0.1, 0.2
    purifier = lambda x, key: (matrix @ x.ravel()).reshape(x.shape) + s * jax.random.normal(key, x.shape)
    measure = partial(variance.stochasticity, purifier, X, eps=eps, inputs=6, configurations=8)
    found = jax.jit(jax.vmap(lambda key: measure(key=key)))(KEYS)
    within_four_errors(found.variances.input, uniform_variance(eps) * float((matrix**2).sum()) / 16)
    within_four_errors(found.variances.internal, s**2)
    assert np.abs(found.variances.interaction).max() < 1e-12  # rounding of f, about 1e-7, squared


def test_randomness_that_meets_the_input_is_interaction():
    """f = (1 + s g) x with one scalar g a key: Var_xi E_x = s^2 x^2, and the inputs' v scale with E (1 + s g)^2."""
    s, eps = 0.5, 0.3
    purifier = lambda x, key: (1 + s * jax.random.normal(key)) * x
    measure = partial(variance.stochasticity, purifier, X, eps=eps, inputs=4, configurations=5)
    found = jax.jit(jax.vmap(lambda key: measure(key=key)))(pm.configurations(1, np.arange(2000))).variances
    within_four_errors(found.interaction, s**2 * uniform_variance(eps))
    within_four_errors(found.input, (1 + s**2) * uniform_variance(eps))
    within_four_errors(found.internal, s**2 * 0.25)


def test_gaussian_data_have_the_theorys_signal_to_noise_ratio():
    schedule, data = pm.respaced(pm.linear(), 100), theory.low_rank(np.zeros((4, 4, 1)), np.eye(16, 3), 0.05, 0.001)
    steps, eps = pm.ddpm(schedule, 20), 0.1
    purifier = pm.diffusion(theory.noise_predictor(data, schedule), steps)
    measure = partial(variance.stochasticity, purifier, X, eps=eps, inputs=6, configurations=10)
    found = jax.jit(jax.vmap(lambda key: measure(key=key)))(KEYS).variances
    closed = theory.purification(data, schedule, steps).spectrum.variances(uniform_variance(eps))
    # 20 steps of float32 leave 1e-6 relative; the clip to [0, 1] is more than 4 standard deviations away.
    within_four_errors(found.input, closed.input / 16)
    within_four_errors(found.internal, closed.internal / 16)
    ratio = np.asarray(found.input).mean() / np.asarray(found.internal).mean()
    np.testing.assert_allclose(ratio, closed.snr, rtol=0.15)  # 40 x 10 draws of 3 dominant directions: 4 %, 4 times


def test_radii_are_the_variances_before_correction():
    purifier = lambda x, key: x / 4 + 0.2 * jax.random.normal(key, x.shape)
    found = jax.device_get(stochasticity(purifier, X, KEY, 0.1, inputs=5, configurations=7))
    square = lambda distances: (np.asarray(distances, np.float64) ** 2).mean() / 16
    v = found.variances
    np.testing.assert_allclose(square(found.radii.fixed_randomness), v.input * 4 / 5, rtol=1e-4)  # float32
    np.testing.assert_allclose(square(found.radii.fixed_input), (v.internal + v.interaction) * 6 / 7, rtol=1e-4)
    np.testing.assert_allclose(found.radii.fixed_randomness, np.tile(found.radii.initial / 4, (7, 1)), rtol=1e-4)
    y = np.float64(TABLE)
    np.testing.assert_allclose(jax.jit(variance.radii)(TABLE[0], TABLE).vary_both,
                               np.linalg.norm(y - y.reshape(-1, 3).mean(0), axis=-1), rtol=1e-5)


def test_correlations_of_directions_are_those_of_numpy():
    inputs = np.float32(RANDOM.normal(size=(4, 3)))
    found = jax.jit(variance.correlations)(inputs, TABLE)
    directions = np.float64(TABLE - inputs)
    by_input = np.mean([np.corrcoef(directions[:, j]) for j in range(4)], 0)
    by_configuration = np.mean([np.corrcoef(directions[i]) for i in range(5)], 0)
    np.testing.assert_allclose(found.fixed_input, by_input, atol=1e-5)
    np.testing.assert_allclose(found.fixed_randomness, by_configuration, atol=1e-5)
    pairs = [by_input[i, k] for i in range(5) for k in range(i)]
    np.testing.assert_allclose(mean_over_pairs(found.fixed_input), np.mean(pairs), rtol=1e-5)


@pytest.mark.parametrize("purifier, expected", [
    (lambda x, key: x + jax.random.normal(key, x.shape), (0, 1)),  # the direction is the noise of xi
    (lambda x, key: jnp.linspace(0, 1, x.size).reshape(x.shape), (1, 1)),  # all but the same direction, at small eps
    (pm.identity, (0, 0)),
])
def test_limits_of_randomness(purifier, expected):
    found = stochasticity(purifier, X, KEY, 1e-3, inputs=20, configurations=20).correlations
    means = [mean_over_pairs(matrix) for matrix in found]
    # Correlations of 190 pairs in 16 pixels: 1 / sqrt(15 * 190) = 0.02, four times.
    np.testing.assert_allclose(means, expected, atol=0.08)


def test_a_purifier_without_randomness_has_no_internal_variance():
    found = stochasticity(lambda x, key: x / 2, X, KEY, 0.1, inputs=4, configurations=3)
    assert abs(float(found.variances.internal)) < 1e-12 and (np.asarray(found.radii.fixed_input) < 1e-6).all()
    assert float(jax.jit(lambda variances: variances.snr)(found.variances)) == np.inf
    np.testing.assert_allclose(found.radii.vary_both, found.radii.fixed_randomness, rtol=1e-5)


@pytest.mark.parametrize("counts", [dict(inputs=1), dict(configurations=1)])
def test_one_of_either_has_no_variance(counts):
    with pytest.raises(ValueError, match="at least 2 inputs and 2 configurations"):
        variance.stochasticity(pm.identity, X, KEY, 0.1, **counts)
