"""Ensembles of a random defence: closed forms, limits, and gradients through all draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import batches, ensembles, losses, randomness
from purimetry.compression.attacks import linf
from purimetry.compression.ensembles import (
    Pooled, ensemble_classifier, majority_vote, mean_of_logits, mean_of_softmax,
)

RANDOM = np.random.default_rng(0)
LOGITS = jnp.asarray(3 * RANDOM.normal(size=(7, 4)), jnp.float32)
SHAPE, KEY, LABEL = (3, 2, 1), pm.configuration(0, 0), jnp.int32(1)
WEIGHTS = jnp.asarray(RANDOM.normal(size=(6, 4)), jnp.float32)
X = jnp.asarray(RANDOM.uniform(size=SHAPE), jnp.float32)
COMBINATIONS = (mean_of_softmax, mean_of_logits, majority_vote)
every_combination = pytest.mark.parametrize("combine", COMBINATIONS)


def classifier(x):
    return jnp.tanh(3 * x.ravel() @ WEIGHTS) * 2


def noisy(x, key):
    return x + 0.5 * jax.random.normal(key, x.shape)


def test_the_mean_of_softmax_is_the_mean_probability_as_logits():
    mean = jax.nn.softmax(LOGITS).mean(0)
    np.testing.assert_allclose(jax.nn.softmax(mean_of_softmax(LOGITS)), mean, rtol=1e-5)
    for label in range(4):
        np.testing.assert_allclose(losses.cross_entropy(mean_of_softmax(LOGITS), jnp.int32(label)),
                                   -jnp.log(mean[label]), rtol=1e-5)


def test_means_of_confident_draws_are_finite_where_probabilities_are_not():
    far = jnp.array([[0.0, 300.0], [0.0, 400.0]])
    np.testing.assert_allclose(mean_of_softmax(far), [np.logaddexp(-300, -400) - np.log(2), 0.0], rtol=1e-6)
    assert jnp.isfinite(jax.jacobian(mean_of_softmax)(far)).all()


def test_a_confident_draw_outweighs_logits_but_not_probabilities_or_votes():
    draws = jnp.array([[2.0, 0.0], [2.0, 0.0], [0.0, 9.0]])
    assert [int(combine(draws).argmax()) for combine in COMBINATIONS] == [0, 1, 0]


@every_combination
def test_equal_draws_decide_as_one(combine):
    assert int(combine(jnp.tile(LOGITS[0], (5, 1))).argmax()) == int(LOGITS[0].argmax())


def test_votes_are_counted_and_have_the_gradient_of_expected_votes():
    np.testing.assert_array_equal(majority_vote(LOGITS), np.bincount(np.asarray(LOGITS).argmax(1), minlength=4))
    expected = jax.jacobian(lambda a: jax.nn.softmax(a).sum(0))(LOGITS)
    np.testing.assert_allclose(jax.jacobian(majority_vote)(LOGITS), expected, atol=1e-7)
    tie = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    assert losses.margin(majority_vote(tie), jnp.int32(0)) == 0 == losses.margin(majority_vote(tie), jnp.int32(1))


@every_combination
def test_an_ensemble_combines_the_draws_of_its_key(combine):
    each = jnp.stack([classifier(noisy(X, key)) for key in randomness.redraws(KEY, 5)])
    decide = ensemble_classifier(classifier, noisy, 5, combine)
    np.testing.assert_allclose(decide(X, KEY), combine(each), atol=1e-5)  # float32, other fusions
    found = Pooled(5, combine)(classifier, noisy, LABEL, losses.cross_entropy)(X, KEY)
    np.testing.assert_allclose(found.ascent, losses.cross_entropy(combine(each), LABEL), atol=1e-5)
    np.testing.assert_allclose(found.margins, losses.margins(combine(each), LABEL), atol=1e-5)


def test_an_ensemble_of_one_draw_is_that_draw():
    one = Pooled(1)(classifier, noisy, LABEL)(X, KEY)
    same = losses.defended(classifier, noisy, LABEL)(X, randomness.redraw(KEY, 0))
    np.testing.assert_allclose(one.margin, same.margin, atol=1e-5)


def test_its_gradient_is_that_of_finite_differences():
    loss = lambda x: Pooled(6)(classifier, noisy, LABEL)(x, KEY).ascent
    with jax.enable_x64(True):
        x, direction = jnp.asarray(X, jnp.float64), jnp.asarray(RANDOM.normal(size=SHAPE))
        slope = (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(jax.jvp(loss, (x,), (direction,))[1], slope, rtol=1e-5)


def test_mean_logits_have_the_margins_of_an_expectation():
    """`gradients.eot` judges by the margins of the mean logits."""
    ours = Pooled(5, mean_of_logits)(classifier, noisy, LABEL)(X, KEY)
    np.testing.assert_allclose(ours.margins, pm.eot(classifier, noisy, LABEL, draws=5)(X, KEY).margins, atol=1e-5)


def test_an_attack_goes_through_all_draws():
    """Each draw sees one half of w . x with the sign +1 or -1, so only their sum tells where the ensemble gives in."""
    signs = lambda key: jnp.where(jax.random.bernoulli(key, 0.7, SHAPE), 1.0, -1.0)
    seen = lambda x, key: signs(key) * (x - 0.5)
    decide = lambda x: jnp.stack([0.0, x.ravel() @ WEIGHTS[:, 0] - 1])
    images, keys = np.full((8, *SHAPE), 0.5, np.float32), pm.configurations(0, np.arange(8))
    attack = partial(pm.pgd, steps=3, step_size=1.0, start=linf.clean_start)
    found = pm.attack_images(attack, decide, seen, images, np.zeros(8, int), keys, 0.1, view=Pooled(9, mean_of_logits))
    total = np.stack([np.sum([signs(xi) for xi in randomness.redraws(key, 9)], 0) for key in keys])
    expected = images + 0.1 * np.sign(total * np.asarray(WEIGHTS[:, 0]).reshape(SHAPE))
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
