"""What the ALP experiments share: attacks by what they know, against closed forms, and trainings by their trial."""

from types import SimpleNamespace

import numpy as np
import pytest
from purimetry.compression.attacks.fgsm import fgsm
from purimetry.compression.randomness import configurations
from purimetry.experiments import autoencoders
from purimetry.experiments.configuration import Configuration, Training

WEIGHTS = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
IMAGES = np.random.default_rng(1).uniform(0.3, 0.7, (3, 2, 2, 3)).astype(np.float32)
LABELS = np.zeros(3, np.int32)
BENCH = SimpleNamespace(
    classifier=lambda x: x.reshape(-1) @ WEIGHTS, images=IMAGES, labels=LABELS,
    keys=lambda: configurations(0, np.arange(3)),
    configuration=SimpleNamespace(eps=(0.01,)),
)
EPS = 0.05


def negative(x, key):
    return 1 - x


@pytest.mark.parametrize("threat, sign", [("classifier", -1), ("fixed", 1), ("ensemble", 1)])
def test_fgsm_moves_a_linear_margin_by_the_budget_times_the_l1_norm(threat, sign):
    """Through a purifier that turns the image into its negative: only an attack that knows it moves the right way."""
    found = autoencoders.under_attack(BENCH, fgsm, negative, autoencoders.THREATS[threat], EPS, 3)
    slope = WEIGHTS[:, 1] - WEIGHTS[:, 0]
    view = autoencoders.THREATS[threat].judged
    clean = autoencoders.margins(BENCH, negative, view, IMAGES)
    np.testing.assert_allclose(found["margin"] - clean, sign * EPS * np.abs(slope).sum(), rtol=1e-4)
    np.testing.assert_allclose(clean, (1 - IMAGES).reshape(3, -1) @ slope, rtol=1e-4, atol=1e-5)
    assert np.abs(found["x"] - IMAGES).max() <= EPS + 1e-6


def test_pgd_takes_the_documents_budget_unless_the_run_has_a_larger_one():
    assert autoencoders.budget(BENCH) == 8 / 255
    assert autoencoders.budget(SimpleNamespace(configuration=SimpleNamespace(eps=(0.1, 0.2)))) == 0.2


def test_a_trial_has_its_own_seed_and_the_runs_steps(monkeypatch):
    asked = []
    monkeypatch.setattr(autoencoders.models, "autoencoder", lambda *what: asked.append(what) or ("network", "sha"))
    bench = SimpleNamespace(dataset="data", configuration=Configuration(training=Training(seed=3, autoencoder_steps=7)))
    for number, start in enumerate(autoencoders.STARTS):
        assert autoencoders.network(bench, autoencoders.trial(number), number) == "network"
        training, _, _, bottleneck = asked[-1]
        assert (training.seed, bottleneck.steps, bottleneck.sigma, bottleneck.learned) == (3 + number, 7, start, True)
    autoencoders.network(bench)
    assert asked[-1] == asked[0]  # the first trial is the run's own ALP
    autoencoders.network(bench, autoencoders.at_sigma(0.0))
    assert asked[-1][3].pixel_noise == 0 and not asked[-1][3].learned
