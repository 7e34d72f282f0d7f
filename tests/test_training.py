"""The training loop: a function of its seed, resumable bit for bit, with known minima and a moving average."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purimetry.compression import schedules
from purimetry.compression.networks.pure import pure
from purimetry.compression.training import losses, loop

IMAGES = jax.device_put(np.random.default_rng(0).uniform(size=(20, 2, 2, 1)))
LABELS = jax.device_put(np.arange(20) % 3)
RECIPE = loop.Recipe(steps=12, batch=4, learning_rate=1e-2, ema=0.5)
NETWORK = jax.jit(lambda: pure(nnx.Linear(4, 1, rngs=nnx.Rngs(0))))()


def regression(network, x, label, key):
    noisy = x + 0.1 * jax.random.normal(key, x.shape)
    return (network(noisy.reshape(-1))[0] - x.mean() - label) ** 2


def diverges(network, x, label, key):
    return jnp.where(label >= 0, jnp.nan, 1.0) * network(x.reshape(-1))[0]


def overflows(network, x, label, key):
    return jnp.float32(1e38) * 10 * (2 + jnp.tanh(network(x.reshape(-1))[0]))


def fit(seed=0, state=None, on_step=lambda state, loss: None, recipe=RECIPE, loss=regression):
    return loop.fit(NETWORK, loss, IMAGES, LABELS, recipe, seed, state, on_step)


def assert_same_bits(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_is_a_function_of_its_seed():
    assert_same_bits(fit(seed=3), fit(seed=3))
    three, four = (jax.tree.leaves(fit(seed=seed)) for seed in (3, 4))
    assert not any(map(np.array_equal, three, four))


@pytest.mark.parametrize("drawn", [lambda x, key: x.sum(), lambda x, key: jax.random.uniform(key)],
                         ids=["batch", "noise"])
def test_every_step_draws_its_own_batch_and_noise(drawn):
    values = []
    fit(loss=lambda network, x, label, key: drawn(x, key), on_step=lambda state, value: values.append(value))
    assert len(set(values)) == RECIPE.steps


@pytest.mark.parametrize("step", [0, 5, 11])
def test_a_resumed_run_ends_with_the_same_bits(step):
    states, values = [loop.start(NETWORK, RECIPE)], []
    whole = fit(on_step=lambda state, value: (states.append(state), values.append(value)))
    later = []
    saved = jax.tree.map(np.asarray, states[step])  # as it comes back from a file
    resumed = fit(state=saved, on_step=lambda state, value: later.append(value))
    assert_same_bits(whole, resumed)
    assert later == values[step:] and len(values) == RECIPE.steps


def test_the_result_is_the_moving_average_of_the_weights():
    """average_k = d_k average_{k-1} + (1 - d_k) weights_k with d_k = min(ema, (1 + k) / (10 + k)), k from 0."""
    states = []
    trained = fit(on_step=lambda state, value: states.append(state))
    average = jax.tree.map(np.float64, NETWORK.state)
    for k, state in enumerate(states):
        decay = min(RECIPE.ema, (1 + k) / (10 + k))
        average = jax.tree.map(lambda a, w, d=decay: d * a + (1 - d) * np.float64(w), average, state.weights)
    assert decay == RECIPE.ema  # both branches of the minimum have been met
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), trained.state, average)  # float32


def test_training_reaches_a_known_minimum():
    """mean(x) is linear in z = 4x - 2, so the squared error's minimum is 0, at weights 1/16 and bias 1/2."""
    recipe = loop.Recipe(steps=300, batch=20, learning_rate=3e-2, ema=0.9)
    trained = loop.fit(NETWORK, _to_mean, IMAGES, LABELS, recipe, seed=0)
    np.testing.assert_allclose(trained.state["kernel"][...][:, 0], np.full(4, 1 / 16), atol=1e-3)  # Adam, 300 steps
    np.testing.assert_allclose(trained.state["bias"][...], [0.5], atol=1e-3)


def _to_mean(network, x, label, key):
    return (network(4 * x.reshape(-1) - 2)[0] - x.mean()) ** 2


@pytest.mark.parametrize("loss, value", [(diverges, "nan"), (overflows, "inf")])
def test_a_loss_that_is_not_finite_stops_the_run(loss, value):
    with pytest.raises(FloatingPointError, match=f"became {value} at step 1; lower the learning rate"):
        fit(loss=loss)


