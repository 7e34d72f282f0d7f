"""Attacks: one contract for all of them, and what their loop promises."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from purimetry.compression import batches, losses, randomness
from purimetry.compression.attacks import iterative, l2, linf
from purimetry.compression.attacks.apgd import apgd, apgd_targeted
from purimetry.compression.attacks.ddn import ddn
from purimetry.compression.attacks.fab import fab
from purimetry.compression.attacks.fgsm import fgsm
from purimetry.compression.attacks.momentum import momentum
from purimetry.compression.attacks.pgd import converged_pgd, pgd
from purimetry.compression.attacks.search import attack_images
from purimetry.compression.attacks.square import square
from purimetry.compression.purifiers.identity import identity
from purimetry.compression.types import Objective

# Steps of eps / 10 reach every corner of the ball from every start.
ATTACKS = {
    "fgsm": fgsm,
    "fgm": partial(fgsm, norm=l2),
    "pgd": partial(pgd, step_size=0.1),
    "pgd_l2": partial(pgd, step_size=0.1, norm=l2),
    "momentum": partial(momentum, partial(pgd, step_size=0.1), decay=0.5),
    "converged_pgd": partial(converged_pgd, restarts=4),
    "converged_pgd_l2": partial(converged_pgd, steps=40, restarts=4, norm=l2),
    "apgd": partial(apgd, steps=40, restarts=2),
    "apgd_l2": partial(apgd, steps=40, norm=l2),
    "apgd_targeted": partial(apgd_targeted, steps=40, targets=3),
    "apgd_targeted_l2": partial(apgd_targeted, steps=60, targets=3, norm=l2),
    "fab": partial(fab, steps=20, targets=3),
    "fab_l2": partial(fab, steps=20, targets=3, norm=l2),
    "ddn": partial(ddn, steps=60),
    "square": partial(square, queries=60, restarts=2),
    "square_l2": partial(square, queries=60, norm=l2),
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)

SHAPE, N, CLASSES = (3, 2, 1), 24, 4
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(0.35, 0.65, (N, *SHAPE)).astype(np.float32)
EDGED = np.where(RANDOM.random((N, *SHAPE)) < 0.4, np.round(IMAGES), IMAGES)  # every other pixel is black or white
KEYS = randomness.configurations(0, np.arange(N))
WEIGHTS = jnp.asarray(RANDOM.normal(size=(6, CLASSES)), jnp.float32)


def _logits(weights, bias, bend, x):
    straight = x.reshape(-1) @ weights + bias
    return bend * jnp.sin(5 * straight) + straight


def classifier(weights=WEIGHTS, bias=None, bend=0.0):
    """Classifiers of one program: their weights are its arguments."""
    return Partial(_logits, weights, -0.5 * weights.sum(0) if bias is None else bias, jnp.float32(bend))


linear, curved = classifier(), classifier(bend=1.0)
flat = classifier(0 * WEIGHTS, jnp.array([0.3, 0.2, 0.1, 0.0]))


logits = jax.jit(lambda classifier, images: jax.vmap(classifier)(images))
margins = jax.jit(jax.vmap(losses.margin))
started = jax.jit(lambda start, x, key: start(x, key, jnp.int32(0))[0], static_argnums=0)


def predicted(classifier, images=IMAGES):
    return np.argmax(logits(classifier, images), 1)


def run(attack, eps, classifier=curved, images=IMAGES, labels=None, keys=KEYS, **settings):
    labels = predicted(classifier, images) if labels is None else labels
    return attack_images(attack, classifier, identity, images, labels, keys[: len(images)], eps, **settings), labels


def lengths(perturbations, norm):
    flat = np.asarray(perturbations, np.float64).reshape(len(perturbations), -1)
    return np.abs(flat).max(1) if norm is linf else np.linalg.norm(flat, axis=1)


@every_attack
def test_budget_and_pixel_range_are_respected(attack):
    norm, images = attack(0.1).norm, EDGED
    eps = np.linspace(0.02, 0.9, N) * norm.largest(SHAPE)
    result, labels = run(attack, eps, images=images)
    over = lengths(result.x - images, norm) / eps
    assert over.max() < 1 + 1e-5  # float32 rounding of x + eps
    assert result.x.min() >= 0 and result.x.max() <= 1
    np.testing.assert_allclose(result.margin, margins(logits(curved, result.x), labels), atol=1e-5)  # float32
    np.testing.assert_array_equal(result.broken_at >= 0, result.margin >= 0)
    assert 0 < (result.broken_at >= 0).sum()


@every_attack
def test_a_tiny_budget_is_the_clean_classifier(attack):
    labels = np.arange(N) % CLASSES
    result, _ = run(attack, 1e-7, labels=labels)
    right = predicted(curved) == labels
    np.testing.assert_array_equal(result.broken_at, np.where(right, -1, 0))
    np.testing.assert_allclose(result.x, IMAGES, atol=2e-7)
    assert 0 < right.sum() < N and (result.gradients[~right] == 0).all()  # what is wrong already is not attacked
    assert (result.evaluations[~right] == 2).all()  # the clean image and the last check


@pytest.mark.parametrize("name", ["pgd", "converged_pgd", "apgd_targeted_l2", "fab", "square_l2"])  # each kind of each
def test_attacking_many_equals_attacking_each(name):
    """Images still unbroken have the same result; broken ones the same first break, and are then left alone."""
    attack = ATTACKS[name]
    eps = np.linspace(0.001, 0.2, 8) * attack(0.1).norm.largest(SHAPE)
    together, labels = run(attack, eps, images=IMAGES[:8])

    @jax.jit
    @jax.vmap
    def alone(x, label, key, eps):
        return attack(eps)(losses.defended(curved, identity, label), x, key)

    each = jax.tree.map(np.asarray, alone(IMAGES[:8], labels, KEYS[:8], eps.astype(np.float32)))
    np.testing.assert_array_equal(together.broken_at, each.broken_at)
    robust = together.broken_at < 0
    assert 0 < robust.sum() < 8
    np.testing.assert_allclose(together.x[robust], each.x[robust], atol=1e-6)  # float32, other fusions
    np.testing.assert_allclose(together.margin[robust], each.margin[robust], atol=1e-5)
    for spent in ("gradients", "evaluations"):
        all_of_it, some = getattr(each, spent)[robust], getattr(together, spent)
        assert (some[robust] == all_of_it).all() and len(set(all_of_it.tolist())) == 1
        assert (some[~robust] <= all_of_it[0]).all()
    assert (together.evaluations[~robust] < each.evaluations[0]).any()
    settings = attack(0.1)
    moves = settings.steps * settings.restarts
    assert each.gradients[0] == moves * settings.query.gradients
    assert each.evaluations[0] == 1 + moves * settings.query.evaluations + settings.restarts + 1


@every_attack
def test_where_nothing_slopes_nothing_breaks_and_nothing_fails(attack):
    result, _ = run(attack, 0.2, flat)
    assert (result.broken_at == -1).all() and np.isfinite(result.x).all()
    np.testing.assert_allclose(result.margin, -0.1, atol=1e-6)


@every_attack
def test_the_key_determines_the_attack_and_nothing_recompiles_it(attack):
    """The same keys give the same bits; other keys, budgets and images are only other numbers in one program."""
    first, labels = run(attack, 0.05)
    programs = batches._over_shard._cache_size()
    again, _ = run(attack, 0.05)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other, _ = run(attack, np.linspace(0.01, 0.1, N), images=EDGED, keys=randomness.configurations(1, np.arange(N)))
    assert batches._over_shard._cache_size() == programs
    elsewhere, _ = run(attack, 0.05, labels=labels, keys=randomness.configurations(1, np.arange(N)))
    one, same = (started(attack(0.1).start, IMAGES[0], key) for key in (KEYS[0], KEYS[1]))
    if np.array_equal(one, same):  # nothing is random: all starts of the table are random or clean
        np.testing.assert_array_equal(first.x, elsewhere.x)


def test_without_gradients_square_breaks_what_rounding_hides():
    """Behind rounded pixels all gradients vanish: PGD from the clean image stands still, random search does not."""
    rounded, labels = lambda x, key: jnp.round(20 * x) / 20, predicted(curved, np.round(20 * IMAGES) / 20)
    attack = lambda constructor: attack_images(constructor, curved, rounded, IMAGES, labels, KEYS, 0.15)
    still = attack(partial(pgd, steps=4, start=linf.clean_start))
    np.testing.assert_array_equal(still.x, IMAGES)
    assert (still.broken_at < 0).all() and (attack(partial(square, queries=60)).broken_at > 0).mean() > 0.5


def test_fresh_randomness_for_every_query_costs_as_much_and_judges_less():
    asked = lambda x, key: Objective(x.sum() + jax.random.normal(key), x.mean() - jnp.ones(3))
    attack = partial(square, queries=5, restarts=2)
    for constructor in (attack, partial(iterative.redrawn, attack)):
        result = jax.jit(lambda x, key: constructor(0.1)(asked, x, key))(IMAGES[0], KEYS[0])
        assert int(result.evaluations) == 1 + 2 * (5 + 1) + 1 and int(result.gradients) == 0


@pytest.mark.parametrize("eps", [0.03, 0.3])
def test_the_papers_step_is_a_hundredth_of_its_thirty_hundredths(eps):
    """Where the gradient is constant, s steps of 0.01 / 0.3 eps move each pixel by their sum (Table S6)."""
    direction = np.where(np.arange(6).reshape(SHAPE) % 2 == 0, np.float32(1), np.float32(-1))
    slope = lambda x, key: Objective((direction * x).sum(), (direction * x).sum()[None] - 10)
    x = IMAGES[0]
    for steps in (1, 7):
        moved = jax.jit(partial(pgd(eps, steps=steps, start=linf.clean_start), slope))(x, KEYS[0]).x
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
    np.testing.assert_array_equal(again.gradients, 3 * steps)


def test_an_iterate_of_a_later_restart_is_numbered_after_all_before_it():
    """The start of restart r is where r says; with 4 steps a restart judges 5 inputs, after the clean one."""
    attack = pgd(0.5, steps=4, restarts=3, step_size=0.0)
    attack = attack._replace(start=lambda x, key, restart: (x + 0.1 * restart, ()))
    at_restart = lambda wanted: lambda x, key: Objective(x.sum(), jnp.where(
        jnp.abs(x.sum() - 0.1 * wanted) < 0.01, 1.0, -1.0)[None])
    found = jax.vmap(lambda wanted: attack(at_restart(wanted), jnp.zeros((1, 1, 1)), KEYS[0]).broken_at)
    assert jax.jit(found)(np.arange(4)).tolist() == [0, 1 + 5, 1 + 10, -1]


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
    judged = margins(logits(curved, jax.jit(jax.vmap(purifier))(IMAGES, KEYS)), labels)
    np.testing.assert_allclose(result.margin, judged, atol=1e-3)  # the budget moves the margin by 1e-6 * slope


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
    (dict(labels=np.full(N, 4)), ValueError, r"labels must lie in 0..3, got 4..4"),
    (dict(labels=np.full(N, -1)), ValueError, "labels must lie in 0..3"),
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


@pytest.mark.parametrize("attack", [fgsm, pgd, converged_pgd, apgd, apgd_targeted, fab, square])
def test_a_norm_that_is_no_ball_is_refused(attack):
    with pytest.raises(TypeError, match="norm is pm.linf or pm.l2, itself and not its name, got <module 'math'"):
        attack(0.1, norm=math)  # a name, as 'l2', is refused by the same check where the types are not checked
