"""EOT and BPDA as compositions of losses: exact limits, closed forms, and attacks that see one thing and face another.

Most purifiers here are x -> A x + b + noise(key) or of that kind, so gradients are known.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import batches, losses, randomness
from purimetry.compression.attacks import linf
from purimetry.compression.attacks.iterative import redrawn
from purimetry.compression.attacks.pgd import pgd
from purimetry.compression.attacks.search import attack_images, judge_images
from purimetry.compression.gradients import (
    bpda, cosine, eot, expectation_over_randomness, gradient_agreement, straight_through,
)
from purimetry.compression.types import Objective

SHAPE, D, N = (3, 2, 1), 6, 12
RANDOM = np.random.default_rng(0)
MATRIX = jax.device_put(np.eye(D) / 2 + RANDOM.normal(size=(D, D)) / 3)
WEIGHTS = jax.device_put(RANDOM.normal(size=(D, 3)))
IMAGES = RANDOM.uniform(0.3, 0.7, (N, *SHAPE)).astype(np.float32)
X, LABEL, KEY = jax.device_put(IMAGES[0]), jnp.int32(0), pm.configuration(0, 0)
KEYS, FRESH = (pm.configurations(seed, np.arange(N)) for seed in (0, 1))
CORNERS = partial(pgd, steps=4, step_size=1.0, start=linf.clean_start)
"""Where the gradient keeps its signs, one step reaches the corner of the budget, and the rest stay there."""


def noisy(x, key):
    return (MATRIX @ x.ravel()).reshape(x.shape) + 0.3 * jax.random.normal(key, x.shape)


def curved(x):
    return jnp.sin(3 * x.ravel() @ WEIGHTS) + x.ravel() @ WEIGHTS


def linear(x):
    """Two classes, the second likelier where w . x is larger; always the first in [0, 1]."""
    return jnp.stack([jnp.float32(9), x.ravel() @ WEIGHTS[:, 0]])


PREDICTED = np.argmax(jax.jit(jax.vmap(curved))(IMAGES), 1)


@partial(jax.jit, static_argnums=0)
def evaluated(loss, x, key):
    return loss(x, key)


@partial(jax.jit, static_argnums=0)
def gradient(loss, key=KEY, x=X):
    return jax.grad(lambda x: loss(x, key).ascent)(x)


def test_an_expectation_over_one_draw_is_the_loss_at_that_draw():
    loss = losses.defended(curved, noisy, LABEL)
    one, same = evaluated(expectation_over_randomness(loss, 1), X, KEY), evaluated(loss, X, randomness.redraw(KEY, 0))
    np.testing.assert_allclose(one.ascent, same.ascent, rtol=1e-6)
    np.testing.assert_allclose(one.margins, same.margins, rtol=1e-6)


def test_an_expectation_has_the_mean_loss_its_mean_gradient_and_the_margins_of_the_mean_logits():
    views = losses.defended, partial(eot, draws=7)
    plain, mean = (view(curved, noisy, LABEL, losses.cross_entropy) for view in views)
    draws = randomness.redraws(KEY, 7)
    both = lambda loss: lambda key: (loss(X, key), gradient(loss, key))
    (found, slope), (each, slopes) = jax.device_get((jax.jit(both(mean))(KEY), jax.jit(jax.vmap(both(plain)))(draws)))
    np.testing.assert_allclose(found.ascent, np.mean(each.ascent), rtol=1e-5)
    np.testing.assert_allclose(slope, np.mean(slopes, 0), atol=1e-5)
    logits = lambda draws: jax.vmap(lambda key: curved(noisy(X, key)))(draws).mean(0)
    expected = jax.jit(lambda draws: losses.margins(logits(draws), LABEL))(draws)
    np.testing.assert_allclose(found.margins, expected, atol=1e-5)  # float32
    assert np.max(found.margins) <= np.max(each.margins, 1).mean() + 1e-6  # Jensen


def test_draws_are_those_of_the_key_and_no_others():
    at = lambda key: float(evaluated(eot(curved, noisy, LABEL, draws=3), X, key).ascent)
    one, same, other = at(KEY), at(KEY), at(FRESH[0])
    assert one == same != other

    @jax.jit
    def derived(key):
        keys = [key, *randomness.redraws(key, 5), *(randomness.step_key(key, d, 0) for d in range(4))]
        return jax.random.key_data(jnp.stack(keys))

    assert len(np.unique(derived(KEY), axis=0)) == 10


def test_the_error_of_an_expectation_falls_as_one_over_its_draws():
    """Of E (x + z)^2, z standard normal, the gradient is 2 x, and from k draws it errs by 4 / k in mean square."""
    square = lambda x, key: Objective(jnp.sum((x + jax.random.normal(key, x.shape)) ** 2), jnp.zeros(2))
    keys = pm.configurations(3, np.arange(400))
    for k in (1, 4, 16):
        mean = expectation_over_randomness(square, k)
        found = np.asarray(jax.jit(jax.vmap(lambda key: jnp.mean((gradient(mean, key) - 2 * X) ** 2)))(keys))
        assert abs(found.mean() - 4 / k) < 4 * found.std() / 20  # 4 standard errors


def test_straight_through_keeps_the_value_and_drops_the_jacobian():
    rounded = lambda x, key: jnp.round(4 * noisy(x, key)) / 4
    through = straight_through(rounded)
    np.testing.assert_array_equal(evaluated(through, X, KEY), evaluated(rounded, X, KEY))
    seen = bpda(curved, rounded, LABEL, losses.cross_entropy)
    at = jax.grad(lambda purified: losses.cross_entropy(curved(purified), LABEL))
    np.testing.assert_allclose(gradient(seen), evaluated(lambda x, key: at(rounded(x, key)), X, KEY), rtol=1e-6)
    plain = losses.defended(curved, rounded, LABEL, losses.cross_entropy)
    np.testing.assert_array_equal(gradient(plain), np.zeros(SHAPE))
    true, found = (evaluated(view(curved, rounded, LABEL), X, KEY) for view in (losses.defended, bpda))
    jax.tree.map(np.testing.assert_array_equal, true, found)


def test_straight_through_what_has_no_derivative():
    """As a function outside of JAX."""
    rounded = lambda x, key: jax.pure_callback(lambda x: np.round(x), x, x)
    x, through = np.full((2, 2, 1), 0.7, np.float32), lambda x: straight_through(rounded)(x, KEY)
    value, slope = map(np.asarray, jax.jit(lambda x: jax.jvp(through, (x,), (x,)))(x))
    assert (value == 1).all() and (slope == x).all()
    assert (np.asarray(jax.jit(jax.grad(lambda x: through(x).sum()))(x)) == 1).all()


def test_straight_through_the_identity_changes_nothing():
    plain, through = (view(curved, pm.identity, LABEL, losses.margin) for view in (losses.defended, bpda))
    np.testing.assert_array_equal(gradient(plain), gradient(through))


def test_views_compose_to_bpda_eot():
    both = eot(curved, noisy, LABEL, draws=5, view=bpda)
    at = jax.grad(lambda a: losses.margin(curved(a), LABEL))
    each = jax.jit(jax.vmap(lambda key: at(noisy(X, key))))(randomness.redraws(KEY, 5))
    np.testing.assert_allclose(gradient(both), np.asarray(each).mean(0), atol=1e-5)


def test_straight_through_weights_stay_inputs_of_the_program():
    """A wrapped pytree is a pytree: its weights are leaves, not constants."""
    purifier = jax.tree_util.Partial(lambda scale, x, key: scale * x, jnp.float32(0.5))
    assert [leaf.item() for leaf in jax.tree.leaves(straight_through(purifier))] == [0.5]


def test_cosines_of_known_angles():
    a, b, found = np.float32([[1, 0]]), np.float32([[1, 1]]), jax.jit(cosine)
    np.testing.assert_allclose([found(a, b), found(a, -a), found(a, 0 * a)], [2**-0.5, -1, 0], rtol=1e-6)
    for size in np.float32([1e-30, 1e30]):  # whose squares float32 does not hold
        np.testing.assert_allclose(found(size * a, size * b), 2**-0.5, rtol=1e-6)


def test_agreement_of_gradients_follows_their_signal_and_noise():
    """x + s z under a quadratic margin |x|^2 / 2 has gradient x + s z: signal |x|^2, noise s^2 d, in d = 400 pixels."""
    d, s, others, sizes, images = 400, 1.0, 50, (1, 4, 16), 200
    x = jnp.asarray(RANDOM.normal(size=(20, 20, 1)), jnp.float32)
    quadratic = lambda a: jnp.stack([0.0, 0.5 * jnp.sum(a**2)])
    measure = partial(gradient_agreement, quadratic, lambda x, key: x + s * jax.random.normal(key, x.shape), x, LABEL,
                      sizes=sizes, others=others)
    found = jax.jit(jax.vmap(lambda key: measure(key)))(pm.configurations(0, np.arange(images)))
    signal, noise, k = float(np.sum(np.square(x))), s**2 * d, np.array(sizes)
    against = lambda n: signal / np.sqrt((signal + noise / k) * (signal + noise / n))
    for values, expected in ((found.fixed, against(1)), (found.reference, against(others))):
        values = np.asarray(values)
        # 4 standard errors over keys, and the formula's own O(1 / d).
        assert (np.abs(values.mean(0) - expected) < 4 * values.std(0) / images**0.5 + 2 / d).all()


def test_agreement_without_randomness_is_complete():
    agreement = lambda x, key: gradient_agreement(curved, pm.identity, x, LABEL, key, sizes=(1, 3), others=2)
    np.testing.assert_allclose(evaluated(agreement, X, KEY), np.ones((2, 2)), rtol=1e-5)


@pytest.mark.parametrize("call", [
    lambda: eot(curved, noisy, LABEL, draws=0),
    lambda: gradient_agreement(curved, noisy, X, LABEL, KEY, sizes=(0, 1)),
    lambda: gradient_agreement(curved, noisy, X, LABEL, KEY, others=0),
])
def test_no_draws_are_refused(call):
    with pytest.raises(ValueError, match="at least 1"):
        call()


# Attacks that see one thing and are judged by another.


def run(purifier, classifier=linear, attack=CORNERS, eps=0.1, **settings):
    return attack_images(attack, classifier, purifier, IMAGES, np.zeros(N, int), KEYS, eps, **settings)


def corner(direction):
    return IMAGES + 0.1 * np.sign(direction).reshape(-1, *SHAPE)


def test_each_view_reaches_the_corner_that_it_sees():
    """Of w . (M x) the defence's gradient is M^T w and BPDA's is w; of w . (s(xi) x) EOT's is the mean of s w."""
    w, matrix = np.asarray(WEIGHTS)[:, 0], np.asarray(MATRIX)
    assert (np.sign(matrix.T @ w) != np.sign(w)).any()
    np.testing.assert_allclose(run(noisy).x, corner(matrix.T @ w), atol=1e-6)
    np.testing.assert_allclose(run(noisy, view=bpda).x, corner(w), atol=1e-6)
    signs = lambda key: jnp.where(jax.random.bernoulli(key, 0.6, SHAPE), 1.0, -1.0)
    flipped = lambda x, key: signs(key) * x
    drawn = lambda key: (signs(key).ravel(), jax.vmap(signs)(randomness.redraws(key, 9)).mean(0).ravel())
    own, mean = (w * np.asarray(factors) for factors in jax.jit(jax.vmap(drawn))(KEYS))
    np.testing.assert_allclose(run(flipped).x, corner(own), atol=1e-6)
    np.testing.assert_allclose(run(flipped, view=partial(eot, draws=9)).x, corner(mean), atol=1e-6)
    gains = (mean * np.sign(w)).sum(1) > 0  # where BPDA's corner gains nothing, the clean image stays the best
    expected = np.where(gains[:, None, None, None], corner(w), IMAGES)
    np.testing.assert_allclose(run(flipped, view=partial(eot, draws=9, view=bpda)).x, expected, atol=1e-6)
    assert 0 < gains.sum() < N


