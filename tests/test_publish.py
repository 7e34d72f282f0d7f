"""CIFAR-10's published networks: their training resumes, their files are what their cards say, a run loads them."""

import json
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import weights
from purimetry.compression.batches import over_images
from purimetry.compression.data.dataset import Dataset
from purimetry.compression.networks.airbench import airbench
from purimetry.compression.records import RecordError, digest
from purimetry.compression.schedules import rectified_time
from purimetry.experiments import architectures, training
from purimetry.experiments.configuration import CLASSIFIER, DENOISER, FLOW, PUBLISHED, ROBUST_CLASSIFIER, Configuration


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
    others = small._replace(train_labels=(small.train_labels + 1) % 10)
    for data, told in [(small, recipe._replace(seed=1)), (others, recipe)]:
        with pytest.raises(RecordError, match="of another training.*remove it"):
            publish.classifier(data, tmp_path, told)
    assert not (tmp_path / CLASSIFIER).exists()
    card = publish.classifier(small, tmp_path, recipe)

    arrays = weights.load_published(tmp_path / CLASSIFIER)
    for name, array in cifar10_classifier.folded(whole).items():
        np.testing.assert_array_equal(arrays[name], array.astype(np.float16).astype(np.float32), err_msg=name)
    assert card == json.loads((tmp_path / CLASSIFIER).with_name("card.json").read_text())
    assert card["sha256"] == card["sha256_in_records"] == digest(arrays) and card["training"]["epochs"] == 3

    network, x = airbench(cifar10_classifier.folded(whole)), small.test_images
    with torch.no_grad():
        theirs = whole(torch.from_numpy((x - np.float32(cifar10_classifier.MEAN)) / np.float32(cifar10_classifier.STD))
                       .permute(0, 3, 1, 2)).numpy()
    # float32 in another order; the scale is the logits' own
    np.testing.assert_allclose(jax.jit(jax.vmap(network))(x), theirs, atol=1e-5 * np.abs(theirs).max())
    right = 100 * np.mean(theirs.argmax(1) == small.test_labels)
    assert card["test_accuracy_percent"][0] == pytest.approx(right, abs=4)  # float16 may turn one of 32 images


@pytest.mark.peer
def test_a_training_killed_while_it_is_kept_goes_on_from_where_it_was_kept_before(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from purimetry.experiments import checkpoints

    path, save = tmp_path / "out" / "training.pt", torch.save
    checkpoints.save(path, ("recipe",), {"epoch": 1, "slow": {"a": torch.ones(3)}})

    def killed(state, file):
        save(state, file)
        raise Stop

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(Stop):
        checkpoints.save(path, ("recipe",), {"epoch": 2, "slow": {"a": torch.zeros(3)}})
    assert checkpoints.load(path, ("recipe",))["epoch"] == 1
    assert checkpoints.load(tmp_path / "none.pt", ("recipe",)) == {}
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecordError, match="training.pt is damaged .*; remove it"):
        checkpoints.load(path, ("recipe",))


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
@pytest.mark.parametrize("name", ["denoiser", "flow"])
def test_noisy_images_networks_resume_and_are_published_in_diffusers_format(name, small, tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    from purimetry.experiments import cifar10_unet, publish

    kind = import_module(f"purimetry.experiments.cifar10_{name}")
    monkeypatch.setattr(cifar10_unet, "SAVED", 2)
    monkeypatch.setattr(publish, "TIMES", (10, 600))
    monkeypatch.setattr(training, "TIMES", (10, 600))
    settings = kind.SETTINGS | {
        "block_out_channels": (16, 16), "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
    }
    recipe, folder = kind.RECIPE._replace(steps=5, batch=4), tmp_path / name
    whole = cifar10_unet.train(small, recipe, kind.example, settings, tmp_path / "whole.pt")
    checkpoint = tmp_path / f"{name}-training.pt"
    with pytest.raises(Stop):
        cifar10_unet.train(small, recipe, kind.example, settings, checkpoint, interrupted_at(0.6))
    with pytest.raises(RecordError, match="of another training.*remove it"):
        cifar10_unet.train(small, recipe._replace(seed=1), kind.example, settings, checkpoint)
    resumed = cifar10_unet.train(small, recipe, kind.example, settings, checkpoint)
    for layer, tensor in whole.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[layer], tensor, err_msg=layer)
    card = getattr(publish, name)(small, tmp_path, recipe, settings)

    arrays = weights.load_published(folder / weights.DIFFUSERS)
    for name, tensor in whole.state_dict().items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy().astype(np.float16).astype(np.float32), err_msg=name)
    assert weights.card(folder) == (kind.TRAINED_UNTIL, kind.PREDICTS) and card["sha256"] == digest(arrays)
    read = architectures.velocity if kind.PREDICTS == "velocity" else architectures.denoiser
    assert card["sha256_in_records"] == read(str(folder)).sha256
    assert set(json.loads((folder / "card.json").read_text())["noise_squared_error_by_t"]) == {"10", "600"}
    network = kind.READ(folder)
    assert jax.eval_shape(lambda x: network(x, jnp.float32(10)), small.test_images[0]).shape == (32, 32, 3)


