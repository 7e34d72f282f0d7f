"""Networks that a run reads from files, each named by ARCHITECTURE:PATH: importers, and what images they are for."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..compression import weights
from ..compression.data.dataset import DataError, Dataset
from ..compression.networks import airbench, ddpm_unet, guided_unet, resnet, wide_resnet
from ..compression.networks.pure import Network
from ..compression.records import digest


class Given(NamedTuple):
    """A network that was read: its architecture's name, itself, its weights' SHA-256, and sides of images it is for.

    sides: in pixels; None is any that the architecture admits.
    trained_until: the last step of 1000 that the training of a network of noisy images was about; None is all.
    config: settings that its weights do not show, where they are not those of the published networks.
    """

    architecture: str
    network: Callable
    sha256: str
    sides: range | None
    trained_until: int | None = None
    config: Mapping | None = None

    @property
    def determinants(self) -> dict:
        """What of it determines records."""
        known = {"architecture": self.architecture, "sha256": self.sha256}
        return known | ({"config": dict(self.config)} if self.config else {})


CIFAR, IMAGENET = range(32, 33), range(32, 1 << 20)
"""Sides of the images: what CIFAR's networks were trained on, and what ImageNet's five halvings leave a pixel of."""


class Classifier(NamedTuple):
    """How arrays become a classifier, with as many classes as its last layer `readout` has, and the sides it is for."""

    importer: Callable[..., Network]
    readout: str
    sides: range

    def read(self, arrays: Mapping[str, np.ndarray]) -> Network:
        """The network; without a readout that of the published file, whose importer says what is missing."""
        weight = arrays.get(f"{self.readout}.weight")
        return self.importer(arrays) if weight is None else self.importer(arrays, classes=len(weight))


CLASSIFIERS = {
    "resnet18": Classifier(resnet.resnet18, "linear", CIFAR),
    "resnet20": Classifier(resnet.resnet20, "linear", CIFAR),
    "resnet56": Classifier(resnet.resnet56, "linear", CIFAR),
    "airbench": Classifier(airbench.airbench, "linear", CIFAR),
    "wide-resnet": Classifier(wide_resnet.of_file, "fc", CIFAR),
    "resnet50": Classifier(resnet.resnet50, "fc", IMAGENET),
    "bottleneck-resnet": Classifier(resnet.bottleneck_resnet, "fc", IMAGENET),
}
"""By name; of `wide-resnet` and `bottleneck-resnet` (ResNet-101, ...) depth and width are the file's, too."""


def classifier(given: str, option: str = "--classifier") -> Given:
    """The classifier of ARCHITECTURE:FILE; ValueError or RecordError, which name the option, if there is none."""
    name, path = named(option, given, CLASSIFIERS)
    arrays = weights.load_published(path)
    return Given(name, _of(option, given, CLASSIFIERS[name].read, arrays), digest(arrays), CLASSIFIERS[name].sides)


def _noise_of_diffusers(given: str, path: Path) -> Given:
    if other := _of("--denoiser", given, weights.other_schedule, path):
        raise ValueError(f"--denoiser {given}: its pipeline has another schedule than the linear one that runs sample "
                         f"with, {other}; use it in a script")
    return _diffusers(_of("--denoiser", given, weights.ddpm_unet, path), path)


def _velocity_of_diffusers(given: str, path: Path) -> Given:
    return _diffusers(_of("--velocity", given, weights.velocity_unet, path), path)


def _diffusers(network: Network, path: Path) -> Given:
    config = json.loads((path / "config.json").read_text())
    side = config.get("sample_size")
    sides = range(side, side + 1) if isinstance(side, int) else None
    trained_until, unseen = weights.card(path).trained_until, ddpm_unet.unseen(config)
    return Given("diffusers", network, sha256_of(network), sides, trained_until, unseen)


def sha256_of(network: Network) -> str:
    """Of a UNet of diffusers as it was read; not of its file, where attention layers have two names."""
    return digest({str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(network))})


def _guided(given: str, path: Path) -> Given:
    arrays = weights.load_published(path)
    return Given("guided", _of("--denoiser", given, guided_unet.of_file, arrays), digest(arrays), None)


DENOISERS: dict[str, Callable[[str, Path], Given]] = {"diffusers": _noise_of_diffusers, "guided": _guided}
"""By name: a folder of diffusers' UNet2DModel, a state dict of guided diffusion's UNet without classes."""