def test_bpda_is_judged_by_the_defence_itself():
    """Rounding has no gradient: the full-gradient attack stands still, and BPDA breaks what it says it breaks."""
    rounded = lambda x, key: jnp.round(20 * x) / 20
    attack = lambda view: attack_images(CORNERS, curved, rounded, IMAGES, PREDICTED, KEYS, 0.2, view=view)
    still, through = attack(losses.defended), attack(bpda)
    np.testing.assert_array_equal(still.x, IMAGES)
    np.testing.assert_allclose(through.margin, judge_images(curved, rounded, through.x, PREDICTED, KEYS), atol=1e-6)
    assert (through.broken_at >= 0).sum() > (still.broken_at >= 0).sum()


def test_what_is_returned_is_the_best_by_the_attacks_own_view():
    """Random starts and long steps, so that the last iterate is often not the best."""
    view, attack = partial(eot, draws=3), partial(pgd, steps=6, step_size=1.5, restarts=2)
    result = attack_images(attack, curved, noisy, IMAGES, PREDICTED, KEYS, 0.3, view=view, confidence=np.inf)

    @jax.jit
    def alone(x, label, key):
        return attack(0.3)(view(curved, noisy, label, losses.margin), x, key)

    for i in range(4):
        expected = alone(IMAGES[i], PREDICTED[i], KEYS[i])
        np.testing.assert_allclose(result.margin[i], expected.margin, atol=1e-4)  # float32, other fusions
        np.testing.assert_allclose(result.x[i], expected.x, atol=1e-5)
        assert result.broken_at[i] == expected.broken_at and result.gradients[i] == expected.gradients == 12


