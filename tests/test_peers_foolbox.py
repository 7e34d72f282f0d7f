"""Our FGSM, PGD and DDN against Foolbox's on the same classifier: the same iterates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purimetry.compression import losses
from purimetry.compression.attacks import iterative, l2, linf
from purimetry.compression.attacks.ddn import ddn
from purimetry.compression.attacks.fgsm import fgsm
from purimetry.compression.attacks.pgd import pgd
from purimetry.compression.networks.convolution import convolve
from purimetry.compression.purifiers.identity import identity

# Foolbox imports a name that SciPy has moved; it is Foolbox's to change.
pytestmark = [pytest.mark.peer, pytest.mark.usefixtures("one_torch_thread"),
              pytest.mark.filterwarnings("ignore:.*scipy.ndimage.filters:DeprecationWarning")]
torch = pytest.importorskip("torch")

N, SHAPE, STEPS = 16, (6, 6, 2), 40
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(size=(N, *SHAPE)).astype(np.float32)
INSIDE = (0.3 + 0.4 * IMAGES).astype(np.float32)  # so far from black and white that no step gets there
LABELS = np.arange(N) % 4
KERNEL = RANDOM.normal(size=(3, 3, 2, 5)).astype(np.float32) / 3
READOUT = RANDOM.normal(size=(6 * 6 * 5, 4)).astype(np.float32) / 9


def classifier(x):
    return jnp.tanh(convolve(2 * x - 1, jnp.asarray(KERNEL))).reshape(-1) @ READOUT


logits = jax.jit(jax.vmap(classifier))


class Classifier(torch.nn.Module):
    """The same function in torch, which puts channels first."""

    def forward(self, x):
        kernel = torch.tensor(KERNEL.transpose(3, 2, 0, 1))
        hidden = torch.tanh(torch.nn.functional.conv2d(2 * x - 1, kernel, padding=1))
        return hidden.permute(0, 2, 3, 1).flatten(1) @ torch.tensor(READOUT)


def last_iterates(eps, criterion, start, images=IMAGES, norm=linf):
    """The iterate after STEPS steps, which is what Foolbox returns; our attack judges all of them."""
    return searched(pgd(eps, start=start, norm=norm), images, criterion).iterate


def searched(attack, images, criterion, steps=STEPS):
    """The search after a number of steps of one restart, before its last iterate is judged."""

    @jax.jit
    @jax.vmap
    def after(x, label):
        loss = losses.defended(classifier, identity, label, criterion)
        key = jax.random.key(0)  # not used: starts are deterministic
        search = iterative.unbroken(attack, x, key, loss(x, key).margins)
        search = iterative.begin(attack, search, x, key, jnp.int32(0))
        return jax.lax.fori_loop(0, steps, lambda _, s: iterative.advance(attack, loss, s, x, key), search)

    return jax.tree.map(np.asarray, after(jnp.asarray(images), jnp.asarray(LABELS)))


def foolboxs(attack, images, eps):
    """What Foolbox's attack returns, channels last, and which images it breaks."""
    model = pytest.importorskip("foolbox").PyTorchModel(Classifier().eval(), bounds=(0, 1), device="cpu")
    first = torch.tensor(images.transpose(0, 3, 1, 2))
    _, (found,), (broken,) = attack(model, first, torch.tensor(LABELS), epsilons=[eps])
    return found.numpy().transpose(0, 2, 3, 1), broken.numpy()


