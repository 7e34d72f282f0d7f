"""Our APGD, FAB-T, Square and their ensemble against AutoAttack's own: the same iterates from the same draws."""

from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import randomness
from purimetry.compression.attacks import iterative, l2, linf
from purimetry.compression.attacks.apgd import apgd
from purimetry.compression.attacks.fab import fab
from purimetry.compression.attacks.square import square
from purimetry.compression.networks.convolution import convolve

pytestmark = [pytest.mark.peer, pytest.mark.usefixtures("one_torch_thread")]
torch = pytest.importorskip("torch")
autoattack = pytest.importorskip("pyautoattack")
autopgd, fab_pt, peers_square = (pytest.importorskip(f"pyautoattack.{name}") for name in
                                 ("autopgd_base", "fab_pt", "square"))

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 1, 8)) / 2
DIGITS = pm.digits()
NAMES = {linf: "Linf", l2: "L2"}
norms = pytest.mark.parametrize("norm", [linf, l2], ids=["linf", "l2"])


def hidden(x):
    return jnp.tanh(convolve(2 * x - 1, jnp.asarray(KERNEL, x.dtype))).reshape(-1)


def readout():
    """Ridge regression of the training labels on random features: a classifier that needs no training loop."""
    features = np.asarray(jax.jit(jax.vmap(hidden))(DIGITS.train_images), np.float64)
    targets = 20 * np.eye(10)[DIGITS.train_labels] - 10
    return np.linalg.solve(features.T @ features + 10 * np.eye(features.shape[1]), features.T @ targets)


READOUT = readout()


def classifier(x):
    return hidden(x) @ jnp.asarray(READOUT, x.dtype)


logits = jax.jit(jax.vmap(classifier))


class Classifier(torch.nn.Module):
    """The same function in torch; it remembers what it was asked and at what cost."""

    def __init__(self):
        super().__init__()
        self.asked, self.evaluations, self.gradients = [], 0, 0

    def forward(self, x):
        self.asked.append(x.detach().numpy().transpose(0, 2, 3, 1).copy())
        self.evaluations += len(x)
        self.gradients += len(x) * x.requires_grad
        kernel = torch.tensor(KERNEL.transpose(3, 2, 0, 1), dtype=x.dtype)
        features = torch.tanh(torch.nn.functional.conv2d(2 * x - 1, kernel, padding=1))
        return features.permute(0, 2, 3, 1).flatten(1) @ torch.tensor(READOUT, dtype=x.dtype)


def torch_images(images):
    return torch.tensor(images.transpose(0, 3, 1, 2).copy())


N = 12
PREDICTED = np.asarray(logits(DIGITS.test_images)).argmax(1)
RIGHT = np.flatnonzero(PREDICTED == DIGITS.test_labels)
IMAGES, LABELS = DIGITS.test_images[RIGHT[:N]], DIGITS.test_labels[RIGHT[:N]]
INSIDE = 0.3 + 0.4 * IMAGES  # no pixel gets black or white within 0.3 of it in any norm
INSIDE_LABELS = np.asarray(logits(INSIDE)).argmax(1)


def test_both_classifiers_are_one():
    theirs = Classifier()(torch_images(IMAGES)).numpy()
    np.testing.assert_allclose(logits(IMAGES), theirs, atol=1e-4)
    assert len(RIGHT) > 0.9 * len(DIGITS.test_labels)


def walk(attack, images, labels, criterion=pm.margin, starts=None, rank=0):
    """All iterates of one restart of our attack, [steps + 1, n, ...], towards the rival of a rank if it has one, and
    the search after the last step."""

    @jax.jit
    @jax.vmap
    def sequence(x, label, start):
        loss, key = pm.defended(classifier, pm.identity, label, criterion), jax.random.key(0)
        search = iterative.unbroken(attack, x, key, loss(x, key).margins)
        search = iterative.begin(attack, search, x, key, jnp.int32(rank))._replace(iterate=start)
        step = lambda search, _: (iterative.advance(attack, loss, search, x, key), search.iterate)
        search, before = jax.lax.scan(step, search, length=attack.steps)
        return jnp.concatenate([before, search.iterate[None]]), search

    starts = images if starts is None else starts
    found, search = jax.tree.map(np.asarray, sequence(*map(jnp.asarray, (images, labels, starts))))
    return found.swapaxes(0, 1), search


