"""Bad input gets an error that names what was expected, what came and what to do."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression.checks import check_keys
from purimetry.compression.networks.from_torch import from_torch

GOOD = np.full((2, 4, 4, 1), 0.5, np.float32)
KEYS = pm.configurations(0, np.arange(2))
FLAT = lambda x: 10 * x.ravel()


@pytest.mark.parametrize("images, error, message", [
    (np.zeros((2, 4, 4, 1), np.uint8), TypeError, "floating point .* got uint8; divide integer pixels by 255"),
    (GOOD[0], ValueError, r"must be \[n, height, width, channel\], got shape \(4, 4, 1\); for one, use x\[None\]"),
    (GOOD[:0], ValueError, "at least one image"),
    (np.where(np.arange(2)[:, None, None, None] == 1, np.nan, GOOD), ValueError, "must be finite, image 1 is not"),
    (2 * GOOD - 1 - 0.1, ValueError, r"must lie in \[0, 1\], got \[-0.1, -0.1\]; rescale"),
    (np.zeros((2, 3, 8, 8), np.float32), ValueError, r"channels first; use images.transpose\(0, 2, 3, 1\)"),
    (255 * GOOD, ValueError, r"must lie in \[0, 1\], got \[127.5, 127.5\]"),
])
def test_images(images, error, message):
    with pytest.raises(error, match=message):
        pm.check_images(images)
    with pytest.raises(error, match=message):
        pm.purify(pm.identity, images, KEYS)


@pytest.mark.parametrize("labels, error, message", [
    (np.zeros(2), TypeError, "must be integers, got float64"),
    (np.zeros(3, int), ValueError, r"must have shape \(2,\)"),
    (np.array([0, -1]), ValueError, r"must lie in 0..9, got -1..0"),
    (np.array([0, 10]), ValueError, r"must lie in 0..9, got 0..10"),
])
def test_labels(labels, error, message):
    with pytest.raises(error, match=message):
        pm.check_labels(labels, 2, 10)


def test_labels_may_be_a_list():
    """And are not taken for a pytree of as many arrays."""
    images = np.array([0.75, 0.5], np.float32).reshape(1, 1, 2, 1)
    flat = (lambda x: x.reshape(-1), pm.identity)
    assert pm.judge_images(*flat, images, [0], KEYS[:1]).tolist() == [-0.25]
    for found in (pm.attack_images(pm.fgsm, *flat, images, [0], KEYS[:1], 0.2),
                  pm.transfer(pm.fgsm, flat, flat, images, [0], KEYS[:1], 0.2)):
        assert found.broken_at[0] > 0


@pytest.mark.parametrize("eps", [0.0, -0.1, 8.0, float("nan"), np.array([0.1, 0.0])])
def test_budget(eps):
    with pytest.raises(ValueError, match=r"budget in pixel units in \(0, 1\]"):
        pm.check_budget(eps)


@pytest.mark.parametrize("classifier, error, message", [
    (lambda x: jax.nn.softmax(x.ravel()), ValueError, "returns probabilities .* expected logits; remove its softmax"),
    (lambda x: x, ValueError, "vector of logits"),
    (lambda x: x.ravel() * jnp.nan, FloatingPointError, "non-finite logits"),
])
def test_classifier(classifier, error, message):
    with pytest.raises(error, match=message):
        pm.check_classifier(classifier, GOOD)


@pytest.mark.parametrize("images, error", [(255 * GOOD, ValueError), (GOOD.astype(np.uint8), TypeError)])
def test_functions_are_not_blamed_for_their_images(images, error):
    with pytest.raises(error, match="images must"):
        pm.check_classifier(FLAT, images)
    with pytest.raises(error, match="images must"):
        pm.check_purifier(lambda x, key: x, images, KEYS)


def test_a_classifier_that_is_random():
    generator = np.random.default_rng(0)
    drop = lambda x: jax.pure_callback(lambda x: (x.ravel() * generator.integers(0, 2, 16)).astype(np.float32),
                                       jax.ShapeDtypeStruct((16,), np.float32), x, vmap_method="sequential")
    with pytest.raises(ValueError, match="other logits for the same images .* evaluation"):
        pm.check_classifier(drop, GOOD)


def test_classifier_that_gives_logits_passes():
    assert pm.check_classifier(lambda x: x.ravel(), GOOD) == 16


class Restless:
    """Random although its key is fixed: it draws from a generator of its own."""

    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __call__(self, x, key):
        return x * self.generator.uniform()


def restless(x, key):
    """The same while it is traced; which JAX does once for all calls of a jitted function."""
    return jnp.clip(x + 0.1 * np.random.randn(*x.shape), 0, 1).astype(x.dtype)


def scanned(x, key):
    """A jitted function in a loop in a function."""
    return jax.lax.scan(lambda x, _: (jax.jit(restless)(x, key), None), x, None, 2)[0]


@pytest.mark.parametrize("purifier, error, message", [
    (lambda x, key: x[:2], ValueError, r"must keep the image's shape \(4, 4, 1\), got \(2, 4, 1\)"),
    (Restless(), ValueError, "random although its key is fixed; draw all its noise from the key"),
    (jax.jit(restless), ValueError, "random although its key is fixed"),
    (lambda x, key: jax.jit(restless)(x, key) / 2, ValueError, "random although its key is fixed"),
    (scanned, ValueError, "random although its key is fixed"), (jax.jit(scanned), ValueError, "random although"),
    (lambda x, key: x * jnp.inf, FloatingPointError, "non-finite pixels"),
    (lambda x, key: 2 * x - 1.5, ValueError, r"pixels in \[0, 1\], got \[-0.5, -0.5\]"),
])
def test_purifier(purifier, error, message):
    with pytest.raises(error, match=message):
        pm.check_purifier(purifier, GOOD, KEYS)


def test_purifiers_that_keep_the_contract_pass():
    steps = pm.ddpm(pm.respaced(pm.linear(), 100), 3)
    for purifier in (pm.identity, pm.diffusion(lambda x_t, t: 0.1 * x_t, steps)):
        pm.check_purifier(purifier, GOOD, KEYS)


def test_a_loop_that_overflows_names_the_image_and_the_step():
    """The predictor is bad for bright images from the network's time 29, which is step t = 3 of 100, downwards."""
    steps = pm.ddim(pm.respaced(pm.linear(), 100), 5)
    predictor = lambda x_t, t: jnp.where((t <= 29) & (x_t.mean() > 0.5), jnp.inf, 0 * x_t)
    images = np.stack([np.zeros((4, 4, 1)), np.ones((4, 4, 1))]).astype(np.float32)
    with pytest.raises(pm.NonFinite, match="not finite for image 1 .* first in reverse step t = 3") as caught:
        pm.purify(pm.diffusion(predictor, steps), images, KEYS)
    assert caught.value.image == 1


