"""Ensembles of a random defence: closed forms, limits, and gradients through all draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import purimetry as pm
from purimetry.compression import batches, ensembles, losses, randomness
from purimetry.compression.attacks import linf
from purimetry.compression.ensembles import (
    Pooled, ensemble_classifier, majority_vote, mean_of_logits, mean_of_softmax,
)

RANDOM = np.random.default_rng(0)
LOGITS = np.float32(3 * RANDOM.normal(size=(7, 4)))
SHAPE, KEY, LABEL = (3, 2, 1), pm.configuration(0, 0), jnp.int32(1)
WEIGHTS = np.float32(RANDOM.normal(size=(6, 4)))
X = np.float32(RANDOM.uniform(size=SHAPE))
COMBINATIONS = (mean_of_softmax, mean_of_logits, majority_vote)
every_combination = pytest.mark.parametrize("combine", COMBINATIONS)


def classifier(x):
    return jnp.tanh(3 * x.ravel() @ WEIGHTS) * 2


def noisy(x, key):
    return x + 0.5 * jax.random.normal(key, x.shape)


def test_the_mean_of_softmax_is_the_mean_probability_as_logits():
    found, entropies = jax.jit(lambda logits: (jax.nn.softmax(logits), jax.vmap(losses.cross_entropy, (None, 0))(
        logits, jnp.arange(4))))(jax.jit(mean_of_softmax)(LOGITS))
    mean = special.softmax(LOGITS, 1).mean(0)
    np.testing.assert_allclose(found, mean, rtol=1e-5)
    np.testing.assert_allclose(entropies, -np.log(mean), rtol=1e-5)


def test_means_of_confident_draws_are_finite_where_probabilities_are_not():
    far = np.array([[0.0, 300.0], [0.0, 400.0]])
    mean, slopes = jax.jit(lambda far: (mean_of_softmax(far), jax.jacobian(mean_of_softmax)(far)))(far)
    np.testing.assert_allclose(mean, [np.logaddexp(-300, -400) - np.log(2), 0.0], rtol=1e-6)
    assert np.isfinite(slopes).all()


def test_a_confident_draw_outweighs_logits_but_not_probabilities_or_votes():
    draws = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 9.0]])
    decided = jax.jit(lambda draws: [combine(draws).argmax() for combine in COMBINATIONS])(draws)
    assert list(map(int, decided)) == [0, 1, 0]


@every_combination
def test_equal_draws_decide_as_one(combine):
    assert np.asarray(jax.jit(combine)(np.tile(LOGITS[0], (5, 1)))).argmax() == LOGITS[0].argmax()


def test_votes_are_counted_and_have_the_gradient_of_expected_votes():
    expected_votes = lambda a: jax.nn.softmax(a).sum(0)
    votes, slopes, expected = jax.jit(lambda a: (
        majority_vote(a), jax.jacobian(majority_vote)(a), jax.jacobian(expected_votes)(a)))(LOGITS)
    np.testing.assert_array_equal(votes, np.bincount(LOGITS.argmax(1), minlength=4))
    np.testing.assert_allclose(slopes, expected, atol=1e-7)
    of_tie = jax.jit(lambda label: losses.margin(majority_vote(jnp.eye(2)), label))
    assert float(of_tie(0)) == 0 == float(of_tie(1))


@jax.jit
def five_draws(x, key):
    return jnp.stack([classifier(noisy(x, xi)) for xi in randomness.redraws(key, 5)])


@every_combination
def test_an_ensemble_combines_the_draws_of_its_key(combine):
    judged = lambda logits: (logits, losses.cross_entropy(logits, LABEL), losses.margins(logits, LABEL))
    by_hand = jax.jit(lambda each: judged(combine(each)))(five_draws(X, KEY))
    decide = ensemble_classifier(classifier, noisy, 5, combine)
    view = Pooled(5, combine)(classifier, noisy, LABEL, losses.cross_entropy)
    ours = jax.jit(lambda x, key: (decide(x, key), *view(x, key)))(X, KEY)
    for found, expected in zip(ours, by_hand, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)  # float32, other fusions


def test_an_ensemble_of_one_draw_is_that_draw():
    one = Pooled(1)(classifier, noisy, LABEL)
    alone = losses.defended(classifier, noisy, LABEL)
    found, same = jax.jit(lambda x, key: (one(x, key).margin, alone(x, randomness.redraw(key, 0)).margin))(X, KEY)
    np.testing.assert_allclose(found, same, atol=1e-5)


def test_its_gradient_is_that_of_finite_differences():
    loss = lambda x: Pooled(6)(classifier, noisy, LABEL)(x, KEY).ascent
    with jax.enable_x64(True):
        x, direction = np.float64(X), RANDOM.normal(size=SHAPE)
        loss_at, slope_at = jax.jit(loss), jax.jit(lambda x: jax.jvp(loss, (x,), (direction,))[1])
        slope = float(loss_at(x + 1e-5 * direction) - loss_at(x - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(slope_at(x), slope, rtol=1e-5)


def test_mean_logits_have_the_margins_of_an_expectation():
    """`gradients.eot` judges by the margins of the mean logits."""
    views = Pooled(5, mean_of_logits)(classifier, noisy, LABEL), pm.eot(classifier, noisy, LABEL, draws=5)
    ours, theirs = jax.jit(lambda x, key: [view(x, key).margins for view in views])(X, KEY)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_an_attack_goes_through_all_draws():
    """Each draw sees one half of w . x with the sign +1 or -1, so only their sum tells where the ensemble gives in."""
    signs = lambda key: jnp.where(jax.random.bernoulli(key, 0.7, SHAPE), 1.0, -1.0)
    seen = lambda x, key: signs(key) * (x - 0.5)
    decide = lambda x: jnp.stack([0.0, x.ravel() @ WEIGHTS[:, 0] - 1])
    images, keys = np.full((8, *SHAPE), 0.5, np.float32), pm.configurations(0, np.arange(8))
    attack = partial(pm.pgd, steps=3, step_size=1.0, start=linf.clean_start)
    found = pm.attack_images(attack, decide, seen, images, np.zeros(8, int), keys, 0.1, view=Pooled(9, mean_of_logits))
    total = jax.jit(jax.vmap(lambda key: jax.vmap(signs)(randomness.redraws(key, 9)).sum(0)))(keys)
    expected = images + 0.1 * np.sign(np.asarray(total) * WEIGHTS[:, 0].reshape(SHAPE))
    np.testing.assert_allclose(found.x, expected, atol=1e-6)


def test_an_equal_ensemble_made_anew_finds_the_compiled_program():
    images, keys = np.full((4, *SHAPE), 0.5, np.float32), pm.configurations(0, np.arange(4))
    attack = partial(pm.pgd, steps=2)
    run = lambda draws: pm.attack_images(attack, classifier, noisy, images, np.zeros(4, int), keys, 0.1,
                                         view=Pooled(draws))
    run(3)
    before = batches._over_shard._cache_size()
    run(3)
    assert batches._over_shard._cache_size() == before


def test_no_draws_are_refused():
    with pytest.raises(ValueError, match="at least 1 draw, got 0"):
        ensembles.Pooled(0)(classifier, noisy, LABEL)