def test_confidence_says_when_an_image_is_left_alone():
    """Towards the second class the margin rises with every step; infinity spends them all, 0 stops at the break."""
    rising = lambda x: jnp.stack([0.0, 10 * x.mean() - 5])
    attack = partial(pgd, steps=40, step_size=0.05, start=linf.clean_start)
    images = np.full((3, *SHAPE), 0.45, np.float32)
    found = {confidence: attack_images(attack, rising, pm.identity, images, np.zeros(3, int), KEYS[:3], 0.3,
                                       confidence=confidence) for confidence in (0.0, 1.0, np.inf)}
    spent, margin = (np.array([getattr(r, name)[0] for r in found.values()]) for name in ("gradients", "margin"))
    assert spent.tolist() == [8, 12, 40]  # a step gains 0.15 from -0.5, and segments are of 4 steps
    assert 0 <= margin[0] < 1 <= margin[1] < 2 and np.isclose(margin[2], 2.5)
    assert all((r.broken_at == found[0.0].broken_at).all() for r in found.values())


@pytest.mark.parametrize("confidence", [-1.0, np.nan])
def test_a_confidence_that_is_none_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence is a margin >= 0"):
        run(noisy, confidence=confidence)


def test_images_are_judged_under_the_keys_that_are_given():
    labels = np.arange(N) % 3
    margins = jax.jit(jax.vmap(lambda x, label, key: losses.margin(curved(noisy(x, key)), label)))
    for keys in (KEYS, FRESH):
        expected = margins(IMAGES, labels, keys)
        np.testing.assert_allclose(judge_images(curved, noisy, IMAGES, labels, keys), expected, atol=1e-5)


