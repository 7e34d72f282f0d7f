"""Our PGD against Foolbox's on the same classifier: the same iterates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purimetry.compression import losses
from purimetry.compression.attacks import iterative, linf
from purimetry.compression.attacks.pgd import pgd
from purimetry.compression.networks.convolution import convolve
from purimetry.compression.purifiers.identity import identity

# Foolbox imports a name that SciPy has moved; it is Foolbox's to change.
pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore:.*scipy.ndimage.filters:DeprecationWarning")]
torch = pytest.importorskip("torch")

N, SHAPE, STEPS = 16, (6, 6, 2), 40
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(size=(N, *SHAPE)).astype(np.float32)
LABELS = np.arange(N) % 4
KERNEL = RANDOM.normal(size=(3, 3, 2, 5)).astype(np.float32) / 3
READOUT = RANDOM.normal(size=(6 * 6 * 5, 4)).astype(np.float32) / 9


def classifier(x):
    return jnp.tanh(convolve(2 * x - 1, jnp.asarray(KERNEL))).reshape(-1) @ READOUT


class Classifier(torch.nn.Module):
    """The same function in torch, which puts channels first."""

    def forward(self, x):
        kernel = torch.tensor(KERNEL.transpose(3, 2, 0, 1))
        hidden = torch.tanh(torch.nn.functional.conv2d(2 * x - 1, kernel, padding=1))
        return hidden.permute(0, 2, 3, 1).flatten(1) @ torch.tensor(READOUT)


def last_iterates(eps, criterion, start):
    """The iterate after STEPS steps, which is what Foolbox returns; our attack judges all of them."""

    @jax.jit
    @jax.vmap
    def last(x, label):
        loss, attack = losses.defended(classifier, identity, label, criterion), pgd(eps, start=start)
        key = jax.random.key(0)  # not used: start is deterministic
        search = iterative.unbroken(attack, x, key, loss(x, key).margins)
        search = iterative.begin(attack, search, x, key, jnp.int32(0))
        return jax.lax.fori_loop(0, STEPS, lambda _, s: iterative.advance(attack, loss, s, x, key), search).iterate

    return np.asarray(last(jnp.asarray(IMAGES), jnp.asarray(LABELS)))


@pytest.mark.parametrize("eps", [8 / 255, 0.1])
def test_pgd_equals_foolboxs(eps):
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(Classifier().eval(), bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.LinfPGD(rel_stepsize=0.01 / 0.3, steps=STEPS, random_start=False)
    images = torch.tensor(IMAGES.transpose(0, 3, 1, 2))
    _, (found,), (broken,) = theirs(model, images, torch.tensor(LABELS), epsilons=[eps])
    ours = last_iterates(eps, losses.cross_entropy, linf.clean_start)
    np.testing.assert_allclose(jax.vmap(classifier)(jnp.asarray(IMAGES)), model(images), atol=1e-5)
    np.testing.assert_allclose(ours, found.numpy().transpose(0, 2, 3, 1), atol=1e-6)  # float32 sums of 40 steps
    wrong = np.asarray(jax.vmap(classifier)(jnp.asarray(ours))).argmax(1) != LABELS
    np.testing.assert_array_equal(wrong, broken.numpy())


def test_pgd_equals_foolboxs_from_the_same_random_start(monkeypatch):
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(Classifier().eval(), bounds=(0, 1), device="cpu")
    theirs, eps = foolbox.attacks.LinfPGD(rel_stepsize=0.01 / 0.3, steps=STEPS, random_start=True), 0.05
    starts = np.stack([linf.uniform_start(jnp.asarray(x), eps, jax.random.key(7)) for x in IMAGES])
    monkeypatch.setattr(type(theirs), "get_random_start",
                        lambda self, x0, epsilon: type(x0)(torch.tensor(starts.transpose(0, 3, 1, 2))))
    images = torch.tensor(IMAGES.transpose(0, 3, 1, 2))
    _, (found,), _ = theirs(model, images, torch.tensor(LABELS), epsilons=[eps])
    same_start = lambda x, eps, key: linf.uniform_start(x, eps, jax.random.key(7))
    ours = last_iterates(eps, losses.cross_entropy, same_start)
    np.testing.assert_allclose(ours, found.numpy().transpose(0, 2, 3, 1), atol=1e-6)  # float32 sums of 40 steps