def test_bytes_train_as_the_pixels_that_they_are():
    """Every level to the bit; the runs to float32, as their programs differ."""
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(jax.jit(loop._pixels)(jnp.asarray(levels)), levels / np.float32(255))
    stored = np.random.default_rng(0).integers(0, 256, (20, 2, 2, 1), dtype=np.uint8)
    runs = [loop.fit(NETWORK, regression, jnp.asarray(images), LABELS, RECIPE, 0)
            for images in (stored, stored / np.float32(255))]
    for one, other in zip(*map(jax.tree.leaves, runs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_noise_prediction_is_zero_for_the_noise_and_one_for_nothing():
    """At a known image the noise is (x_t - sqrt(ab) (2x - 1)) / sqrt(1 - ab); predicting 0 leaves its variance, 1."""
    schedule = schedules.respaced(schedules.linear(100, 1e-2, 0.1), 50)  # its times are not its steps
    loss = losses.noise_prediction(schedule)
    x = jax.device_put(np.random.default_rng(1).uniform(size=(4, 4, 1)))

    def exact(x_t, t):
        ab = jnp.asarray(schedule.alpha_bar, jnp.float32)[jnp.searchsorted(jnp.asarray(schedule.time), t)]
        return (x_t - jnp.sqrt(ab) * (2 * x - 1)) / jnp.sqrt(1 - ab)

    keys = jax.random.split(jax.random.key(2), 500)
    over = lambda network: np.asarray(jax.jit(jax.vmap(partial(loss, network, x, jnp.int32(0))))(keys))
    assert over(exact).max() < 1e-9  # squares of float32 rounding
    values = over(lambda x_t, t: 0 * x_t)
    assert abs(values.mean() - 1) < 4 * np.sqrt(2 / (500 * 16))  # chi-squared: variance 2 an element


def test_flow_matching_is_zero_for_the_velocity_and_least_for_its_posterior_mean():
    """Of pixels N(0, s^2) in [-1, 1] that mean is linear, and what it leaves of the velocity orthogonal to all else."""
    s, n = 0.4, 2000
    images = np.float32(0.5 + s / 2 * np.random.default_rng(1).normal(size=(n, 2, 2, 1)))
    keys = jax.random.split(jax.random.key(2), n)
    one = lambda network, x, key: losses.flow_matching(network, x, jnp.int32(0), key)
    over = lambda network: np.asarray(jax.jit(jax.vmap(partial(one, network)))(images, keys))

    def optimal(x_t, time, scale=1.0):
        t = time / 999
        return scale * (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2) * x_t

    other = lambda change, scale: lambda x, t: optimal(x, t, scale) + change * jnp.cos(t / 300) * x
    z_scores = []
    for scale in (1.0, 1.1):
        slope = (over(other(0.5, scale)) - over(other(-0.5, scale))) / 2
        z_scores.append(float(slope.mean() / (slope.std() / np.sqrt(n))))
    assert abs(z_scores[0]) < 4 < abs(z_scores[1])  # standard errors

    def exact_one(x, key):
        """Of the only image, so that x_t tells the noise."""
        exact = lambda x_t, time: (x_t - (2 * x - 1)) * 999 / time
        return one(exact, x, key), jax.random.uniform(jax.random.split(key)[0])

    error, t = map(float, jax.jit(exact_one)(images[0], keys[0]))
    assert error < 1e-10 / t**2  # squares of float32 rounding, over t


def test_classification_is_the_cross_entropy_of_a_shifted_image():
    """Uniform logits give log(classes); the shift moves the image by -1, 0 or 1 pixel, each equally often."""
    x = np.float32(np.arange(25) == 12).reshape(5, 5, 1)
    keys = jax.random.split(jax.random.key(3), 900)
    one = lambda network, label: lambda key: losses.classification(network, jnp.asarray(x), jnp.int32(label), key)
    over = lambda network, label: np.asarray(jax.jit(jax.vmap(one(network, label)))(keys))
    uniform = over(lambda x: jnp.zeros(7), 4)
    np.testing.assert_allclose(uniform, np.log(7), rtol=1e-6)
    seen = over(lambda x: -x.reshape(-1), 12)
    still = (seen > 3.7).mean()  # log(24 + 1/e) + 1 = 4.19 where the bright pixel stayed, else 3.19
    assert abs(still - 1 / 9) < 4 * np.sqrt(1 / 9 * 8 / 9 / 900)  # 4 standard errors of a share
