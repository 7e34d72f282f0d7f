"""Attacks: one contract for all of them, and classifiers whose robust accuracy is known exactly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purimetry.compression import losses, randomness
from purimetry.compression.attacks import linf
from purimetry.compression.attacks.pgd import converged_pgd, pgd
from purimetry.compression.attacks.search import attack_images
from purimetry.compression.purifiers.identity import identity
from purimetry.compression.types import Objective

# Signed steps of eps / 10 reach every corner of the ball from every start.
ATTACKS = {"pgd": partial(pgd, step_size=0.1), "converged_pgd": partial(converged_pgd, restarts=3)}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)

SHAPE, N = (3, 2, 1), 24
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(0.35, 0.65, (N, *SHAPE)).astype(np.float32)
KEYS = randomness.configurations(0, np.arange(N))
WEIGHTS = jnp.asarray(RANDOM.normal(size=(6, 3)), jnp.float32)
BIAS = -0.5 * WEIGHTS.sum(0)


def linear(x):
    return x.reshape(-1) @ WEIGHTS + BIAS


def two_classes(x):
    return linear(x)[:2]


def curved(x):
    return jnp.sin(5 * linear(x)) + linear(x)


def run(attack, eps, classifier=curved, images=IMAGES, labels=None, **settings):
    labels = np.array([int(classifier(x).argmax()) for x in images]) if labels is None else labels
    return attack_images(attack, classifier, identity, images, labels, KEYS[: len(images)], eps, **settings), labels


def minimum_perturbations(classifier):
    """Of a linear classifier in l_inf, inside the box: the least of -margin_k / ||w_k - w_label||_1 over rivals k."""
    logits = np.array(jax.vmap(classifier)(jnp.asarray(IMAGES)), np.float64)
    labels, weights = logits.argmax(1), np.asarray(WEIGHTS, np.float64)[:, : logits.shape[1]]
    gaps = np.take_along_axis(logits, labels[:, None], 1) - logits
    slopes = np.abs(weights[:, :, None] - weights[:, None, :]).sum(0)[labels]
    return np.min(np.where(slopes > 0, gaps / np.where(slopes > 0, slopes, 1), np.inf), 1), labels


@pytest.mark.parametrize("name, classifier", [
    ("pgd", two_classes), ("converged_pgd", two_classes),
    ("converged_pgd", linear),  # several rivals: an untargeted attack follows one of them and may miss the nearest
])
def test_robust_accuracy_of_a_linear_classifier_is_exact(name, classifier):
    """Each image is robust 1 % below its minimum perturbation and broken 1 % above, so accuracy is exact anywhere."""
    least, labels = minimum_perturbations(classifier)
    assert 0 < least.min() and least.max() < 0.35  # the box never binds
    below, _ = run(ATTACKS[name], 0.99 * least, classifier, labels=labels)
    above, _ = run(ATTACKS[name], 1.01 * least, classifier, labels=labels)
    assert (below.broken_at == -1).all() and (below.margin < 0).all()
    assert (above.broken_at > 0).all() and (above.margin >= 0).all()


@every_attack
def test_budget_and_pixel_range_are_respected(attack):
    eps = np.linspace(0.02, 0.9, N)
    result, labels = run(attack, eps)
    over = np.abs(result.x - IMAGES).reshape(N, -1).max(1) - eps
    assert over.max() < 1e-6  # float32 rounding of x + eps
    assert result.x.min() >= 0 and result.x.max() <= 1
    assert np.isclose(result.x, 0).any() and np.isclose(result.x, 1).any()  # the range did bind
    judged = jax.vmap(losses.margin)(jax.vmap(curved)(jnp.asarray(result.x)), jnp.asarray(labels))
    np.testing.assert_allclose(result.margin, judged, atol=1e-5)  # float32
    np.testing.assert_array_equal(result.broken_at >= 0, result.margin >= 0)


@every_attack
def test_a_tiny_budget_is_the_clean_classifier(attack):
    labels = np.arange(N) % 3
    result, _ = run(attack, 1e-7, labels=labels)
    right = np.array([int(curved(x).argmax()) for x in IMAGES]) == labels
    np.testing.assert_array_equal(result.broken_at, np.where(right, -1, 0))
    np.testing.assert_allclose(result.x, IMAGES, atol=2e-7)
    assert 0 < right.sum() < N and (result.gradients[~right] == 0).all()  # what is wrong already is not attacked


@every_attack
def test_attacking_many_equals_attacking_each(attack):
    """Images still unbroken have the same result; broken ones the same first break, and are then left alone."""
    eps = np.linspace(0.001, 0.2, 8)
    together, labels = run(attack, eps, images=IMAGES[:8], size=3)

    @jax.jit
    def alone(x, label, key, eps):
        return attack(eps)(losses.defended(curved, identity, label), x, key)

    each = [alone(IMAGES[i], labels[i], KEYS[i], jnp.float32(eps[i])) for i in range(8)]
    each = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    np.testing.assert_array_equal(together.broken_at, each.broken_at)
    robust = together.broken_at < 0
    assert 0 < robust.sum() < 8
    np.testing.assert_allclose(together.x[robust], each.x[robust], atol=1e-6)  # float32, other fusions
    np.testing.assert_allclose(together.margin[robust], each.margin[robust], atol=1e-5)
    np.testing.assert_array_equal(together.gradients[robust], each.gradients[robust])
    assert (together.gradients[robust] == attack(0.1).steps * attack(0.1).restarts).all()
    assert (together.gradients[~robust] < each.gradients[~robust]).all()


@pytest.mark.parametrize("eps", [0.03, 0.3])
def test_the_papers_step_is_a_hundredth_of_its_thirty_hundredths(eps):
    """Where the gradient is constant, s steps of 0.01 / 0.3 eps move each pixel by their sum (Table S6)."""
    direction = jnp.where(jnp.arange(6.0).reshape(SHAPE) % 2 == 0, 1.0, -1.0)
    slope = lambda x, key: Objective((direction * x).sum(), (direction * x).sum()[None] - 10)
    x = jnp.asarray(IMAGES[0])
    for steps in (1, 7):
        moved = pgd(eps, steps=steps, start=linf.clean_start)(slope, x, KEYS[0]).x
        np.testing.assert_allclose(moved, x + steps * 0.01 / 0.3 * eps * direction, atol=1e-6)  # float32


def _moving_target(x):
    """Class 1 wins only where pixel 0 has come within half a step of pixel 1; the third logit is what is ascended."""
    hit = jnp.abs(x[0, 0, 0] - x[0, 1, 0]) < 0.02
    return jnp.stack([0.0, jnp.where(hit, 1.0, -1.0), x[0, 0, 0] - 100])


def test_no_iterate_is_missed():
    """Iterate k, k = 0..12 steps of 0.05, is the only one that is broken: each is found, in its place."""
    steps, k = 12, np.arange(13)
    images = np.stack([np.full(13, 0.0), 0.05 * k], 1).reshape(13, 1, 2, 1).astype(np.float32)
    attack = partial(pgd, steps=steps, step_size=0.05, start=linf.clean_start)
    third = lambda logits, label: logits[2]
    expected = np.where(k == 0, 0, k + 1)  # 0 is the clean image, 1 the start
    result = attack_images(attack, _moving_target, identity, images, np.zeros(13, int), KEYS[:13], 1.0, third, size=13)
    np.testing.assert_array_equal(result.broken_at, expected)
    np.testing.assert_allclose(result.x[:, 0, 0, 0], 0.05 * k, atol=1e-6)
    loss = losses.defended(_moving_target, identity, jnp.int32(0), third)
    single = jax.jit(jax.vmap(lambda x, key: attack(1.0)(loss, x, key)))(images, KEYS[:13])
    np.testing.assert_array_equal(single.broken_at, expected)
    again = jax.jit(jax.vmap(lambda x, key: attack(1.0, restarts=3)(loss, x, key)))(images, KEYS[:13])
    np.testing.assert_array_equal(again.broken_at, expected)
    assert (again.gradients == 3 * steps).all()


def test_an_iterate_of_a_later_restart_is_numbered_after_all_before_it():
    """The start of restart r is where r says; with 4 steps a restart judges 5 inputs, after the clean one."""
    attack = pgd(0.5, steps=4, restarts=3, step_size=0.0)
    attack = attack._replace(start=lambda x, key, restart: (x + 0.1 * restart, ()))
    at_restart = lambda wanted: lambda x, key: Objective(x.sum(), jnp.where(
        jnp.abs(x.sum() - 0.1 * wanted) < 0.01, 1.0, -1.0)[None])
    found = [attack(at_restart(wanted), jnp.zeros((1, 1, 1)), KEYS[0]).broken_at for wanted in (0, 1, 2, 3)]
    assert [int(index) for index in found] == [0, 1 + 5, 1 + 10, -1]


def _two_hills(x):
    """At 0.5 rival 1 is nearer, but its margin never reaches 0; rival 2's does, on the other side."""
    away = x[0, 0, 0] - 0.5
    return jnp.stack([0.0, -0.1 + 0.2 * away, -0.2 - away])


