"""The comparison with AutoAttack: twins that are no twins are refused, and what is lacking is said."""

from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

import purimetry as pm
from purimetry.compression.networks import resnet
from purimetry.experiments import attack_peers
from purimetry.compression.purifiers.identity import identity


@pytest.fixture
def defence():
    images = np.random.default_rng(0).uniform(size=(3, 2, 2, 1)).astype(np.float32)
    return attack_peers.Defence(images, np.zeros(3, int), lambda x: x.reshape(-1), identity, jax.random.key(0), None, 2)


def test_a_twin_with_the_same_logits_passes(defence):
    attack_peers._check(defence, defence.images.reshape(3, -1))


def test_attacks_on_different_functions_are_not_compared(defence):
    with pytest.raises(AssertionError, match="logits differ by 1.0e-02"):
        attack_peers._check(defence, defence.images.reshape(3, -1) + 0.01)


def test_what_is_lacking_is_said_and_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(attack_peers, "find_spec", lambda package: None)
    configuration = SimpleNamespace(data_dir=tmp_path, resnet20=None)
    assert attack_peers._lacking(SimpleNamespace(configuration=configuration)) == ["peers", "data_dir", "resnet20"]
    assert set(attack_peers.LACKING) == {"peers", "data_dir", "resnet20"}
    assert attack_peers._sides() == [attack_peers.ours]


@pytest.mark.peer
def test_the_twins_of_what_is_trained_here_have_our_logits():
    """Networks of two levels, all of whose weights matter, bare and behind two steps of DDPM."""
    pytest.importorskip("torch")
    from purimetry.experiments.torch_twins import tensor_images

    random = np.random.default_rng(0)

    def shaken(network):
        moved = lambda w: np.asarray(w) + np.float32(0.1 * random.normal(size=w.shape))
        return network.with_state(jax.tree.map(moved, network.state))

    networks = jax.jit(lambda: (
        pm.pure(pm.ConvNet((8, 8, 1), 10, (8, 16), rngs=nnx.Rngs(0))), pm.pure(pm.UNet(1, (8, 16), rngs=nnx.Rngs(1)))))
    classifier, denoiser = map(shaken, networks())
    purifier = pm.diffusion(denoiser, pm.ddpm(pm.respaced(pm.linear(), 10), 2))
    images = random.uniform(size=(3, 8, 8, 1)).astype(np.float32)
    bare = attack_peers.Defence(images, np.zeros(3, int), classifier, identity, jax.random.key(0),
                                partial(attack_peers._convnet, classifier), 3)
    behind = bare._replace(purifier=purifier, twin=partial(attack_peers._behind, purifier, bare))
    logits = [d.twin()(tensor_images(images)).numpy() for d in (bare, behind)]
    assert np.abs(logits[0] - logits[1]).max() > 0.1 * np.abs(logits[0]).max()  # the purifier does something
    for defence, theirs in zip((bare, behind), logits, strict=True):
        attack_peers._check(defence, theirs)


@pytest.mark.peer
def test_the_residual_twin_has_our_logits():
    torch = pytest.importorskip("torch")
    from purimetry.experiments.torch_twins import ResNet20, tensor_images

    torch.manual_seed(0)
    weights = {name: value.numpy() for name, value in ResNet20().state_dict().items() if "batches" not in name}
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    ours = jax.jit(jax.vmap(resnet.resnet20(weights)))(images)
    theirs = attack_peers._residual(weights)(tensor_images(images)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())  # float32 through 20 layers