@pytest.mark.parametrize("change, error, message", [
    (dict(images=255 * IMAGES), ValueError, r"must lie in \[0, 1\]"),
    (dict(labels=np.full(N, 3)), ValueError, r"labels must lie in 0..2"),
    (dict(keys=KEYS[:2]), ValueError, "keys must be one an image"),
    (dict(purifier=lambda x, key: x[:2]), ValueError, "keep the image's shape"),
])
def test_what_cannot_be_judged_is_refused(change, error, message):
    given = dict(classifier=curved, purifier=noisy, images=IMAGES, labels=np.zeros(N, int), keys=KEYS) | change
    with pytest.raises(error, match=message):
        judge_images(**given)


def test_fresh_randomness_is_new_for_every_gradient_and_judges_only_clean_and_last_iterates():
    """The loss x . u(xi) moves by the sign of u: where it ends tells which keys it saw."""
    direction = lambda key: jax.random.normal(key, SHAPE)
    loss = lambda x, key: Objective(jnp.sum(x * direction(key)), jnp.full(2, -1.0) + x.mean() / 1000)
    attack = partial(pgd, steps=5, step_size=0.1, restarts=2, start=linf.clean_start)
    attacked = lambda loss: evaluated(partial(redrawn(attack, 0.5), loss), X, KEY)
    result, clean = attacked(loss), IMAGES[0]
    # Moves of 0.05 never meet the budget of 0.5 or the range. The margin grows with the mean pixel.
    directions = jax.jit(jax.vmap(lambda j: direction(randomness.redraw(KEY, j))))(np.arange(10))
    ends = clean + 0.05 * np.sign(directions).reshape(2, 5, *SHAPE).sum(1)
    np.testing.assert_allclose(result.x, max([clean, *ends], key=np.mean), atol=1e-6)
    assert result.gradients == 10
    spike = lambda x, key: Objective(x.sum(), jnp.where(jnp.abs(x.mean() - target) < 1e-3, 1.0, -1.0) * jnp.ones(2))
    for steps, expected in ((5, 1), (3, -1)):  # the last iterate of the first restart is judged second; others are not
        target = clean.mean() + 0.05 * steps
        assert attacked(spike).broken_at == expected


def test_fresh_randomness_and_views_recompile_for_no_budget():
    def compilations(eps):
        before = batches._over_shard._cache_size()
        attack_images(partial(redrawn, partial(pgd, steps=4)), curved, noisy, IMAGES, np.zeros(N, int), KEYS, eps,
                      view=partial(eot, draws=2, view=bpda), confidence=np.inf)
        return batches._over_shard._cache_size() - before

    compilations(0.1)
    assert [compilations(eps) for eps in (0.2, 0.3)] == [0, 0]
