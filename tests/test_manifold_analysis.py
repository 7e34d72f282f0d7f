"""The analysis of a purifier's Jacobian on data whose manifold, and purifier, are known; and steps that are found."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import purimetry as pm
from purimetry.compression.batches import over_images
from purimetry.experiments import diffusion_steps, manifold
from purimetry.theory import low_rank

SHAPE, D, M = (4, 5, 2), 40, 5
RANDOM = np.random.default_rng(0)
SCHEDULE = pm.respaced(pm.linear(), 100)
DATA = low_rank.low_rank(np.zeros(SHAPE), RANDOM.normal(size=(D, M)), 0.05, 1e-7)
STEPS = pm.ddpm(SCHEDULE, 5)


def of_inner_product(weights, x):
    return jnp.stack([weights @ x.ravel(), jnp.zeros(())])


def analysed(measure, weights):
    images = (low_rank.sample(DATA, 3, RANDOM) + 1) / 2
    known = jnp.asarray((low_rank.sample(DATA, 200, RANDOM) + 1) / 2)
    predictor = low_rank.noise_predictor(DATA, SCHEDULE)
    models = manifold.Models(Partial(of_inner_product, jnp.asarray(weights, jnp.float32)), predictor,
                             pm.diffusion(predictor, STEPS), SCHEDULE, known)
    settings = manifold.Settings(dimension=M, neighbours=20, t=2)
    return over_images(partial(measure, settings), (models,), images, np.zeros(3, np.int32),
                       pm.configurations(0, np.arange(3)))


@pytest.mark.parametrize("measure, error", [(manifold._whole, 1e-4), (manifold._probed, 0.15)])
def test_it_finds_the_rates_and_the_directions_of_a_known_purifier(measure, error):
    """Whole Jacobians are known to float32; 16 probes of 5 equal directions to sqrt(2 / (16 5)) / 2 = 8 %."""
    spectrum = low_rank.purification(DATA, SCHEDULE, STEPS).spectrum
    on, off = spectrum.rates
    found = analysed(measure, DATA.basis @ RANDOM.normal(size=M))
    np.testing.assert_allclose(found["left_random"], spectrum.rms_rate, rtol=error)
    for tangent in manifold.TANGENTS:
        np.testing.assert_allclose(found[f"left_on_{tangent}"], on, rtol=1e-3)
        np.testing.assert_allclose(found[f"left_off_{tangent}"], off, atol=0.01 * on)
        np.testing.assert_allclose(found[f"overlap_{tangent}"], 1, rtol=1e-3)
        np.testing.assert_allclose(found[f"share_{tangent}_adversarial"], 1, rtol=1e-3)
    np.testing.assert_allclose(found["left_adversarial"], on, rtol=1e-3)
    np.testing.assert_allclose(found["share_after"], 1, rtol=1e-3)
    np.testing.assert_allclose(found["singular_values"][:, 0], on, rtol=1e-4)


def test_a_gradient_across_the_manifold_is_off_it_until_the_purifier_turns_it():
    on, off = low_rank.purification(DATA, SCHEDULE, STEPS).spectrum.rates
    along, across = DATA.basis[:, 0], np.linalg.qr(np.c_[DATA.basis, RANDOM.normal(size=D)])[0][:, -1]
    found = analysed(manifold._whole, along + across)
    # The estimated tangent space is off by the ratio of the data's deviations, 0.0014, a few times.
    np.testing.assert_allclose(found["share_data_bare"], 0.5, atol=0.01)
    np.testing.assert_allclose(found["share_data_adversarial"], on**2 / (on**2 + off**2), atol=0.01)
    effects = manifold.effects(found, M / D)
    np.testing.assert_allclose(effects["bare_on"], 0.5 * D / M, rtol=0.02)
    np.testing.assert_allclose(effects["selective"], off / on, atol=0.01)
    assert effects.keys() == manifold.CLAIMS.keys()


def test_steps_where_a_rate_turns_and_where_there_is_none():
    on, off = np.full((3, 4), 0.9), np.full((3, 4), 0.5)
    assert diffusion_steps.turn(np.linspace(0.5, 0.9, 4) + np.zeros((3, 1)), on, off) == 3
    assert diffusion_steps.turn(off, on, off) == 5 and diffusion_steps.crossing(off, on) == 5
