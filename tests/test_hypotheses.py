"""The effects by which the paper's claims are judged, on curves and distances that are known."""

import numpy as np
import pytest

from purimetry.compression.prediction import Sigmoid
from purimetry.experiments import hypotheses

RANDOM = np.random.default_rng(0)
SAMPLERS = np.repeat(["ddpm", "reverse", "ddim"], 5)
RATE = np.linspace(0.1, 0.9, 15)[np.argsort(np.tile(np.arange(5), 3), kind="stable")]


def accuracies(percent, n=1000):
    """Images that withstand, [n, cells], in the given percentages."""
    return np.arange(n)[:, None] < n * np.asarray(percent) / 100


def test_samplers_on_one_sigmoid_are_not_apart_and_a_shifted_one_is_as_much():
    truth = Sigmoid(90.0, 0.5, 0.1)
    rate = np.tile(RATE, (1000, 1))
    apart, *fit = hypotheses.curve(rate, accuracies(truth(RATE)), SAMPLERS)
    assert apart < 0.1  # accuracies of 1000 images are rounded to 0.1 %
    np.testing.assert_allclose(fit, truth, rtol=0.01)
    shifted = accuracies(truth(RATE) + 6 * (SAMPLERS == "ddpm"))
    assert hypotheses.curve(rate, shifted, SAMPLERS)[0] == pytest.approx(6, rel=0.15)  # the fit takes a part of it


def test_survival_error_is_zero_where_compression_is_all_there_is():
    """Robust where the image's own distance exceeds rate times eps: the law itself, with one rate for all."""
    distance, rate, eps = RANDOM.uniform(0, 0.2, 500), np.tile([0.2, 0.5, 1.0], (500, 1)), 0.15
    robust = distance[:, None] > rate * eps
    never = np.zeros(500, bool)
    np.testing.assert_allclose(hypotheses.survival_error(distance, never, rate, robust, eps), 0, atol=1e-9)
    weaker = distance[:, None] > 2 * rate * eps  # an attack's direction is compressed half as much
    expected = 100 * (robust.mean(0) - weaker.mean(0))
    np.testing.assert_allclose(hypotheses.survival_error(distance, never, rate, weaker, eps), expected)


def test_approach_is_negative_just_where_equation_5_holds():
    clean = RANDOM.random((20, 4, 4, 1))
    before = clean + RANDOM.normal(0, 0.1, clean.shape)
    found = hypotheses.approach(clean, before, clean + 0.5 * (before - clean))
    np.testing.assert_allclose(found, -0.5 * np.linalg.norm((before - clean).reshape(20, -1), axis=1))
    assert (hypotheses.approach(clean, before, clean + 2 * (before - clean)) > 0).all()


def test_every_claim_has_a_unit_and_a_bound():
    names = [claim.name for claim in hypotheses.CLAIMS]
    assert set(names) == set(hypotheses.UNITS) and len(set(names)) == len(names)