VELOCITIES: dict[str, Callable[[str, Path], Given]] = {"diffusers": _velocity_of_diffusers}
"""As DENOISERS, of networks that predict the velocity of rectified flow."""


def denoiser(given: str) -> Given:
    """The noise predictor of ARCHITECTURE:PATH, or of a FOLDER in diffusers' format; as `classifier`."""
    return _predictor("--denoiser", given, DENOISERS)


def velocity(given: str) -> Given:
    """The velocity of rectified flow, as `denoiser`."""
    return _predictor("--velocity", given, VELOCITIES)


def _predictor(option: str, given: str, known: Mapping[str, Callable[[str, Path], Given]]) -> Given:
    if Path(given).is_dir():
        given = f"diffusers:{given}"
    name, path = named(option, given, known)
    return known[name](given, path)


BY_WORD = {"--classifier": "robust", "--velocity": "published"}
"""What else an option may say with CIFAR-10; a resolved configuration has a path in its place."""


def named(option: str, given: str, known: Mapping) -> tuple[str, Path]:
    """The architecture and path of ARCHITECTURE:PATH.

    >>> named("--denoiser", "guided:256x256_diffusion_uncond.pt", DENOISERS)[0]
    Traceback (most recent call last):
    ValueError: --denoiser guided:256x256_diffusion_uncond.pt: there is no 256x256_diffusion_uncond.pt; \
download the weights, or leave the option out
    """
    name, _, path = given.partition(":")
    if name not in known or not path:
        word = f"; of CIFAR-10, {BY_WORD[option]} is one that comes with Purimetry" if option in BY_WORD else ""
        raise ValueError(f"{option} {given}: expected ARCHITECTURE:PATH with one of {', '.join(known)}, or "
                         f"FILE.py:NAME for a function of yours{word}")
    if not Path(path).exists():
        raise ValueError(f"{option} {given}: there is no {path}; download the weights, or leave the option out")
    return name, Path(path)


def _of(option: str, given: str, importer: Callable, source):
    """What the importer makes of the source; its ValueErrors say which option they are about."""
    try:
        return importer(source)
    except ValueError as error:
        raise type(error)(f"{option} {given}: {error}") from error


def check_classifier(
    given: Given, dataset: Dataset, class_folders: int | None = None, option: str = "--classifier"
) -> None:
    """Raise, without compiling anything, unless the classifier takes these images and has a class for each label.

    class_folders: how many folders number the classes, where folders do; then each class needs one.
    """
    shape = _output(option, given, dataset.shape)
    if len(shape) != 1:
        raise DataError(f"{option}: a classifier maps one image, [height, width, channel], to a vector of logits, but "
                        f"this {given.architecture} gives {shape} for one of {dataset.shape}; map a batch elsewhere")
    (classes,) = shape
    if (top := dataset.test_labels.max()) >= classes:
        raise DataError(f"labels of {dataset.name} run to {top}, but this {given.architecture} has {classes} classes, "
                        f"0..{classes - 1}; give the classifier of these images, or number the labels as it does")
    if class_folders is not None and class_folders != classes:
        raise DataError(f"{dataset.name} has {class_folders} folders of classes, numbered from 0, but this "
                        f"{given.architecture} has {classes} classes; make a folder for each, empty where there are no "
                        "images, or write labels.csv with each file's number")


def check_predictor(given: Given, dataset: Dataset, option: str = "--denoiser") -> None:
    """Raise, without compiling anything, unless the network takes these noisy images and gives as large ones."""
    shape = _output(option, given, dataset.shape, jnp.float32(1))
    if shape != dataset.shape:
        raise DataError(f"{option}: this {given.architecture} gives {shape} for images of {dataset.shape}; give a "
                        "network with as many output channels as the images have")


def _output(option: str, given: Given, shape: tuple[int, int, int], *inputs) -> tuple[int, ...]:
    wrong = [side for side in shape[:2] if given.sides is not None and side not in given.sides]
    if wrong:
        expected = f"{given.sides[0]}" + ("" if len(given.sides) == 1 else " or more")
        raise DataError(f"{option}: images have {shape[0]}x{shape[1]} pixels, but {given.architecture} is for sides of "
                        f"{expected}; choose another --image-size, or another network")
    try:
        return jax.eval_shape(partial(given.network), jnp.zeros(shape), *inputs).shape
    except (TypeError, ValueError) as error:
        raise DataError(f"{option}: this {given.architecture} does not take images of {shape} ({error}); choose "
                        "another --image-size, or another network") from error