@pytest.mark.parametrize("eps", [8 / 255, 0.1])
def test_pgd_equals_foolboxs(eps):
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(Classifier().eval(), bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.LinfPGD(rel_stepsize=0.01 / 0.3, steps=STEPS, random_start=False)
    images = torch.tensor(IMAGES.transpose(0, 3, 1, 2))
    _, (found,), (broken,) = theirs(model, images, torch.tensor(LABELS), epsilons=[eps])
    ours = last_iterates(eps, losses.cross_entropy, linf.clean_start)
    np.testing.assert_allclose(logits(IMAGES), model(images), atol=1e-5)
    np.testing.assert_allclose(ours, found.numpy().transpose(0, 2, 3, 1), atol=1e-6)  # float32 sums of 40 steps
    wrong = np.asarray(logits(ours)).argmax(1) != LABELS
    np.testing.assert_array_equal(wrong, broken.numpy())


def test_pgd_equals_foolboxs_from_the_same_random_start(monkeypatch):
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(Classifier().eval(), bounds=(0, 1), device="cpu")
    theirs, eps = foolbox.attacks.LinfPGD(rel_stepsize=0.01 / 0.3, steps=STEPS, random_start=True), 0.05
    same_start = lambda x, eps, key: linf.uniform_start(x, eps, jax.random.key(7))
    starts = np.asarray(jax.jit(jax.vmap(lambda x: same_start(x, eps, None)))(IMAGES))
    monkeypatch.setattr(type(theirs), "get_random_start",
                        lambda self, x0, epsilon: type(x0)(torch.tensor(starts.transpose(0, 3, 1, 2))))
    images = torch.tensor(IMAGES.transpose(0, 3, 1, 2))
    _, (found,), _ = theirs(model, images, torch.tensor(LABELS), epsilons=[eps])
    ours = last_iterates(eps, losses.cross_entropy, same_start)
    np.testing.assert_allclose(ours, found.numpy().transpose(0, 2, 3, 1), atol=1e-6)  # float32 sums of 40 steps


@pytest.mark.parametrize("name, norm", [("FGSM", linf), ("L2FastGradientAttack", l2)])
def test_fgsm_equals_foolboxs(name, norm):
    foolbox, eps = pytest.importorskip("foolbox"), 0.1
    images = INSIDE if norm is l2 else IMAGES
    found, _ = foolboxs(getattr(foolbox.attacks, name)(), images, eps)
    ours = searched(fgsm(eps, norm=norm), images, losses.cross_entropy, steps=1).iterate
    np.testing.assert_allclose(ours, found, atol=1e-6)  # float32


def test_l2_pgd_equals_foolboxs_where_no_pixel_is_black_or_white():
    """Elsewhere Foolbox clips what it has scaled to the ball, and ours is the nearest point."""
    foolbox, eps = pytest.importorskip("foolbox"), 0.25
    theirs = foolbox.attacks.L2PGD(rel_stepsize=0.01 / 0.3, steps=STEPS, random_start=False)
    found, broken = foolboxs(theirs, INSIDE, eps)
    ours = last_iterates(eps, losses.cross_entropy, l2.clean_start, INSIDE, l2)
    np.testing.assert_allclose(ours, found, atol=1e-5)  # float32 sums of 40 steps
    wrong = np.asarray(logits(ours)).argmax(1) != LABELS
    np.testing.assert_array_equal(wrong, broken)
    # Where black and white do bind, ours has the larger loss after as many steps, on average.
    found, _ = foolboxs(theirs, IMAGES, 1.0)
    ours = last_iterates(1.0, losses.cross_entropy, l2.clean_start, IMAGES, l2)
    loss = jax.jit(lambda x: jax.vmap(losses.cross_entropy)(jax.vmap(classifier)(x), jnp.asarray(LABELS)).mean())
    assert float(loss(ours)) > float(loss(found))


def test_ddn_equals_foolboxs():
    foolbox = pytest.importorskip("foolbox")
    right = np.asarray(logits(IMAGES)).argmax(1) == LABELS
    found, _ = foolboxs(foolbox.attacks.DDNAttack(steps=STEPS), IMAGES, None)
    ours = searched(ddn(l2.largest(SHAPE), steps=STEPS), IMAGES, losses.cross_entropy)
    np.testing.assert_allclose(ours.best, found, atol=1e-4)  # float32 sums of 40 steps that follow one another
    assert right.any() and (ours.best[right] != IMAGES[right]).any()
