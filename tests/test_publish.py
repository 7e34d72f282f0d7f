"""CIFAR-10's published networks: their training resumes, their files are what their cards say, a run loads them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import weights
from purimetry.compression.data.dataset import Dataset
from purimetry.compression.networks.airbench import airbench
from purimetry.compression.records import digest
from purimetry.experiments import architectures
from purimetry.experiments.configuration import CLASSIFIER, DENOISER, PUBLISHED, ROBUST_CLASSIFIER, Configuration


class Stop(Exception):
    """What interrupts a training."""


@pytest.fixture(scope="module")
def small() -> Dataset:
    draw = np.random.default_rng(0)
    images = draw.uniform(size=(96, 32, 32, 3)).astype(np.float32)
    labels = draw.integers(10, size=96).astype(np.int32)
    return Dataset("small", images[:64], labels[:64], images[64:], labels[64:])


def interrupted_at(fraction):
    def on_step(done, say):
        if done >= fraction:
            raise Stop

    return on_step


@pytest.mark.peer
@pytest.mark.usefixtures("one_torch_thread")
def test_classifier_resumes_and_is_published_as_the_same_function(small, tmp_path):
    torch = pytest.importorskip("torch")
    from purimetry.experiments import cifar10_classifier, publish

    recipe = cifar10_classifier.Recipe(widths=(8, 8, 16), epochs=3, batch=32)
    whole = cifar10_classifier.train(small, recipe, tmp_path / "whole.pt")
    with pytest.raises(Stop):
        cifar10_classifier.train(small, recipe, tmp_path / "classifier-training.pt", interrupted_at(0.9))
    card = publish.classifier(small, tmp_path, recipe)

    arrays = weights.load_published(tmp_path / CLASSIFIER)
    for name, array in cifar10_classifier.folded(whole).items():
        np.testing.assert_array_equal(arrays[name], array.astype(np.float16).astype(np.float32), err_msg=name)
    assert card == json.loads((tmp_path / CLASSIFIER).with_name("card.json").read_text())
    assert card["sha256"] == digest(arrays) and card["training"]["epochs"] == 3

    network, x = airbench(cifar10_classifier.folded(whole)), small.test_images
    with torch.no_grad():
        theirs = whole(torch.from_numpy((x - np.float32(cifar10_classifier.MEAN)) / np.float32(cifar10_classifier.STD))
                       .permute(0, 3, 1, 2)).numpy()
    # float32 in another order; the scale is the logits' own
    np.testing.assert_allclose(jax.vmap(network)(x), theirs, atol=1e-5 * np.abs(theirs).max())
    right = 100 * np.mean(theirs.argmax(1) == small.test_labels)
    assert card["test_accuracy_percent"][0] == pytest.approx(right, abs=4)  # float16 may turn one of 32 images


@pytest.mark.peer
@pytest.mark.usefixtures("one_torch_thread")
def test_adversarial_training_is_published_too_and_its_adversaries_stay_near(small, tmp_path):
    torch = pytest.importorskip("torch")
    from purimetry.experiments import cifar10_classifier, publish

    recipe = cifar10_classifier.Recipe(widths=(8, 8, 16), epochs=2, batch=32, eps=8 / 255)
    card = publish.robust_classifier(small, tmp_path, recipe)
    arrays = weights.load_published(tmp_path / ROBUST_CLASSIFIER)
    assert [len(arrays[f"blocks.{i}.conv1.weight"]) for i in range(3)] == [8, 8, 16]
    assert 0 <= card["robust_accuracy_percent"][0] <= card["test_accuracy_percent"][0] and card["attacked_images"] == 32
    assert card["training"]["eps"] == card["eps"] == 8 / 255 and card["command"] == "purimetry train robust-classifier"

    model = cifar10_classifier.train(small, recipe, tmp_path / "robust-classifier-training.pt")  # resumed at its end
    x = torch.from_numpy((small.test_images - np.float32(cifar10_classifier.MEAN)) / np.float32(cifar10_classifier.STD))
    x, y = x.permute(0, 3, 1, 2), torch.from_numpy(small.test_labels).long()
    adversary = cifar10_classifier.adversary(model, x, y, recipe.eps, torch.Generator().manual_seed(0))
    std, mean = (torch.tensor(values)[:, None, None] for values in (cifar10_classifier.STD, cifar10_classifier.MEAN))
    moved = ((adversary - x) * std).abs().max()
    assert 2 * recipe.eps < moved <= 3 * recipe.eps + 1e-6  # float32
    pixels = adversary * std + mean
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
    with torch.no_grad():
        loss = lambda x: torch.nn.functional.cross_entropy(model(x), y, reduction="none")
        gained = loss(adversary) - loss(x)
    assert gained.mean() > 3 * gained.std() / len(x) ** 0.5


@pytest.mark.peer
@pytest.mark.usefixtures("one_torch_thread")
def test_denoiser_resumes_and_is_published_in_diffusers_format(small, tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    from purimetry.experiments import cifar10_denoiser, publish

    monkeypatch.setattr(cifar10_denoiser, "SAVED", 2)
    monkeypatch.setattr(publish, "TIMES", (10, 600))
    settings = cifar10_denoiser.SETTINGS | {
        "block_out_channels": (16, 16), "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
    }
    recipe = cifar10_denoiser.Recipe(steps=5, batch=4)
    whole = cifar10_denoiser.train(small, recipe, tmp_path / "whole.pt", settings=settings)
    with pytest.raises(Stop):
        cifar10_denoiser.train(small, recipe, tmp_path / "denoiser-training.pt", interrupted_at(0.6), settings)
    card = publish.denoiser(small, tmp_path, recipe, settings)

    arrays = weights.load_published(tmp_path / DENOISER / weights.DIFFUSERS)
    for name, tensor in whole.state_dict().items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy().astype(np.float16).astype(np.float32), err_msg=name)
    assert card["trained_until"] == 250 and card["sha256"] == digest(arrays)
    assert set(json.loads((tmp_path / DENOISER / "card.json").read_text())["noise_squared_error_by_t"]) == {"10", "600"}
    assert pm.ddpm_unet(tmp_path / DENOISER)(jnp.asarray(small.test_images[0]), jnp.float32(10)).shape == (32, 32, 3)


@pytest.mark.parametrize("path, file", [
    (CLASSIFIER, "weights.safetensors"), (ROBUST_CLASSIFIER, "weights.safetensors"), (DENOISER, weights.DIFFUSERS)])
def test_published_files_are_what_their_cards_say(path, file):
    folder = PUBLISHED / path.split("/")[0]
    card = json.loads((folder / "card.json").read_text())
    assert digest(weights.load_published(folder / file)) == card["sha256"]
    assert {"architecture", "training", "data", "data_sha256", "command", "licence"} <= card.keys()


def test_cifar10_is_measured_with_the_published_networks_unless_told_others():
    c = Configuration(dataset="cifar10").resolved()
    classifier, denoiser = architectures.classifier(c.classifier), architectures.denoiser(c.denoiser)
    assert jax.eval_shape(lambda x: classifier.network(x), jnp.zeros((32, 32, 3))).shape == (10,)
    assert jax.eval_shape(lambda x: denoiser.network(x, jnp.float32(10)), jnp.zeros((32, 32, 3))).shape == (32, 32, 3)
    assert denoiser.trained_until == 250
    assert Configuration(dataset="cifar10", classifier="resnet20:other").resolved().classifier == "resnet20:other"
    assert Configuration(dataset="cifar100").resolved().classifier is None


def test_published_classifier_takes_images_of_one_size_only():
    with pytest.raises(ValueError, match=r"takes images \[32, 32, 3\], got \(28, 28, 1\)"):
        airbench(weights.load_published(PUBLISHED / CLASSIFIER))(jnp.zeros((28, 28, 1)))
