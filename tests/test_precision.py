"""A denoiser in bfloat16 inside a sampler in float32: the same purifier up to the rounding of 8 bits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from purimetry.compression import denoisers, losses, randomness, rates, samplers, schedules
from purimetry.compression.data.digits import digits
from purimetry.compression.networks.normalisation import GroupNorm
from purimetry.compression.networks.precision import in_precision
from purimetry.compression.networks.pure import blueprint, pure
from purimetry.compression.networks.unet import UNet
from purimetry.compression.purifiers import flow
from purimetry.compression.purifiers.diffusion import diffusion
from purimetry.experiments.configuration import Configuration

X = jax.device_put(digits().test_images[0])
XI = randomness.configuration(0, 0)

ROUNDING = 2.0**-8
"""Of one number in bfloat16, relative, at most; a root-mean-square is 1 / sqrt(3) of it."""

LAYERS = 20
"""Products one after the other in the UNet below: 5 blocks of 3, time, in, out, and two between levels."""


DRAW, EMPTY = np.random.default_rng(0), pure(blueprint(partial(UNet, 1, (8, 16))))
UNET = jax.device_put(jax.tree.map(lambda w: 0.5 * DRAW.normal(size=w.shape), EMPTY))
NARROW = jax.jit(lambda network: in_precision(network, jnp.bfloat16))(UNET)


def distance(a, b):
    return np.linalg.norm(np.subtract(a, b)) / np.linalg.norm(b)


def test_weights_and_arithmetic_are_bfloat16_and_the_output_is_not():
    assert {leaf.dtype for leaf in jax.tree.leaves(NARROW)} == {jnp.dtype(jnp.bfloat16)}
    inside = jax.make_jaxpr(NARROW.network)(X.astype(jnp.bfloat16), jnp.float32(5))
    convolutions = [equation for equation in inside.eqns if str(equation.primitive) == "convolve_3x3"]
    assert convolutions and all(each.outvars[0].aval.dtype == jnp.bfloat16 for each in convolutions)
    assert jax.eval_shape(NARROW, X, jnp.float32(5)).dtype == jnp.float32


def test_the_sampler_around_it_is_float32():
    """With a predictor of zero nothing is rounded, bit for bit."""
    steps = samplers.ddpm(schedules.respaced(schedules.linear(), 100), 3)
    zero = lambda x, t: 0 * x
    narrow, full = (jax.jit(diffusion(f, steps))(X, XI) for f in (in_precision(zero, jnp.bfloat16), zero))
    np.testing.assert_array_equal(narrow, full)


def test_prediction_gradient_and_rate_agree_to_eight_bits():
    """Two roundings a layer, of weights and of activations, add up like a random walk: sqrt(2 LAYERS) of them.

    A gradient comes back through as many layers, so its walk is twice as long. The sampler adds its coefficient times
    the prediction to the image, so of both only that part reaches the purifier.
    """
    classifier = lambda x: x.reshape(-1)[20:30]
    steps = samplers.ddpm(schedules.respaced(schedules.linear(), 100), 2)

    @jax.jit
    def measured(network):
        purifier = diffusion(network, steps)
        loss = losses.defended(classifier, purifier, jnp.int32(1), losses.cross_entropy)
        rate = rates.expected_rates(purifier, X, XI, 0.1, draws=4).l2.mean
        return network(2 * X - 1, jnp.float32(5)), jax.grad(lambda x: loss(x, XI).ascent)(X), rate

    narrow, full = measured(NARROW), measured(UNET)
    walk, reach = (2 * LAYERS) ** 0.5 * ROUNDING, np.abs(steps.prediction).sum()
    errors = [distance(a, b) for a, b in zip(narrow, full, strict=True)]
    assert 1e-4 < errors[0] < walk  # more than float32's rounding: it did take place
    assert errors[1] < 2**0.5 * walk * reach
    assert errors[2] < walk * reach


def waved(weight, x, t):
    return jnp.sin(weight * x + t)


def scaled(factor, predictor, x, t):
    return factor * predictor(x, t)


SCHEDULE = schedules.linear()
FORMULAS = {
    "v": partial(denoisers.from_v, schedule=SCHEDULE), "x_0": partial(denoisers.from_x0, schedule=SCHEDULE),
    "score": partial(denoisers.from_score, schedule=SCHEDULE), "noise of a velocity": flow.noise_of,
    "velocity of noise": partial(flow.velocity_of, process=SCHEDULE),
    "one of another": lambda network: flow.noise_of(flow.velocity_of(network, SCHEDULE)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_of_what_is_made_of_a_network_the_network_alone_is_rounded(name):
    """Bit for bit: not the schedule in it, whose noise at t = 99 is known to 8 bits otherwise, nor the image."""
    formula, network = FORMULAS[name], Partial(waved, jnp.float32(0.7))
    ours, theirs = (jax.jit(lambda f: f(X, jnp.float32(99)))(made) for made in (
        in_precision(formula(network), jnp.bfloat16), formula(in_precision(network, jnp.bfloat16))))
    np.testing.assert_array_equal(ours, theirs)
    assert distance(ours, formula(network)(X, jnp.float32(99))) > 1e-4  # it did take place


def test_a_schedule_stays_as_it_is_inside_of_other_functions_too():
    """Which are rounded with their image and weights, and an equal one made anew finds the compiled program."""
    made = lambda: Partial(scaled, jnp.float32(2), FORMULAS["v"](Partial(waved, jnp.float32(0.7))))
    narrow = [in_precision(made(), jnp.bfloat16) for _ in range(2)]
    dtypes = [leaf.dtype.name for leaf in jax.tree.leaves(narrow[0])]
    assert dtypes == ["bfloat16", "bfloat16", "float32", "float32", "float32"]
    predicted = jax.jit(lambda f: f(X, jnp.float32(99)))
    for each in narrow:
        predicted(each)
    assert predicted._cache_size() == 1


def test_a_normalisation_sums_in_float32():
    """The mean of 4,096 equal numbers and a few larger ones, which sums of 8 bits would lose."""
    norm, x = jax.jit(lambda x: GroupNorm(2, 1, rngs=nnx.Rngs(0))(x)), np.ones((64, 32, 2), jnp.bfloat16)
    x[:4] = 1.5
    narrow = norm(x)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(narrow), norm(np.float32(x)), rtol=ROUNDING)


def test_times_are_not_rounded():
    """999 would be 1000 in bfloat16, and 257 would be 256."""
    predicted = jax.jit(lambda t: NARROW(X, t))
    assert not np.array_equal(predicted(jnp.float32(256)), predicted(jnp.float32(257)))


def test_the_precision_is_a_run_s_option_and_recorded():
    assert Configuration(precision="bfloat16").determinants()["precision"] == "bfloat16"
    assert Configuration(batch=8).determinants() == Configuration().determinants()
    with pytest.raises(ValueError, match="--batch is at least 1, got 0"):
        Configuration(batch=0)
