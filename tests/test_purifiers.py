"""The purifier's contract, over a table of all purifiers: a new member is covered by being in it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import purimetry as pm
from purimetry.compression import randomness
from purimetry.compression.callables import as_pytree
from purimetry.compression.networks.convolution import convolve
from purimetry.compression.networks.pure import blueprint
from purimetry.compression.purifiers.diffusion import first_bad_step

SCHEDULE = pm.respaced(pm.linear(), 100)


def drawn(build):
    """A network with weights of NumPy's, which compile nothing."""
    draw = np.random.default_rng(0)
    return jax.device_put(jax.tree.map(lambda w: 0.5 * draw.normal(size=w.shape), pm.pure(blueprint(build))))


NETWORK = drawn(partial(pm.UNet, 1, (8, 16), groups=4))
AUTOENCODER = drawn(partial(pm.Autoencoder, (8, 8, 1), 4, channels=(4, 8)))
VARIATIONAL = drawn(partial(pm.Variational, (8, 8, 1), 4, (4, 8)))


def _layer(kernel, x, t):
    return jnp.tanh(convolve(x, kernel) + t / 100)


SMALL = Partial(_layer, jax.device_put(np.sin(np.arange(9)).reshape(3, 3, 1, 1)))
"""Quick to compile."""

PURIFIERS = {
    "identity": pm.identity,
    "ddpm": pm.diffusion(NETWORK, pm.ddpm(SCHEDULE, 4)),
    "reverse": pm.diffusion(NETWORK, pm.reverse_only(SCHEDULE, 4)),
    "ddim": pm.diffusion(NETWORK, pm.ddim(SCHEDULE, 4)),
    "sde": pm.diffusion(SMALL, pm.sde(SCHEDULE, 4)),
    "ode": pm.diffusion(SMALL, pm.ode(SCHEDULE, 4)),
    "heun": pm.diffusion(SMALL, pm.heun(SCHEDULE, 4)),
    "dpm": pm.diffusion(SMALL, pm.dpm(pm.vp(7, 0.15), 7)),
    "dpm, singlestep": pm.diffusion(SMALL, pm.dpm_singlestep(pm.vp(7, 0.15), 7)),
    "one step": pm.diffusion(SMALL, pm.one_step(SCHEDULE, 4)),
    "flow": pm.flow(SMALL, 0.1, 4),
    "ddpm, cosine": pm.diffusion(NETWORK, pm.ddpm(pm.cosine(100), 4)),
    "alp": pm.alp(AUTOENCODER, 0.5),
    "autoencoder": pm.reformer(AUTOENCODER),
    "vae": pm.vae(VARIATIONAL),
    "ddpm, paper's hash": pm.diffusion(SMALL, pm.ddpm(SCHEDULE, 4), randomness.paper_step_key),
}
IMAGES = np.random.default_rng(0).uniform(0, 1, (5, 8, 8, 1)).astype(np.float32)


def keys(name):
    if "hash" in name:
        return jax.vmap(lambda i: randomness.paper_configuration(0, i))(jnp.arange(5))
    return pm.configurations(0, np.arange(5))


@pytest.fixture(params=PURIFIERS, scope="module")
def case(request):
    return request.param, PURIFIERS[request.param], keys(request.param)


def test_keeps_shape_range_and_purity(case):
    _, purifier, xi = case
    pm.check_purifier(purifier, IMAGES, xi)
    once, twice = (pm.purify(purifier, IMAGES, xi) for _ in range(2))
    assert once.dtype == np.float32
    np.testing.assert_array_equal(once, twice)


def test_an_image_does_not_depend_on_its_neighbours(case):
    """Bit for bit, since a shard has one compiled program however many images it holds."""
    _, purifier, xi = case
    together = pm.purify(purifier, IMAGES, xi)
    for i in (0, 3):
        np.testing.assert_array_equal(pm.purify(purifier, IMAGES[i : i + 1], xi[i : i + 1])[0], together[i])


def test_holding_the_key_is_what_fixes_it(case):
    name, purifier, xi = case
    same = pm.purify(purifier, IMAGES[:1].repeat(2, 0), xi[:2])
    assert np.array_equal(same[0], same[1]) == (name in ("identity", "autoencoder"))


@jax.jit
def both_modes(purifier, x, xi, u, v):
    f = lambda x: purifier(x, xi)
    return jnp.vdot(jax.jvp(f, (x,), (v,))[1], u), jnp.vdot(v, jax.vjp(f, x)[1](u)[0])


def test_derivatives_of_both_modes_agree(case):
    """<J v, u> = <v, J^T u>, to float32's rounding over the steps."""
    _, purifier, xi = case
    u, v = np.random.default_rng(1).normal(size=(2, *IMAGES[0].shape)).astype(np.float32)
    forward, reverse = map(float, both_modes(as_pytree(purifier), 0.25 + IMAGES[0] / 2, xi[0], u, v))
    assert abs(forward) > 0.01
    np.testing.assert_allclose(forward, reverse, rtol=1e-4)


def test_zero_steps_change_nothing():
    for sampler in (pm.ddpm, pm.reverse_only, pm.ddim, pm.dpm):
        purifier = pm.diffusion(NETWORK, sampler(SCHEDULE, 0))
        np.testing.assert_array_equal(pm.purify(purifier, IMAGES, keys("")), IMAGES)


def test_other_weights_need_no_other_program():
    from purimetry.compression import batches

    pm.purify(PURIFIERS["ddpm"], IMAGES, keys(""))
    before = batches._over_shard._cache_size()
    other = jax.device_put(jax.tree.map(lambda w: np.float32(0.9) * w, jax.device_get(NETWORK)))
    for steps in (pm.ddpm(SCHEDULE, 4), pm.ddim(SCHEDULE, 4), pm.reverse_only(SCHEDULE, 4)):
        pm.purify(pm.diffusion(other, steps), IMAGES, keys(""))
    assert batches._over_shard._cache_size() == before


def test_a_finite_purifier_has_no_bad_step():
    assert first_bad_step(pm.diffusion(SMALL, pm.ddpm(SCHEDULE, 4)), jnp.asarray(IMAGES[0]), keys("")[0]) is None
