"""MagNet's detector: its threshold's false positives, and what an attack on detector and classifier sees."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import purimetry as pm
from purimetry.compression.detectors import MagNet, reconstruction_errors, rejection_threshold
from purimetry.compression.losses import cross_entropy, margins

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(size=(40, 2, 2, 1)).astype(np.float32)
KEYS = pm.configurations(0, np.arange(40))
WEIGHTS = 4 * RANDOM.normal(size=(4, 3)).astype(np.float32)
LABEL = jax.device_put(np.int32(1))


def classifier(x):
    return (x.ravel() - 0.5) @ WEIGHTS


def purifier(x, key):
    return 0.5 * x + 0.25 + 0.05 * jax.random.normal(key, x.shape)


def each(function):
    """Of an image and its key."""
    return jax.device_get(jax.jit(jax.vmap(function))(IMAGES, KEYS))


@pytest.mark.parametrize("order", [1, 2])
def test_errors_are_norms_of_what_the_purifier_changes(order):
    found = reconstruction_errors(purifier, IMAGES, KEYS, order)
    changed = (IMAGES - each(purifier)).reshape(40, -1)
    np.testing.assert_allclose(found, np.linalg.norm(changed, order, axis=1), rtol=1e-5)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.29])
def test_the_threshold_is_the_smallest_with_its_false_positives(rate):
    errors = RANDOM.exponential(size=200)
    threshold = rejection_threshold(errors, rate)
    assert (errors > threshold).sum() == round(200 * rate)
    below = errors[errors < threshold].max()
    assert (errors > below).mean() > rate


def test_an_attack_has_won_where_the_input_is_accepted_and_misclassified():
    errors = reconstruction_errors(purifier, IMAGES, KEYS)
    threshold = float(np.median(errors))
    loss = MagNet(threshold)(classifier, purifier, LABEL)
    won, wrong = each(lambda x, key: (
        loss(x, key).margin >= 0, margins(classifier(purifier(x, key)), LABEL).max() >= 0))
    np.testing.assert_array_equal(won, wrong & (errors <= threshold))
    assert 0 < won.sum() < wrong.sum() < 40


def test_a_detector_that_accepts_all_leaves_the_defence_as_it_is():
    """To the largest margin that its own bound of 1 lets pass."""
    logits, found, bare = each(lambda x, key: (
        logits := classifier(purifier(x, key)), MagNet(1e9)(classifier, purifier, LABEL, cross_entropy)(x, key),
        margins(logits, LABEL)))
    np.testing.assert_allclose(found.margins, np.minimum(bare, 1), atol=1e-5)
    held = np.where(np.arange(3) == 1, logits, np.minimum(logits, logits[:, 1:2] + 1))
    expected = special.logsumexp(held, 1) - held[:, 1]
    np.testing.assert_allclose(found.ascent, expected, atol=1e-5)


def test_an_adaptive_attack_evades_it():
    """Where an attack on the classifier alone is detected, one through this view is not."""
    grey = lambda x, key: 0.5 + 0.4 * (x - 0.5)
    images, labels = np.full((1, 2, 2, 1), 0.5, np.float32), np.array([0])
    bright = lambda x: jnp.stack([0.65, x.mean()])  # wrong from an input of 0.875, where the error is 0.9
    strong = partial(pm.pgd, step_size=0.25)
    blind = pm.attack_images(strong, bright, grey, images, labels, KEYS[:1], 0.5, confidence=np.inf)
    aware = pm.attack_images(pm.pgd, bright, grey, images, labels, KEYS[:1], 0.5, view=MagNet(1.0))
    rejected = lambda found: reconstruction_errors(grey, found.x, KEYS[:1])[0] > 1.0
    assert blind.broken_at[0] > 0 and rejected(blind)
    assert aware.broken_at[0] > 0 and not rejected(aware)


def test_rates_and_thresholds_that_cannot_be_met_are_refused():
    with pytest.raises(ValueError, match=r"needs at least 100 clean images, got 99; take more, or a larger rate"):
        rejection_threshold(np.ones(99), 0.01)
    with pytest.raises(ValueError, match=r"is in \(0, 1\), got 0"):
        rejection_threshold(np.ones(99), 0.0)
    with pytest.raises(ValueError, match="reconstruction error is > 0, got 0"):
        MagNet(0.0)(classifier, purifier, LABEL)