@pytest.mark.parametrize("norm, loss", [(linf, "ce"), (linf, "dlr-targeted"), (l2, "ce"), (l2, "dlr")])
def test_apgd_walks_as_autoattacks(norm, loss):
    """In float64, up to the first break or for all 100 steps, where no pixel is black or white: in l2 their projection
    is not the nearest. After the break DLR is constant where the true class is third, and rounding leads the way.
    """
    eps = 2**-6 if norm is linf else 2**-4  # exact in float32, which their step size is in
    images, steps, rank = INSIDE.astype(np.float64), 100, 2
    starts = jax.jit(jax.vmap(lambda x, i: norm.edge_start(x, eps, jax.random.key(i))))(INSIDE, np.arange(N))
    starts = np.asarray(starts, np.float64)
    model, labels = Classifier(), torch.tensor(INSIDE_LABELS).long()
    theirs = {"ce": partial(autopgd.APGDAttack, loss="ce"), "dlr": partial(autopgd.APGDAttack, loss="dlr"),
              "dlr-targeted": autopgd.APGDAttack_targeted}[loss]
    theirs = theirs(model, n_iter=steps, norm=NAMES[norm], eps=eps, device="cpu")
    theirs.init_hyperparam(torch_images(images))
    theirs.y_target = model(torch_images(images)).sort(dim=1)[1][:, -2 - rank]
    criterion = {"ce": partial(torch.nn.functional.cross_entropy, reduction="none"), "dlr": theirs.dlr_loss,
                 "dlr-targeted": getattr(theirs, "dlr_loss_targeted", None)}[loss]
    first, oscillation = criterion(model(torch_images(starts)), labels), theirs.check_oscillation

    def corrected(values, i, k, *rest, **named):
        """For f(x^0) their code reads the last entry, which is still 0 at the first checkpoint."""
        if i == k - 1:
            values[-1] = first
        return oscillation(values, i, k, *rest, **named)

    model.asked.clear()
    with mock.patch.object(theirs, "check_oscillation", corrected):
        theirs.attack_single_run(torch_images(images), labels, x_init=torch_images(starts))
    expected = np.stack(model.asked)
    attack = {"dlr-targeted": pm.apgd_targeted}.get(loss, apgd)(eps, steps=steps, norm=norm)
    # In l_inf cross-entropy is replaced by the log-odds, which is to walk the same way.
    ours = {"ce": pm.log_odds if norm is linf else pm.cross_entropy, "dlr": pm.dlr, "dlr-targeted": pm.margin}[loss]
    with jax.enable_x64(True):
        found, _ = walk(attack, images, INSIDE_LABELS.astype(np.int64), ours, starts, rank)
    broken = np.stack([np.asarray(logits(x)).argmax(1) for x in found]) != INSIDE_LABELS
    before = np.cumsum(broken, 0) - broken == 0
    np.testing.assert_allclose(found[before], expected[before], atol=1e-6)  # theirs are partly float32
    assert (before.sum(0) == steps + 1).sum() >= N / 2


@norms
def test_fab_walks_as_autoattacks(norm):
    """In float32, whose differences grow from step to step: the first ten steps, then the distances that are found."""
    model, steps, rank = Classifier(), 60, 1
    theirs = fab_pt.FABAttack_PT(model, norm=NAMES[norm], n_iter=steps, eps=1.0, targeted=True, device="cpu")
    theirs.target_class = rank + 2
    adversarial = theirs.attack_single_run(torch_images(IMAGES), torch.tensor(LABELS), is_targeted=True)
    largest = norm.largest(IMAGES.shape[1:])
    found, search = walk(fab(largest, steps=steps + 1, norm=norm), IMAGES, LABELS, rank=rank)
    looked = np.stack(model.asked[3::2])  # where it predicts after each step
    np.testing.assert_allclose(found[1:11], looked[:10], atol=1e-4)
    lengths = lambda x: np.array([norm.length(jnp.asarray(d)) for d in x - IMAGES])
    np.testing.assert_allclose(lengths(search.best), lengths(adversarial.numpy().transpose(0, 2, 3, 1)), rtol=5e-3)
    np.testing.assert_allclose(largest - search.merit, lengths(search.best), rtol=1e-4)


def replayed(values):
    """Hands out recorded draws in place of a random function."""
    values = iter(values)
    return lambda *_, **__: next(values)


def draws(seed, queries, many):
    """Those of each query, [queries, many]."""
    drawn = lambda k: jax.random.uniform(jax.random.fold_in(jax.random.key(seed), k), (many,))
    return np.asarray(jax.jit(jax.vmap(drawn))(np.arange(queries)))


def signs(uniform):
    return torch.tensor(np.where(uniform < 0.5, -1.0, 1.0).astype(np.float32))