def of_noise(x_t, time, noise):
    """The image of x_t and the noise in it, by the schedule's closed form."""
    kept = pm.linear().alpha_bar[1:][time.astype(int)][:, None, None, None] ** 0.5
    return (x_t - (1 - kept**2) ** 0.5 * noise) / kept, noise


def of_velocity(y, time, velocity):
    """As `of_noise`, of y = (1 - t) x_0 + t z and z - x_0."""
    t = time[:, None, None, None] / 999
    return y - t * velocity, y + (1 - t) * velocity


@pytest.mark.peer
@pytest.mark.parametrize("name, apart, early", [
    ("denoiser", of_noise, 250), ("flow", of_velocity, 999 * rectified_time(pm.linear().alpha_bar[150]))])
def test_what_a_network_of_noisy_images_learns_from_tells_image_and_noise_apart(name, apart, early):
    pytest.importorskip("diffusers")
    import torch
    from purimetry.experiments.cifar10_unet import Draw

    kind = import_module(f"purimetry.experiments.cifar10_{name}")
    images = np.random.default_rng(0).uniform(-1, 1, (7, 3, 4, 4)).astype(np.float32)
    drawn = kind.example(torch.from_numpy(images), Draw(kind.RECIPE._replace(batch=2000), step=3))
    x_t, time, said = (np.asarray(values, np.float64) for values in drawn)
    x, noise = apart(x_t, time, said)
    known = np.concatenate([images, images[..., ::-1]])
    nearest = abs(x[:, None] - known).max((2, 3, 4)).min(1)
    assert nearest[time < 600].max() < 1e-5  # float32, over at least a seventh that is left of the image
    assert abs(noise.std() - 1) < 4 / (2 * noise.size) ** 0.5
    expected = 0.8 + 0.2 * early / 1000
    assert abs((time < early).mean() - expected) < 4 * (expected * (1 - expected) / len(time)) ** 0.5


@pytest.mark.parametrize("path, file", [
    (CLASSIFIER, "weights.safetensors"), (ROBUST_CLASSIFIER, "weights.safetensors"), (DENOISER, weights.DIFFUSERS),
    (FLOW, weights.DIFFUSERS)])
def test_published_files_are_what_their_cards_say(path, file):
    folder = PUBLISHED / path.split("/")[0]
    card = json.loads((folder / "card.json").read_text())
    assert digest(weights.load_published(folder / file)) == card["sha256"]
    assert {"architecture", "training", "data", "data_sha256", "command", "licence"} <= card.keys()


