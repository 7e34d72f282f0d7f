"""The randomness configuration xi and the paper's hash (compression_paper Eqs. 23, 24)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purimetry.compression import randomness, samplers, schedules
from purimetry.compression.purifiers.diffusion import diffusion


@pytest.mark.parametrize("s, i, t", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 999, 2001), (7, 123456, 200)])
def test_paper_hash_is_eq_24(s, i, t):
    mask = 2**32 - 1
    expected = (83492791 * s & mask) ^ (73856093 * i & mask) ^ (19349663 * t & mask)
    assert int(randomness.paper_hash(s, i, t)) == expected
    assert int(jax.jit(randomness.paper_hash)(s, i, t)) == expected


def test_paper_hash_collides_where_the_default_does_not():
    """Image 304's forward noise of step 25 is image 313's reverse noise of step 42, under every seed."""
    for seed in (0, 1, 2):
        assert int(randomness.paper_hash(seed, 304, 2 * 25)) == int(randomness.paper_hash(seed, 313, 2 * 42 + 1))
        noises = [
            [jax.random.normal(key(make(seed, index), direction, t), (4,)).tolist()
             for index, direction, t in ((304, randomness.FORWARD, 25), (313, randomness.REVERSE, 42))]
            for make, key in ((randomness.paper_configuration, randomness.paper_step_key),
                              (randomness.configuration, randomness.step_key))
        ]
        assert noises[0][0] == noises[0][1]
        assert noises[1][0] != noises[1][1]


def test_keys_are_distinct_over_seed_index_direction_and_step():
    grid = np.indices((3, 40, 4, 21))[..., 1:].reshape(4, -1)
    drawn = lambda seed, index, direction, t: jax.random.key_data(
        randomness.step_key(randomness.configuration(seed, index), direction, t))
    assert len(np.unique(jax.jit(jax.vmap(drawn))(*grid), axis=0)) == 3 * 40 * 4 * 20
    assert len({randomness.FORWARD, randomness.REVERSE, randomness.ATTACK, randomness.PROBE}) == 4


def test_configurations_are_each_images_own_whatever_their_grouping():
    together = jax.random.key_data(randomness.configurations(5, np.array([9, 2, 7])))
    alone = [jax.random.key_data(randomness.configuration(5, index)) for index in (9, 2, 7)]
    np.testing.assert_array_equal(together, jnp.stack(alone))


def test_paper_scheme_drives_a_purifier():
    """At t* = 1 with a predictor of zero, f_xi(x) = x + sqrt(1/alpha - 1) eps with eps keyed by the hash of 2."""
    schedule = schedules.linear(10, 0.01, 0.02)
    purifier = diffusion(lambda x_t, t: 0 * x_t, samplers.ddpm(schedule, 1), step_key=randomness.paper_step_key)
    purify, normal = jax.jit(purifier), jax.jit(lambda seed: jax.random.normal(jax.random.key(seed), x.shape))
    x = np.full((2, 2, 1), 0.5, np.float32)
    for seed, index in ((0, 0), (1, 3)):
        purified = purify(x, randomness.paper_configuration(seed, index))
        hashed = (83492791 * seed) ^ (73856093 * index) ^ (19349663 * 2)
        noise = np.asarray(normal(hashed))
        expected = x + np.sqrt(1 / schedule.alpha[0] - 1) * noise / 2  # halved: pixels are half of [-1, 1]
        np.testing.assert_allclose(purified, expected, atol=1e-6)  # float32


def test_paper_scheme_keeps_forward_and_reverse_noise_apart():
    xi = randomness.paper_configuration(1, 2)
    seeds = [int(jax.random.key_data(randomness.paper_step_key(xi, direction, t))[1])
             for direction in (randomness.FORWARD, randomness.REVERSE) for t in (1, 2)]
    assert seeds == [int(randomness.paper_hash(1, 2, k)) for k in (2, 4, 3, 5)]
