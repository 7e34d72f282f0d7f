"""Ratios of the diagnosis against a purifier and classifiers of which everything is known."""

import numpy as np
import pytest
from purimetry.experiments import diagnosis
from purimetry.experiments.configuration import Configuration
from purimetry.experiments.workbench import Cell, Workbench

FUNCTIONS = """
import jax.numpy as jnp
import numpy as np

WEIGHTS = np.random.default_rng(0).normal(size=16).astype(np.float32)


def score(x):
    return WEIGHTS @ (x.ravel() - 0.5)


def straight(x):
    return jnp.stack([score(x), -score(x)])


def bent(x):
    steeper = score(x) * (1 + abs(score(x)))
    return jnp.stack([steeper, -steeper])


def half(x, key):
    return 0.25 + x / 2
"""


@pytest.mark.parametrize("classifier, expected", [
    ("straight", lambda score: np.ones_like(score)),
    ("bent", lambda score: (1 + 2 * score) / (1 + score)),  # score over that to first order, s (1 + s) / (1 + 2 s)
])
def test_minimum_perturbations_are_compared_with_a_linear_classifiers(classifier, expected, tmp_path):
    images = np.random.default_rng(1).uniform(0.3, 0.7, (8, 4, 4, 1)).astype(np.float32)  # no budget meets 0 or 1
    weights = np.random.default_rng(0).normal(size=16)
    scores = (images.reshape(8, 16) - 0.5) @ weights
    np.savez(tmp_path / "data.npz", images=images, labels=(scores < 0).astype(int))
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    bench = Workbench(Configuration(
        out=tmp_path / "out", dataset=str(tmp_path / "data.npz"), images=8, purifiers=(f"{tmp_path}/mine.py:half",),
        classifier=f"{tmp_path}/mine.py:{classifier}", eps=(0.05,), seeds=(0,), draws=2, attack_steps=4,
        attack_restarts=1, bootstrap=20, eps_max=0.2))
    found = diagnosis.distances_over_linear(bench, Cell("half", 0), 0.05)
    ours = np.abs(scores[bench.indices]) / 2
    resolved = 0.2 / 2**9 / (ours / np.abs(weights).sum())  # of the search, relative to the distance
    # 1e-3 more, as the margin of an anchor close to the boundary is a small difference in float32.
    assert len(found) == 8 and (np.abs(found - expected(ours)) < expected(ours) * resolved + 1e-3).all()