@pytest.mark.parametrize("path", [CLASSIFIER, ROBUST_CLASSIFIER])
def test_published_classifiers_have_their_cards_accuracy_on_all_test_images(path, real_cifar10):
    """But for images whose two largest logits are as near as float32 in another order may move them."""
    data, card = real_cifar10, json.loads((PUBLISHED / path).with_name("card.json").read_text())
    assert (card["data_sha256"], card["test_images"]) == (data.fingerprint, 10_000)
    network = airbench(weights.load_published(PUBLISHED / path))
    logits = over_images(lambda network, x: network(x), (network,), data.test_images[:])
    second, first = np.sort(logits, 1)[:, -2:].T
    may_flip = np.sum(first - second < 1e-5 * np.abs(logits).max())  # 0, and of the robust one 3
    assert may_flip <= 3
    right = np.sum(logits.argmax(1) == data.test_labels)
    assert abs(right - 100 * card["test_accuracy_percent"][0]) <= may_flip


def test_cifar10_is_measured_with_the_published_networks_unless_told_others():
    c = Configuration(dataset="cifar10").resolved()
    classifier, denoiser = architectures.classifier(c.classifier), architectures.denoiser(c.denoiser)
    assert jax.eval_shape(lambda x: classifier.network(x), jnp.zeros((32, 32, 3))).shape == (10,)
    assert jax.eval_shape(lambda x: denoiser.network(x, jnp.float32(10)), jnp.zeros((32, 32, 3))).shape == (32, 32, 3)
    assert denoiser.trained_until == 250
    told = Configuration(dataset="cifar10", samplers=("flow",), velocity="published").resolved().velocity
    velocity = architectures.velocity(told)
    assert jax.eval_shape(lambda x: velocity.network(x, jnp.float32(10)), jnp.zeros((32, 32, 3))).shape == (32, 32, 3)
    assert velocity.trained_until == 150 and velocity.sha256 != denoiser.sha256
    assert Configuration(dataset="cifar10", classifier="resnet20:other").resolved().classifier == "resnet20:other"
    robust = Configuration(dataset="cifar10", classifier="robust").resolved()
    assert robust.classifier == robust.robust_classifier == c.robust_classifier
    assert Configuration(dataset="cifar100").resolved().classifier is None


def test_scripts_get_the_networks_that_runs_get():
    c = Configuration(dataset="cifar10", samplers=("flow",), velocity="published").resolved()
    given = (architectures.classifier(c.classifier), architectures.classifier(c.robust_classifier),
             architectures.denoiser(c.denoiser), architectures.velocity(c.velocity))
    for ours, theirs in zip(pm.published("cifar10"), given, strict=True):
        assert ours.graph == theirs.network.graph
        jax.tree.map(np.testing.assert_array_equal, ours.state, theirs.network.state)
    with pytest.raises(ValueError, match=r"for cifar10, got 'digits'; pm.trained\(dataset\) trains"):
        pm.published("digits")


NAMED = [network for path in sorted((Path(__file__).parent.parent / "records").glob("*/run.json"))
         for network in json.loads(path.read_text())["configuration"].values()
         if isinstance(network, dict) and "architecture" in network]
"""Networks of files that the committed runs say they measured."""


def test_the_published_networks_are_those_of_the_committed_records_and_their_cards_say_so():
    """Otherwise `--reuse` would refuse these runs."""
    c = Configuration(dataset="cifar10", samplers=("ddpm", "flow"), velocity="published").resolved()
    classifiers = map(architectures.classifier, (c.classifier, c.robust_classifier))
    published = [*classifiers, architectures.denoiser(c.denoiser), architectures.velocity(c.velocity)]
    known = [given.determinants for given in published]
    assert all(network in known for network in NAMED) and all(network in NAMED for network in known)
    cards = [PUBLISHED / path.split("/")[0] / "card.json" for path in (CLASSIFIER, ROBUST_CLASSIFIER, DENOISER, FLOW)]
    assert [json.loads(card.read_text())["sha256_in_records"] for card in cards] == [of.sha256 for of in published]


def test_published_classifier_takes_images_of_one_size_only():
    with pytest.raises(ValueError, match=r"takes images \[32, 32, 3\], got \(28, 28, 1\)"):
        airbench(weights.load_published(PUBLISHED / CLASSIFIER))(jnp.zeros((28, 28, 1)))
