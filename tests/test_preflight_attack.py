"""The checks of a preflight that look at the gradient and at the attack, each on a defence that has its flaw."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import purimetry as pm
from purimetry.compression import losses, preflight, preflight_attack
from purimetry.compression.attacks import linf

from .test_preflight import (
    ATTACK, CLASSES, EPS, IMAGES, KEYS, LABELS, N, claim, found, noisy, only, rounded, shattered, sound,
)


STILL = partial(pm.pgd, steps=4, step_size=0.0, start=linf.clean_start)


def _affine(offset, scale, x):
    return offset + scale * sound(x)


def affine(offset, scale):
    """Classifiers of one program."""
    return Partial(_affine, np.float32(offset), np.float32(scale))


@pytest.mark.parametrize("criterion, scale", [(losses.margin, 1), (losses.cross_entropy, 0.1), (losses.margin, 1000)])
def test_gradients_of_a_sound_defence_are_usable(criterion, scale):
    assert not found(preflight.usable_gradients, affine(0, scale), criterion=criterion)


@pytest.mark.parametrize("classifier, purifier, criterion", [
    (sound, rounded, losses.margin),
    (affine(0, 10), noisy, losses.cross_entropy),  # p(label) rounds to 1
    (affine(1, 1e-9), noisy, losses.margin),  # below the rounding of the logits
])
def test_gradients_that_are_zero_or_vanish(classifier, purifier, criterion):
    finding = only(preflight.usable_gradients, classifier, purifier, criterion=criterion)
    assert finding.severity == "error" and finding.measured["lost"] > 0.9
    if purifier is rounded:
        assert finding.measured["zero"] == 1


def test_a_few_lost_gradients_are_a_warning():
    """The purifier rounds where the top left pixel is dark, which it is in 2 of 24 images."""
    images = IMAGES.copy()
    images[:2, 0, 0] = 0
    sometimes = lambda x, key: jnp.where(x[0, 0, 0] < 0.15, rounded(x, key), x)
    finding = only(preflight.usable_gradients, purifier=sometimes, images=images)
    assert finding.severity == "warning" and finding.measured["zero"] == pytest.approx(2 / 24)


def test_the_probe_is_exact_for_a_linear_loss():
    """Of w . x the gradient promises eps / 8 |w|_1 wherever the range does not bind, and the step gains just that."""
    weights = np.random.default_rng(1).normal(size=(16, 2)).astype(np.float32)
    case = claim(lambda x: x.ravel() @ weights, pm.identity, criterion=lambda logits, label: logits[0])
    total = np.abs(weights[:, 0]).sum()
    np.testing.assert_allclose(case.probe.reach, EPS * total, rtol=1e-5)
    np.testing.assert_allclose(case.probe.promised, EPS / 8 * total, rtol=1e-4)  # float32 differences of the loss
    np.testing.assert_allclose(case.probe.gained, case.probe.promised, rtol=1e-4)


def test_gradients_that_promise_what_they_do_not_keep():
    finding = only(preflight.truthful_gradients, purifier=shattered)
    assert finding.severity == "error" and abs(finding.measured["gained_over_promised"]) < 0.25
    flat = lambda x, key: rounded(x, key) + 1e-3 * x
    finding = only(preflight.truthful_gradients, purifier=flat)
    assert finding.severity == "warning" and finding.measured["gained_over_promised"] > 4


def test_a_defence_that_knows_clean_images():
    """It keeps what was rounded to sixteenths, and lets nothing else through."""
    exact = lambda x, key: jnp.where(jnp.abs(16 * x - jnp.round(16 * x)).max() < 1e-5, x, 0.5)
    finding = only(preflight.no_budget, purifier=exact, images=np.round(16 * IMAGES) / 16)
    assert "breaks" in finding.message and finding.measured["flipped"] > 0.5


def test_a_clean_accuracy_that_is_not_the_one_that_was_stated():
    assert not found(preflight.no_budget, clean_accuracy=1.0)
    assert "100.0% here, 50.0% was stated" in only(preflight.no_budget, clean_accuracy=0.5).message


def ours(shift, n=N, right=0):
    """Labels of a perfect classifier, numbered otherwise but for the first `right`."""
    return np.where(np.arange(n) < right, LABELS[:n], (LABELS[:n] + shift) % CLASSES)


def labelled(labels, purifier):
    n = len(labels)
    return preflight.Claim(sound, purifier, IMAGES[:n], labels, KEYS[:n], EPS, attack=ATTACK)


@pytest.mark.parametrize("labels, purifier, severity, message, remedy", [
    (ours(1), pm.identity, "error", "clean accuracy is 0.0% on 24 images, expected clearly more than chance, 25.0%",
     "numbered as the classifier's classes are, the normalisation, and the order of channels"),
    (ours(1), noisy, "error", "0.0% on 24 images, and the bare classifier is right on 0.0%, expected", "numbered as"),
    (LABELS, lambda x, key: 0 * x, "error", "the bare classifier is right on 100.0%", "the purifier leaves nothing"),
    (ours(1, right=6), pm.identity, "error", "25.0% on 24", "numbered as"),
    (ours(1, right=10), pm.identity, "warning", "41.7% on 24", "take more images"),  # 10 or more have p = 0.055
    (ours(1, n=3), pm.identity, "error", "0.0% on 3", "numbered as"),
])
def test_a_clean_accuracy_that_may_be_chance(labels, purifier, severity, message, remedy):
    (finding,) = preflight.no_budget(labelled(labels, purifier))
    assert finding.severity == severity and message in finding.message and remedy in finding.remedy


@pytest.mark.parametrize("labels", [ours(1, right=11), ours(1, n=2)], ids=["more than chance", "too few to tell"])
def test_a_clean_accuracy_that_is_not_chance_or_of_too_few_images_passes(labels):
    assert not list(preflight.no_budget(labelled(labels, noisy)))


def test_a_loss_that_does_not_rise():
    findings = found(preflight.rising_loss, attack=STILL)
    assert ["from eps = 0 to 0.1" in findings[0].message, "from eps = 0.1 to 0.5" in findings[1].message] == [True] * 2


def test_an_attack_that_fails_at_a_budget_where_none_should():
    short = partial(pm.pgd, steps=2, step_size=0.05, start=linf.clean_start)
    finding = only(preflight.large_budget, attack=short)
    assert finding.measured["robust"] > 0.9 and finding.measured["chance"] == 0.25
    assert not found(preflight.large_budget)


def test_an_attack_that_is_weaker_than_one_without_gradients():
    finding = only(preflight.gradient_free, purifier=rounded, eps=0.25)
    assert finding.severity == "error" and finding.measured["other"] < finding.measured["robust"]
    assert not found(preflight.gradient_free, eps=0.25)


def test_an_attack_that_is_weaker_than_a_transferred_one():
    finding = only(preflight.transfer, purifier=rounded, eps=0.25)
    assert finding.severity == "error" and "bare classifier" in finding.message
    blind = lambda x, key: jnp.where(jax.random.bernoulli(key, 0.5), x, jax.lax.stop_gradient(x))
    assert {f.message.split(" breaks")[0] for f in found(preflight.transfer, purifier=blind, eps=0.25)} == {
        "an attack of the bare classifier"}  # with another xi no pixel differs
    assert not found(preflight.transfer, eps=0.25)


@pytest.mark.parametrize("others, severity", [(0, "error"), (5, "warning")])
def test_breaking_one_image_more_is_a_warning_where_others_are_broken_instead(others, severity):
    case = claim(attack=STILL)
    case.broken[1 : 1 + others] = True
    (finding,) = preflight_attack._weaker(case, "transfer", "another attack", np.arange(N) == 0)
    assert finding.severity == severity and finding.measured["only"] == 1 and finding.measured["missed"] == others
