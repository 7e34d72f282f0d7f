"""Adversarial training: the adversary inside its budget, TRADES against PyTorch, and robustness that is gained."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import purimetry as pm
from purimetry.compression import losses
from purimetry.compression.attacks import linf
from purimetry.compression.data.digits import digits
from purimetry.compression.training import loop, robust
from purimetry.compression.training.losses import shifted
from purimetry.experiments import models
from purimetry.experiments.configuration import Training

SHAPE, EPS = (4, 4, 1), 0.1
RANDOM = np.random.default_rng(0)
X, LABEL, KEY = jnp.asarray(np.float32(RANDOM.uniform(0.2, 0.8, SHAPE))), jnp.int32(1), jax.random.key(0)
plain = lambda x, key: x


class Dense(nnx.Module):
    """Two layers on the pixels."""

    def __init__(self, pixels=16, hidden=12, classes=3, *, rngs):
        self.hidden, self.readout = nnx.Linear(pixels, hidden, rngs=rngs), nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, x):
        return self.readout(jnp.tanh(self.hidden(4 * x.ravel() - 2)))


NETWORK, SMALL = jax.jit(lambda: (
    pm.pure(Dense(rngs=nnx.Rngs(0))), pm.pure(Dense(64, 32, 10, rngs=nnx.Rngs(0)))))()


def adversary_of_trades(network, key, eps=EPS, steps=10):
    """Once more, by hand."""
    start = jnp.clip(X + 1e-3 * jax.random.normal(jax.random.split(key)[1], X.shape), 0, 1)
    moved, before = start, jax.nn.softmax(network(X))
    for _ in range(steps):
        slope = jax.grad(lambda x: -jnp.sum(before * jax.nn.log_softmax(network(x))))(moved)
        moved = jnp.clip(jnp.clip(moved + eps / 4 * jnp.sign(slope), X - eps, X + eps), 0, 1)
    return moved


def test_the_adversary_is_the_corner_of_a_linear_loss_and_stays_in_the_pixel_range():
    weights, image = np.float32(RANDOM.normal(size=SHAPE)), np.asarray(X)
    ascended = jax.jit(lambda x: [robust.ascended(lambda x: jnp.sum(weights * x), x, x, EPS, steps, 0.25)
                                  for steps in (10, 2)])
    for x in (image, image.round()):
        np.testing.assert_allclose(ascended(x)[0], np.clip(x + EPS * np.sign(weights), 0, 1), atol=1e-6)
    np.testing.assert_allclose(ascended(image)[1], image + EPS / 2 * np.sign(weights), atol=1e-6)


def test_adversarial_training_pays_for_the_adversary_and_no_more():
    """Its value and gradient are those of cross-entropy at a constant adversary."""
    loss, entropy = robust.adversarial(EPS, augment=plain), lambda network, x: losses.cross_entropy(network(x), LABEL)

    @jax.jit
    def adversary(x, key):
        start = linf.uniform_start(x, EPS, jax.random.split(key)[1])
        return robust.ascended(partial(entropy, NETWORK), x, start, EPS, 10, 0.25)

    @jax.jit
    def both(state, worst):
        losses_at = (lambda state: loss(NETWORK.with_state(state), X, LABEL, KEY),
                     lambda state: entropy(NETWORK.with_state(state), worst))
        return *(jax.value_and_grad(f)(state) for f in losses_at), entropy(NETWORK, X)

    (value, slope), (true, wanted), clean = jax.device_get(both(NETWORK.state, adversary(X, KEY)))
    assert value > clean
    np.testing.assert_allclose(value, true, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), slope, wanted)  # float32, other fusions


def test_without_weight_trades_is_cross_entropy_at_the_image():
    loss = robust.trades(EPS, beta=0.0, augment=plain)
    found, expected = jax.jit(lambda network: (
        loss(network, X, LABEL, KEY), losses.cross_entropy(network(X), LABEL)))(NETWORK)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_divergence_is_that_of_the_two_distributions():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.25, 0.25])
    found = jax.jit(robust.divergence)(np.log(p) + 5, np.log(q))
    assert float(found) == pytest.approx((p * np.log(p / q)).sum(), rel=1e-5)


@pytest.mark.peer
def test_trades_equals_pytorchs_on_the_same_weights_and_perturbation():
    """Value and gradient of the loss as its authors write it: cross-entropy + beta * KLDiv(log q, p)."""
    torch = pytest.importorskip("torch")
    beta, moved = 5.0, jax.jit(adversary_of_trades)(NETWORK, KEY)
    layers = [torch.nn.Linear(16, 12), torch.nn.Linear(12, 3)]
    for layer, name in zip(layers, ("hidden", "readout"), strict=True):
        layer.weight.data = torch.tensor(np.asarray(NETWORK.state[name]["kernel"][...]).T)
        layer.bias.data = torch.tensor(np.asarray(NETWORK.state[name]["bias"][...]))
    network = lambda x: layers[1](torch.tanh(layers[0](4 * torch.tensor(np.asarray(x)).reshape(1, -1) - 2)))
    divergence = torch.nn.KLDivLoss(reduction="batchmean")
    clean = network(X)
    theirs = torch.nn.functional.cross_entropy(clean, torch.tensor([1])) + beta * divergence(
        torch.log_softmax(network(moved), 1), torch.softmax(clean, 1))
    theirs.backward()
    loss = robust.trades(EPS, beta=beta, augment=plain)
    value, slope = jax.jit(jax.value_and_grad(lambda s: loss(NETWORK.with_state(s), X, LABEL, KEY)))(NETWORK.state)
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-5)
    for layer, name in zip(layers, ("hidden", "readout"), strict=True):
        np.testing.assert_allclose(slope[name]["kernel"][...], layer.weight.grad.T, atol=1e-5)
        np.testing.assert_allclose(slope[name]["bias"][...], layer.bias.grad, atol=1e-5)


DATA = digits()
RECIPE = loop.Recipe(steps=200, batch=64, learning_rate=1e-2, ema=0.9)


def fit(loss, state=None, on_step=lambda state, loss: None, recipe=RECIPE):
    images, labels = jnp.asarray(DATA.train_images), jnp.asarray(DATA.train_labels)
    return loop.fit(SMALL, loss, images, labels, recipe, 0, state, on_step)


@pytest.mark.parametrize("loss", [robust.adversarial(EPS, steps=2), robust.trades(EPS, steps=2)],
                         ids=["adversarial", "TRADES"])
def test_a_resumed_run_ends_with_the_same_bits(loss):
    short, states = loop.Recipe(steps=6, batch=4), []
    whole = fit(loss, on_step=lambda state, value: states.append(state), recipe=short)
    resumed = fit(loss, state=jax.tree.map(np.asarray, states[2]), recipe=short)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_adversarial_training_makes_robust():
    """200 steps of two layers on digits: both methods leave more images standing than plain training."""
    images, labels, keys = DATA.test_images[:100], DATA.test_labels[:100], pm.configurations(0, np.arange(100))
    attack = partial(pm.converged_pgd, steps=8, restarts=2)
    standing = {}
    for name, loss in {
        "plain": lambda network, x, label, key: losses.cross_entropy(network(shifted(x, key)), label),
        "adversarial": robust.adversarial(EPS, steps=4), "TRADES": robust.trades(EPS, steps=4),
    }.items():
        network = fit(loss)
        standing[name] = pm.attack_images(attack, network, pm.identity, images, labels, keys, EPS).broken_at < 0
    for name in ("adversarial", "TRADES"):
        gained = standing[name].astype(float) - standing["plain"]
        assert gained.mean() > 3 * gained.std() / 10, {k: v.mean() for k, v in standing.items()}  # of 100 images


def test_the_robust_classifier_is_cached_by_what_determines_it_and_changes_nobody_elses_name(tmp_path, monkeypatch):
    monkeypatch.setenv("NPROC", "1")
    training = Training(classifier_steps=2, robust_steps=2, robust_eps=0.1, classifier_channels=(8,))
    other = replace(training, robust_eps=0.05)
    kinds = lambda: sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    models.classifier(training, DATA, tmp_path)
    first = models.robust_classifier(training, DATA, tmp_path)[1]
    assert models.robust_classifier(training, DATA, tmp_path)[1] == first and kinds() == ["classifier", "robust"]
    models.classifier(other, DATA, tmp_path)
    assert kinds() == ["classifier", "robust"]
    assert models.robust_classifier(other, DATA, tmp_path)[1] != first and kinds() == ["classifier", "robust", "robust"]


@pytest.mark.parametrize("call, message", [
    (lambda: models.robust_classifier(Training(), DATA, "cache"), "robust_eps is None; give the budget"),
    (lambda: robust.trades(8.0), "8/255 is 0.0314"), (lambda: robust.adversarial(0.0), r"in \(0, 1\]"),
    (lambda: robust.trades(0.1, steps=0), "at least 1 step"),
])
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
