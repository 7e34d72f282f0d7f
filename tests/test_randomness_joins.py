"""What the experiments on randomness and distances make of their arrays, against closed forms."""

import numpy as np
from purimetry.experiments.adversarial import BPDA_EOT, PGD
from purimetry.experiments.distances import crossing
from purimetry.experiments.randomness_evaluation import same_and_other

SIZES = np.array([0.1, 0.2, 0.4, 0.8])


def test_a_crossing_of_straight_lines_is_exact():
    """After purification noise of size s has distance a + b s, before it c s: they meet at a / (c - b)."""
    a, b, c = 0.4, 0.5, 2.0
    np.testing.assert_allclose(crossing(SIZES, a + b * SIZES - c * SIZES), a / (c - b), rtol=1e-12)


def test_a_crossing_beyond_the_sizes_is_their_end_and_the_first_of_several_counts():
    assert crossing(SIZES, np.ones(4)) == SIZES[-1]
    assert crossing(SIZES, -np.ones(4)) == SIZES[0]
    assert crossing(SIZES, np.array([1.0, 0.0, 1.0, -1.0])) == 0.2


def test_attacks_are_judged_under_their_own_configuration_and_under_all_others():
    """Robust only under the attack's own xi, with 2 attacks and 5 tests."""
    own = np.eye(2, 5)[..., None] * np.ones(3)
    same, other = same_and_other(own)
    assert same.tolist() == [1, 1, 1] and other.tolist() == [0, 0, 0]


def test_the_mean_over_all_pairs_is_that_of_same_and_other_by_their_numbers():
    robust = np.random.default_rng(0).random((3, 8, 4))
    same, other = same_and_other(robust)
    np.testing.assert_allclose((3 * same + 21 * other) / 24, robust.mean((0, 1)), rtol=1e-12)


def test_an_attack_says_what_it_knows_of_the_randomness():
    assert PGD.at == {"gradient": "full", "k": 1, "xi_attack": "fixed"}
    assert BPDA_EOT.at == {"gradient": "bpda", "k": 15, "xi_attack": "fresh"}
