"""CIFAR-10's published networks: trained anew, written as float16 with a card each, as `--dataset cifar10` loads them.

A card says what the weights were made from, how, with what quality, and which command makes them anew; its `sha256` is
of the file's named arrays, `sha256_in_records` what a run that was given the network says of it.
"""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save

from ..compression import weights
from ..compression.attacks.pgd import converged_pgd
from ..compression.attacks.search import attack_images
from ..compression.data.cifar import cifar10
from ..compression.data.dataset import Dataset
from ..compression.networks.airbench import airbench
from ..compression.networks.pure import Network
from ..compression.purifiers.identity import identity
from ..compression.randomness import configurations
from ..compression.records import digest, write_atomic
from . import cifar10_classifier, cifar10_denoiser, cifar10_flow, cifar10_unet
from .architectures import sha256_of
from .cifar10_unet import Recipe
from .configuration import CLASSIFIER, DENOISER, FLOW, ROBUST_CLASSIFIER
from .progress import bar
from .training import TESTED, TIMES, flow_errors, margins, noise_errors

ATTACKED = 200
"""Test images under the attack that says how robust a classifier is."""


def train(name: str, out: Path, data_dir: Path) -> dict:
    """Train CIFAR-10's network of this name into a folder of its own in `out`; return its card."""
    kinds = {"classifier": classifier, "robust-classifier": robust_classifier, "denoiser": denoiser, "flow": flow}
    return kinds[name](cifar10(data_dir), Path(out))


def classifier(dataset: Dataset, out: Path, recipe: cifar10_classifier.Recipe = cifar10_classifier.RECIPE) -> dict:
    """Train, write and test the classifier; return its card."""
    return _classifier("classifier", out / CLASSIFIER, dataset, recipe, "cross-entropy")


def robust_classifier(
    dataset: Dataset, out: Path, recipe: cifar10_classifier.Recipe = cifar10_classifier.ROBUST
) -> dict:
    """Train, write and test the adversarially trained classifier, also under attack; return its card."""
    return _classifier("robust-classifier", out / ROBUST_CLASSIFIER, dataset, recipe,
                       "cross-entropy at N-FGSM's adversary (de Jorge et al. 2022)",
                       lambda network: robust_quality(network, dataset, recipe.eps))


def _classifier(name, path, dataset, recipe, loss, more=lambda network: {}) -> dict:
    with bar(f"train {name}") as show:
        model = cifar10_classifier.train(dataset, recipe, path.parent.with_name(f"{name}-training.pt"), show)
    write_half(path, cifar10_classifier.folded(model))
    card = {
        "architecture": "airbench94 (Jordan 2024), normalisations folded into the convolutions",
        "training": {"optimiser": "SGD with Nesterov momentum and lookahead", **recipe._asdict(),
                     "widths": list(recipe.widths),
                     "loss": loss, "augmentation": f"mirrored, moved by {cifar10_classifier.SHIFT} pixels",
                     "precision": "bfloat16"},
        "command": f"purimetry train {name}",
    }
    arrays = weights.load_published(path)
    network = airbench(arrays)
    card |= classifier_quality(network, dataset) | more(network)
    return write_card(path.parent, arrays, dataset, card, digest(arrays))


def denoiser(
    dataset: Dataset, out: Path, recipe: Recipe = cifar10_denoiser.RECIPE, settings: dict = cifar10_denoiser.SETTINGS
) -> dict:
    """Train, write and test the denoiser; return its card."""
    return _unet("denoiser", out / DENOISER, dataset, cifar10_denoiser, recipe, settings, noise_errors)


def flow(
    dataset: Dataset, out: Path, recipe: Recipe = cifar10_flow.RECIPE, settings: dict = cifar10_flow.SETTINGS
) -> dict:
    """Train, write and test the velocity of rectified flow; return its card."""
    return _unet("flow", out / FLOW, dataset, cifar10_flow, recipe, settings, flow_errors)


def _unet(name, folder, dataset, kind, recipe, settings, errors) -> dict:
    with bar(f"train {name}") as show:
        checkpoint = folder.with_name(f"{name}-training.pt")
        model = cifar10_unet.train(dataset, recipe, kind.example, settings, checkpoint, show)
    model.save_config(folder)
    write_half(folder / weights.DIFFUSERS, {name: value.numpy() for name, value in model.state_dict().items()})
    card = {
        "architecture": f"diffusers' UNet2DModel; {kind.PROCESS}; images in [-1, 1]",
        "trained_until": kind.TRAINED_UNTIL, "predicts": kind.PREDICTS,
        "training": {"optimiser": "AdamW, cosine decay, average of weights", **recipe._asdict(),
                     "loss": f"squared error of the {kind.PREDICTS}", "augmentation": "mirrored",
                     "times": f"80 % with less noise than t = {kind.TRAINED_UNTIL} of 1000, 20 % any"},
        "command": f"purimetry train {name}",
    }
    network, arrays = kind.READ(folder), weights.load_published(folder / weights.DIFFUSERS)
    card |= unet_quality(network, dataset, errors)
    return write_card(folder, arrays, dataset, card, sha256_of(network))


def classifier_quality(network: Network, dataset: Dataset) -> dict:
    """Its accuracy on all test images, in percent with its standard error."""
    right = 100.0 * (margins(network, dataset.test_images, dataset.test_labels) < 0)
    return {"test_accuracy_percent": _mean(right), "test_images": len(right)}


def robust_quality(network: Network, dataset: Dataset, eps: float) -> dict:
    """Its accuracy under the converged attack within l_inf of eps, in percent, on the first ATTACKED test images."""
    images, labels = dataset.test_images[:ATTACKED], dataset.test_labels[:ATTACKED]
    with bar("attack robust-classifier") as show:
        keys = configurations(0, np.arange(len(images)))
        found = attack_images(converged_pgd, network, identity, images, labels, keys, eps,
                              on_segment=lambda done, active: show(done, f"{active} images"))
    return {"robust_accuracy_percent": _mean(100.0 * (found.broken_at < 0)), "attacked_images": len(images), "eps": eps}


def unet_quality(network: Network, dataset: Dataset, errors: Callable) -> dict:
    """Mean squared error of the predicted noise by t of 1000, each with its standard error over test images."""
    images = dataset.test_images[:TESTED]
    found = errors(network, images, jax.random.split(jax.random.key(0), len(images)))
    by_t = {t: _mean(of_images) for t, of_images in zip(TIMES, found, strict=True)}
    return {"noise_squared_error_by_t": by_t, "test_images": len(images)}


def _mean(values: np.ndarray) -> list[float]:
    return [round(float(values.mean()), 5), round(float(values.std(ddof=1) / len(values) ** 0.5), 5)]


def write_half(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as float16 safetensors."""
    write_atomic(path, save({name: np.ascontiguousarray(array, np.float16) for name, array in arrays.items()}))


def write_card(
    folder: Path, arrays: dict[str, np.ndarray], dataset: Dataset, card: dict, sha256_in_records: str
) -> dict:
    """Write a network's card beside its weights, with what identifies them and their data, and return it."""
    card = {
        **card, "data": f"the {len(dataset.train_images):,} training images of {dataset.name}",
        "data_sha256": dataset.fingerprint, "sha256": digest(arrays),
        "sha256_in_records": sha256_in_records, "licence": "Apache-2.0",
    }
    write_atomic(folder / "card.json", (json.dumps(card, indent=1) + "\n").encode())
    return card