def test_rows_of_different_lengths():
    with pytest.raises(ValueError, match="must share one length >= 1"):
        pm.over_images(lambda a, b: a + b, (), jnp.zeros(2), jnp.zeros(3))


def test_an_equal_partial_made_anew_finds_the_compiled_program():
    from purimetry.compression import batches

    before = batches._over_shard._cache_size()
    for eps in (0.1, 0.2, 0.3):
        for _ in range(2):
            attack, labels = partial(pm.pgd, steps=2), np.array([0, 1])
            pm.attack_images(attack, lambda_classifier, pm.identity, GOOD, labels, KEYS, eps)
    assert batches._over_shard._cache_size() - before <= 7  # margins, unbroken, restart, segment, last, inside, result


def lambda_classifier(x):
    return jnp.stack([x.mean(), 0.4 + 0 * x.mean()])


def unchecked(function):
    """As users have it: without the check of types that the suite puts around it, which would speak first."""
    return function.__wrapped__


def evaluated(protocols=(), attacks=None, gradients=pm.FULL):
    return unchecked(pm.evaluate)(protocols, attacks or {}, FLAT, pm.identity, GOOD, np.array([0, 1]), KEYS, 0.1,
                                  gradients=gradients)


@pytest.mark.parametrize("call, error, message", [
    (lambda: pm.purify(pm.identity, GOOD, KEYS[:1]), ValueError, r"keys must be one an image, 2, got shape \(1,\)"),
    (lambda: pm.rate_images(pm.identity, GOOD, KEYS, 8), ValueError, "eps is a budget in pixel units"),
    (lambda: pm.rate_images(pm.identity, 255 * GOOD, KEYS, 0.1), ValueError, r"images must lie in \[0, 1\]"),
    (lambda: pm.rate_images(pm.identity, GOOD.astype(np.uint8), KEYS, 0.1), TypeError, "divide integer pixels by 255"),
    (lambda: pm.purify(lambda x, key: x.astype(jnp.bfloat16), GOOD, KEYS), TypeError, "type float32, got bfloat16"),
    (lambda: pm.minimum_perturbations(pm.pgd, FLAT, GOOD, [0, 1], KEYS[:1]), ValueError, "keys must be one an image"),
    (lambda: pm.minimum_perturbations(pm.pgd, FLAT, GOOD, [0]), ValueError, r"labels must have shape \(2,\)"),
    (lambda: pm.attack_images(pm.pgd(0.1), FLAT, pm.identity, GOOD, [0, 1], KEYS, 0.1), TypeError,
     "expected the constructor of an attack"),
    (lambda: unchecked(pm.purify)(pm.identity, GOOD, jax.random.split(jax.random.PRNGKey(0), 2)), TypeError,
     "got legacy ones of uint32"),
    (lambda: unchecked(pm.configurations)(0, 5), ValueError, "indices are a vector"),
    (lambda: pm.over_images(jnp.add, (), GOOD, 0.1), TypeError, "for the same of all images np.full"),
    (lambda: unchecked(pm.by_survival)(None, pm.rate_images(pm.identity, GOOD, KEYS, 0.1), 0.1), ValueError,
     "take l2.mean"),
    (lambda: pm.minimum_perturbations(pm.pgd, FLAT, GOOD, [0, 1], eps_max=0.0), ValueError, "eps is a budget"),
    (lambda: pm.minimum_perturbations(pm.pgd, FLAT, GOOD, [0, 1], halvings=-1), ValueError, "0 or more, got -1"),
    (lambda: unchecked(from_torch)(None, "weights.pth"), TypeError, "read a file by pm.load_published"),
    (lambda: unchecked(check_keys)(np.arange(4), 4), TypeError, "must be of jax.random.key, got int64; use pm.conf"),
    (lambda: unchecked(check_keys)([0, 1], 2), TypeError, "keys must be of jax.random.key, got list"),
    (lambda: unchecked(pm.diffusion)(jnp.multiply, pm.linear()), TypeError, "steps at one t.*, got Schedule; "),
    (lambda: unchecked(pm.diffusion)(jnp.multiply, pm.ddpm), TypeError, "got ddpm; give pm.ddpm"),
    (lambda: pm.flow(jnp.multiply, 5, 20), ValueError, "t_star is a time of the flow, 0 <= t_star < 1, got 5; "),
    (lambda: pm.flow(jnp.multiply, -0.1, 20), ValueError, "0 <= t_star < 1, got -0.1"),
    (lambda: pm.preflight(FLAT, pm.identity, GOOD, [0, 1], KEYS, 0.1, steps=3), TypeError,
     "no setting steps, expected some of attack, criterion, .*, clean_accuracy; .* attack=partial"),
    (lambda: evaluated(protocols=[pm.fixed]), TypeError, "protocols are a list of what their constructors return"),
    (lambda: evaluated(protocols=pm.fixed()), TypeError, r"give for example \[pm.fixed\(\), pm.expectation\(15\)\]"),
    (lambda: evaluated(attacks={"pgd": pm.pgd}), TypeError, r'give for example {"pgd": \(pm.pgd, pm.margin\)}'),
    (lambda: evaluated(attacks=[pm.pgd]), TypeError, "a dict from a name to a pair of constructor and crit"),
    (lambda: evaluated(gradients="bpda"), TypeError, "gradients are a dict .*, got 'bpda'; give pm.FULL, pm.BPDA"),
    (lambda: evaluated(gradients={"bpda": "identity"}), TypeError, "a name to a purifier to differentiate through"),
    (lambda: pm.linear(beta_max=2.0), ValueError, r"got shape \(1000,\) with 0.0001..2; check the schedule's range"),
])
def test_what_a_newcomer_may_give(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("function, given", [
    (pm.adversarial_rate, (FLAT, pm.identity, GOOD, 0, KEYS[0])),
    (pm.compression_rate, (pm.identity, GOOD, GOOD, KEYS[0])),
    (pm.expected_rates, (pm.identity, GOOD, KEYS[0], 0.1)),
    (pm.first_order_margin, (FLAT, pm.identity, GOOD, 0, KEYS[0], 0.1)),
    (pm.gradient, (FLAT, pm.identity, GOOD, 0, KEYS[0])),
    (pm.jacobian, (pm.identity, GOOD, KEYS[0])),
    (partial(unchecked(pm.largest_singular_values), k=1, iterations=1), (pm.identity, GOOD, KEYS[0])),
    (pm.push, (pm.identity, GOOD, KEYS[0], GOOD)),
    (pm.step_rates, (pm.identity, GOOD, KEYS[0], GOOD)),
    (pm.stochasticity, (pm.identity, GOOD, KEYS[0], 0.1)),
    (pm.trajectory, (pm.identity, GOOD, KEYS[0])),
])
def test_a_function_of_one_image_refuses_a_batch(function, given):
    with pytest.raises(ValueError, match=r"one image, \[height, width, channel\], got shape \(2, 4, 4, 1\); for many"):
        getattr(function, "__wrapped__", function)(*given)


def test_lists_are_arrays():
    """Of images, labels, and numbers of images."""
    whole = pm.purify(pm.identity, GOOD, KEYS)
    np.testing.assert_array_equal(pm.purify(pm.identity, list(GOOD), pm.configurations(0, [0, 1])), whole)
    found = pm.attack_images(pm.fgsm, FLAT, pm.identity, list(GOOD), [0, 1], pm.configurations(0, range(2)), 0.1)
    assert found.margin.shape == (2,)
    assert pm.rate_images(pm.identity, list(GOOD), KEYS, [0.1, 0.2]).l2.mean.tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("call, note", [
    (lambda: pm.purify(lambda x, key: jnp.asarray(np.asarray(x)), GOOD, KEYS), "one image, .* and a key"),
    (lambda: pm.check_classifier(lambda x: x.reshape(len(x), -1) @ np.ones((16, 10)), GOOD), "with one image"),
])
def test_what_a_function_raises_says_how_it_was_called(call, note):
    with pytest.raises(TypeError) as raised:
        call()
    assert any(re.search(note, said) for said in raised.value.__notes__)