def test_targeted_restarts_reach_a_rival_that_the_untargeted_attack_misses():
    images = np.full((1, 1, 1, 1), 0.5, np.float32)
    attack = lambda restarts: attack_images(
        partial(converged_pgd, restarts=restarts), _two_hills, identity, images, np.zeros(1, int), KEYS[:1], 0.3)
    for restarts in (1, 2):  # the margin itself, then rival 1
        missed = attack(restarts)
        assert missed.broken_at == -1
        np.testing.assert_allclose(missed.x, 0.8, atol=1e-3)
    reached = attack(3)
    assert reached.broken_at > 2 * (16 + 1) and reached.x < 0.3


def test_a_sweep_of_budgets_is_each_budget():
    eps = np.linspace(0.01, 0.2, N)
    swept, labels = run(ATTACKS["converged_pgd"], eps)
    for i in (0, 11, 23):
        one, _ = run(ATTACKS["converged_pgd"], float(eps[i]), labels=labels)
        np.testing.assert_array_equal(one.x[i], swept.x[i])
        assert one.broken_at[i] == swept.broken_at[i]


def test_a_purifiers_randomness_is_the_images_own():
    """With f_xi(x) = x + u(xi), u large, a wrong key would give another margin."""
    purifier = lambda x, key: x + jax.random.uniform(key, x.shape)
    labels = np.zeros(N, int)
    result = attack_images(ATTACKS["pgd"], curved, purifier, IMAGES, labels, KEYS, 1e-6)
    purified = jax.vmap(purifier)(jnp.asarray(IMAGES), KEYS)
    margins = jax.vmap(losses.margin)(jax.vmap(curved)(purified), jnp.asarray(labels))
    np.testing.assert_allclose(result.margin, margins, atol=1e-3)  # the budget moves the margin by 1e-6 * slope