@pytest.mark.parametrize("norm, eps", [(linf, 0.005), (linf, 0.02), (l2, 0.05), (l2, 0.3)])
def test_square_proposes_and_accepts_as_autoattacks(norm, eps):
    """Their random functions are given our draws. Two channels; for the larger budget in l_inf the image breaks."""
    shape, queries, channels = (10, 10, 2), 120, 2
    generator = np.random.default_rng(1)
    x = jnp.asarray(np.float32(generator.uniform(size=shape)))
    weights = generator.normal(size=(x.size, 3)).astype(np.float32)
    bent = lambda x: jnp.sin(4 * (x.reshape(-1) @ weights)) + x.reshape(-1) @ weights
    asked = []

    def model(images):
        asked.append(images[0].numpy().transpose(1, 2, 0).copy())
        z = images.permute(0, 2, 3, 1).flatten(1) @ torch.tensor(weights)
        return torch.sin(4 * z) + z

    label, key = jax.jit(lambda x: bent(x).argmax())(x), jax.random.key(5)
    attack, loss = square(eps, queries=queries, norm=norm), pm.defended(bent, pm.identity, label)
    unbroken = lambda x, key: iterative.unbroken(attack, x, key, loss(x, key).margins)
    search = jax.jit(lambda x, key: iterative.begin(attack, unbroken(x, key), x, key, jnp.int32(0)))(x, key)
    step = jax.jit(lambda s: iterative.advance(attack, loss, s, x, key))
    seed, ours = search.memory[0], [np.asarray(search.iterate)]
    for _ in range(queries):
        search = step(search)
        ours.append(np.asarray(search.iterate))

    begin, _ = jax.random.split(randomness.step_key(key, randomness.ATTACK, 0))
    turns, flips, corners = [], [], []
    if norm is linf:
        flips.append(signs(np.asarray(jax.random.uniform(begin, (1, 10, channels))))[0].T[None, :, None])
    else:  # five bumps a side of 2 pixels each
        for tile in np.asarray(jax.random.uniform(begin, (5, 5, 1 + channels))).reshape(25, -1):
            turns.append(torch.tensor([1 - float(tile[0])]))
            flips.append(signs(tile[1:])[None, :, None, None])
    count = 2 if norm is linf else 5
    for k, uniform in enumerate(draws(seed, queries, count + channels)):
        phase = np.searchsorted([10, 50, 200], k)
        side = int(round(np.sqrt(0.8 / 2**phase * 100)))
        side = side if norm is linf else max(side, 3) // 2 * 2 + 1
        corners += [torch.tensor([int(u * (10 - side + 1))]) for u in uniform[: count // 2 * 2]]
        turns += [torch.tensor([1 - float(uniform[4])])] if norm is l2 else []
        flips.append(signs(uniform[count:])[:, None, None])
    theirs = peers_square.SquareAttack(model, norm=NAMES[norm], n_queries=queries, eps=eps, device="cpu",
                                       resc_schedule=False)
    theirs.init_hyperparam(torch_images(np.asarray(x)[None]))
    with mock.patch.multiple(theirs, random_choice=replayed(flips), random_int=replayed(corners)), \
            mock.patch("torch.rand", replayed(turns)):
        theirs.attack_single_run(torch_images(np.asarray(x)[None]), torch.tensor(int(label))[None])
    ours = np.stack(ours)[: len(asked)]  # theirs stops once the image is broken
    np.testing.assert_allclose(ours, np.stack(asked), atol=1e-5)
    assert len(asked) > 10 and len({image.tobytes() for image in ours}) > len(asked) / 2


@norms
def test_the_ensemble_finds_what_autoattack_finds(norm):
    """On a trained classifier of real images, each with its own seeds, at a budget that leaves some and few steps.

    Asked is that robust accuracy is not higher by more than one standard error. Here no single image is lost, and
    neither evaluations nor gradients are more.
    """
    eps, n, steps, queries = {linf: 0.11, l2: 0.6}[norm], 24, 20, 100
    images, labels, model = DIGITS.test_images[:n], DIGITS.test_labels[:n], Classifier()
    theirs = autoattack.AutoAttack(model, norm=NAMES[norm], eps=eps, seed=0, version="standard")
    for attack in (theirs.apgd, theirs.apgd_targeted):
        vars(attack).update(n_iter=steps, n_iter_2=int(0.22 * steps), n_iter_min=1, size_decr=1)
    theirs.fab.n_iter, theirs.square.n_queries = steps, queries
    adversarial, _ = theirs.run_standard_evaluation(torch_images(images), torch.tensor(labels).long())
    left = Classifier()(adversarial).argmax(1).numpy() == labels
    ours = pm.ensemble(classifier, pm.identity, images, labels, pm.configurations(0, np.arange(n)), eps, norm,
                       partial(pm.standard_attacks, steps=steps, queries=queries))
    robust = ours.by < 0
    assert 0.1 < left.mean() < 0.9
    assert robust.mean() <= left.mean() + np.sqrt(left.mean() * (1 - left.mean()) / n)
    assert not (robust & ~left).any()
    assert ours.evaluations.sum() <= model.evaluations and ours.gradients.sum() <= model.gradients
