"""Attacks on a linear classifier, whose minimum perturbations, and with them robust accuracy, are known exactly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purimetry.compression.attacks import l2, linf
from purimetry.compression.attacks.fgsm import fgsm
from purimetry.compression.attacks.pgd import cosine_decay, pgd

from .test_attacks import (
    ATTACKS, CLASSES, EDGED, IMAGES, SHAPE, WEIGHTS, N, classifier, lengths, linear, logits, margins, run,
)

COMPETES = np.arange(CLASSES) < 2
two_classes = classifier(np.asarray(WEIGHTS) * COMPETES, np.where(COMPETES, 0.0, -50.0))


def distance(x, slope, gap, norm):
    """Of x to where slope . y = slope . x + gap, y in [0, 1]: inf{|d|}, by bisection of the multiplier of the plane.

    The nearest point moves pixels towards it by min(t, room) in l_inf, min(t |slope|, room) in l2.
    """
    x, slope = np.asarray(x, np.float64).ravel(), np.asarray(slope, np.float64)
    room = np.where(slope > 0, 1 - x, x)
    speed = (slope != 0) if norm is linf else np.abs(slope)
    low, high = 0.0, 1e6
    if (np.abs(slope) * room).sum() < gap:
        return np.inf
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if (np.abs(slope) * np.minimum(middle * speed, room)).sum() >= gap else (middle, high)
    moved = np.minimum(high * speed, room)
    return moved.max() if norm is linf else np.linalg.norm(moved)


def minimum_perturbations(classifier, images, norm):
    """Of a linear classifier: the least distance to the boundary with any rival."""
    weights, bias, _ = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(classifier))
    logits = images.reshape(len(images), -1).astype(np.float64) @ weights + bias
    labels = logits.argmax(1)
    return np.array([
        min(distance(x, weights[:, k] - weights[:, y], z[y] - z[k], norm) for k in range(CLASSES) if k != y)
        for x, y, z in zip(images, labels, logits, strict=True)
    ]), labels


@pytest.mark.parametrize("images", [IMAGES, EDGED], ids=["inside", "edged"])
@pytest.mark.parametrize("name, defended", [
    ("pgd", two_classes), ("momentum", two_classes), ("fgsm", two_classes), ("apgd", two_classes),
    ("apgd_l2", two_classes), ("ddn", two_classes),
    # Several rivals: an untargeted attack follows one of them and may miss the nearest.
    ("converged_pgd", linear), ("converged_pgd_l2", linear), ("apgd_targeted", linear), ("apgd_targeted_l2", linear),
    ("fab", linear), ("fab_l2", linear),
])
def test_robust_accuracy_of_a_linear_classifier_is_exact(name, defended, images):
    """Each image is robust 1 % below its minimum perturbation and broken 1 % above, so accuracy is exact anywhere."""
    norm = ATTACKS[name](0.1).norm
    least, labels = minimum_perturbations(defended, images, norm)
    within = least < 0.9 * norm.largest(SHAPE)
    images, labels, least = images[within], labels[within], least[within]
    assert len(least) > N / 3 and least.min() > 0
    below, _ = run(ATTACKS[name], 0.99 * least, defended, images, labels)
    above, _ = run(ATTACKS[name], 1.01 * least, defended, images, labels)
    assert (below.broken_at == -1).all() and (below.margin < 0).all()
    assert (above.broken_at > 0).all() and (above.margin >= 0).all()


@pytest.mark.parametrize("name, excess", [
    ("fab", 0.01), ("fab_l2", 0.01),  # it overshoots by 5 %, and comes back to less than 1 %
    ("ddn", 0.05),  # its radius changes by 5 % a step
])
def test_a_minimum_norm_attack_measures_distances(name, excess):
    """At the largest budget and infinite confidence. For the edged images the box binds, which DDN does not solve."""
    norm = ATTACKS[name](0.1).norm
    for images, defended in [(IMAGES, two_classes)] if name == "ddn" else [(IMAGES, linear), (EDGED, linear)]:
        least, labels = minimum_perturbations(defended, images, norm)
        reachable = np.isfinite(least)
        found, _ = run(ATTACKS[name], norm.largest(SHAPE), defended, images, labels, confidence=np.inf)
        np.testing.assert_array_equal(found.broken_at >= 0, reachable)
        ratio = lengths(found.x - images, norm)[reachable] / least[reachable]
        assert ratio.min() > 1 - 1e-4 and ratio.max() < 1 + excess, (ratio.min(), ratio.max())


def test_what_leaves_its_budget_is_put_back_and_judged_again():
    """An attack that steps ten times too far claims breaks; only those at the edge of the budget count."""
    def careless(eps):
        attack = pgd(eps, steps=1, start=linf.clean_start)
        return attack._replace(move=lambda x, point, gradient, *_: (x + 10 * eps * jnp.sign(gradient), ()))

    least, labels = minimum_perturbations(two_classes, IMAGES, linf)
    result, _ = run(careless, 0.15, two_classes, labels=labels)
    np.testing.assert_array_equal(result.broken_at >= 0, least <= 0.15)
    assert 0 < (least <= 0.15).sum() < N and least.max() < 10 * 0.15


@pytest.mark.parametrize("attack", [
    partial(pgd, steps=200, step_size=partial(cosine_decay, 1.0, 0.001), norm=l2), ATTACKS["apgd_l2"], ATTACKS["apgd"],
    fgsm,
], ids=["pgd_l2", "apgd_l2", "apgd", "fgsm"])
def test_the_largest_margin_of_a_linear_classifier_is_found(attack):
    """Where pixels stop at black and white: what eps gains on the margin is the inverse of `distance`, strictly less
    than eps times the dual norm of the slope."""
    norm, eps = attack(0.1).norm, 0.3
    found, labels = run(attack, eps, two_classes, EDGED, confidence=np.inf)
    weights, _, _ = (np.asarray(leaf) for leaf in jax.tree.leaves(two_classes))
    slope = (weights[:, 1] - weights[:, 0]) * np.where(labels == 0, 1, -1)[:, None]
    gains = found.margin - np.asarray(margins(logits(two_classes, EDGED), labels))
    dual = np.abs(slope).sum(1) if norm is linf else np.linalg.norm(slope, axis=1)
    for x, w, gain, bound in zip(EDGED, slope, gains, eps * dual, strict=True):
        # A gain 0.1 % larger would need more than eps.
        assert distance(x, w, gain, norm) < eps * (1 + 1e-4) and distance(x, w, 1.001 * gain, norm) > eps
        assert gain < bound * (1 + 1e-5)
    assert (gains < 0.9 * eps * dual).any()  # the range did bind