def test_progress_is_told_and_falls_as_images_break():
    told = []
    run(ATTACKS["converged_pgd"], 0.1, on_segment=lambda done, active: told.append((done, active)))
    done, active = np.array(told).T
    assert done[-1] == 1 and (np.diff(done) > 0).all() and (np.diff(active) <= 0).all()


@pytest.mark.parametrize("change, error, message", [
    (dict(images=IMAGES * 255), ValueError, r"must lie in \[0, 1\]"),
    (dict(images=IMAGES - 1), ValueError, r"must lie in \[0, 1\]"),
    (dict(images=(IMAGES * 255).astype(np.uint8)), TypeError, "floating point"),
    (dict(images=np.where(np.arange(N)[:, None, None, None] == 5, np.nan, IMAGES)), ValueError, "image 5 is not"),
    (dict(images=IMAGES[:0], labels=np.zeros(0, int)), ValueError, "at least one image"),
    (dict(images=IMAGES[0]), ValueError, r"x\[None\]"),
    (dict(labels=np.full(N, 3)), ValueError, r"labels must lie in 0..2, got 3..3"),
    (dict(labels=np.full(N, -1)), ValueError, "labels must lie in 0..2"),
    (dict(labels=np.zeros(N)), TypeError, "labels must be integers"),
    (dict(labels=np.zeros(N - 1, int)), ValueError, rf"shape \({N},\)"),
    (dict(keys=KEYS[:1]), ValueError, f"keys must be one an image, {N}, got shape"),
    (dict(eps=0.0), ValueError, r"in \(0, 1\]"),
    (dict(eps=-0.1), ValueError, r"in \(0, 1\]"),
    (dict(eps=8.0), ValueError, r"8/255 is 0.0314"),
    (dict(eps=np.nan), ValueError, r"in \(0, 1\]"),
    (dict(eps=np.append(np.full(N - 1, 0.1), 0)), ValueError, r"in \(0, 1\]"),
])
def test_bad_input_is_refused_before_compilation(change, error, message):
    given = dict(images=IMAGES, labels=np.zeros(N, int), keys=KEYS, eps=0.1) | change
    with pytest.raises(error, match=message):
        attack_images(ATTACKS["pgd"], linear, identity, **given)
