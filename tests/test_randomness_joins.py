"""What the experiments on randomness and distances make of their arrays, against closed forms."""

from types import SimpleNamespace

import numpy as np
from purimetry.experiments import randomness_evaluation
from purimetry.experiments.adversarial import BPDA_EOT, PGD
from purimetry.experiments.distances import crossing
from purimetry.experiments.randomness_evaluation import same_and_other
from purimetry.experiments.workbench import Cell
from purimetry.figures.randomness_evaluation import _implied

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


def test_the_limit_of_the_mean_cosine_is_the_mean_of_the_images_limits(monkeypatch):
    """Of gradients m + n, |m|^2 / |n|^2 another in each image; a mean of 64 cosines in 1000 dimensions is known to
    0.004, its root at most 0.005 where they are 0.01; four times."""
    random, ratio = np.random.default_rng(0), np.array([0.01, 0.25, 4.0])
    means = np.sqrt(ratio / 1000)[:, None, None] * random.choice([-1, 1], (3, 1, 1000))
    gradients = means + random.normal(size=(3, 564, 1000)) / 1000**0.5
    units = lambda rows: rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    cosines = lambda rows: (units(rows) @ units(gradients[:, 500:]).transpose(0, 2, 1)).mean((1, 2))
    one, many = cosines(gradients[:, :64]), cosines(gradients[:, :500].mean(1, keepdims=True))
    monkeypatch.setattr(randomness_evaluation, "cosines", lambda *_: {"fixed": np.repeat(one[:, None], 5, 1)})
    bench = SimpleNamespace(mean=lambda _, quantity, values, *rest: (quantity, values))
    limit = dict(randomness_evaluation._cosines(bench, Cell("ddpm", 1), "full"))["gradient_cosine_limit"]
    np.testing.assert_allclose(limit, np.sqrt(ratio / (1 + ratio)), atol=0.02)
    np.testing.assert_allclose(_implied(one, np.array([500.0])), many.mean(), atol=0.02)
    assert np.sqrt(one.mean()) > limit.mean() + 0.05
