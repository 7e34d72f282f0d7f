"""The networks of a run: read from files where its options name any, else trained when first used."""

from collections.abc import Callable
from functools import cached_property, partial

import numpy as np

from ..compression.checks import check_classifier
from ..compression.data.dataset import DataError, Dataset
from ..compression.networks.precision import in_precision
from ..compression.networks.pure import Network
from ..compression.purifiers.flow import velocity_of
from ..compression.types import Classifier, NoisePredictor
from . import architectures, models, own
from .architectures import Given
from .configuration import Configuration
from .datasets import class_folders
from .purifiers import OF_VELOCITY, PROCESS

NAMES = ("classifier", "robust_classifier", "denoiser", "velocity")
"""By which records know their weights."""


class Networks:
    """Of a resolved configuration and its data. Raises before any work where one is lacking or unfit for the images."""

    def __init__(self, configuration: Configuration, dataset: Dataset):
        self.configuration, self.dataset = configuration, dataset
        self.given = _read(configuration, dataset)

    @property
    def determinants(self) -> dict:
        """What of those that were read determines records."""
        found = {name: given.determinants for name, given in self.given.items()}
        return {**found, "velocity": "the denoiser's"} if self._follows_velocity and not self.has_velocity else found

    @property
    def sha256(self) -> dict[str, str]:
        """Of the weights that all of the run's measurements depend on, by name."""
        found = {"classifier": self._classifier[1]}
        if self.has_denoiser:
            found["denoiser"] = self._denoiser[1]
        if self.has_velocity:
            found["velocity"] = self._velocity[1]
        return found | self.robust_sha256 if "robust_classifier" in self.given else found

    @property
    def robust_sha256(self) -> dict[str, str]:
        """Of the adversarially trained classifier's weights, by its name."""
        return {"robust_classifier": self._robust_classifier[1]}

    @property
    def has_denoiser(self) -> bool:
        """Whether a purifier of the run asks for a noise predictor; a flow along its own velocity does not."""
        return _asks_for_noise(self.configuration)

    @property
    def has_velocity(self) -> bool:
        """Whether a purifier of the run follows the velocity of a network of its own, given or trained here."""
        return self._follows_velocity and ("velocity" in self.given or "denoiser" not in self.given)

    @property
    def _follows_velocity(self) -> bool:
        return bool(set(OF_VELOCITY) & set(self.configuration.samplers))

    def trained_until(self, sampler: str) -> int | None:
        """The last step of 1000 that the training of this sampler's network was about, where its card says one."""
        name = self.predictor(sampler)
        return self.given[name].trained_until if name in self.given else None

    def predictor(self, sampler: str) -> str:
        """Name of the network that a sampler follows."""
        return "velocity" if self.has_velocity and sampler in OF_VELOCITY else "denoiser"

    @property
    def classifier(self) -> Classifier:
        """The classifier."""
        return self._classifier[0]

    @property
    def robust_classifier(self) -> Classifier:
        """An adversarially trained classifier: that of the run, or the same network as the classifier trained here."""
        return self._robust_classifier[0]

    @cached_property
    def denoiser(self) -> NoisePredictor:
        """The noise predictor, in the run's precision."""
        return self._in_precision(self._denoiser[0])

    @cached_property
    def velocity(self) -> NoisePredictor:
        """The velocity of rectified flow: given, trained here, or that of the noise predictor that was given."""
        return self._in_precision(self._velocity[0]) if self.has_velocity else velocity_of(self.denoiser, PROCESS)

    def _in_precision(self, network: Callable) -> NoisePredictor:
        precision = self.configuration.precision
        return network if precision == "float32" else in_precision(network, precision)

    @cached_property
    def _classifier(self) -> tuple[Network, str]:
        return self._given_or_trained("classifier", models.classifier)

    @cached_property
    def _robust_classifier(self) -> tuple[Network, str]:
        return self._given_or_trained("robust_classifier", models.robust_classifier)

    @cached_property
    def _denoiser(self) -> tuple[Network, str]:
        return self._given_or_trained("denoiser", models.denoiser)

    @cached_property
    def _velocity(self) -> tuple[Network, str]:
        return self._given_or_trained("velocity", models.velocity)

    def _given_or_trained(self, name: str, train: Callable) -> tuple[Network, str]:
        """A network and its weights' SHA-256."""
        if found := self.given.get(name):
            return found.network, found.sha256
        return train(self.configuration.training, self.dataset, self.configuration.cache)


def _read(c: Configuration, dataset: Dataset) -> dict[str, Given]:
    """Networks of files, fit for the images; raises where one is lacking that cannot be trained."""
    given = {}
    for name in ("classifier", "robust_classifier"):
        if (told := getattr(c, name)) is not None:
            option = f"--{name.replace('_', '-')}"
            given[name] = _one(option, told, partial(architectures.classifier, option=option), dataset)
            architectures.check_classifier(given[name], dataset, class_folders(c.dataset), option)
            if own.is_own(told):
                with own.named(f"{option} {told}"):
                    check_classifier(given[name].network, dataset.test_images[:2])
    if c.velocity is not None and not set(OF_VELOCITY) & set(c.samplers):
        raise ValueError(f"--velocity is what --samplers {' and '.join(OF_VELOCITY)} follows, got --samplers "
                         f"{' '.join(c.samplers) or 'none'}; add it, or leave --velocity out")
    for name in ("denoiser", "velocity"):
        if (told := getattr(c, name)) is not None:
            option = f"--{name}"
            given[name] = _one(option, told, getattr(architectures, name), dataset, np.float32(1))
            architectures.check_predictor(given[name], dataset, option)
            own.check_precision(option, given[name], c.precision)
    needed = {"classifier": "give --classifier ARCHITECTURE:FILE or FILE.py:NAME"}
    if _asks_for_noise(c):
        alone = set(c.samplers) <= set(OF_VELOCITY)
        needed["denoiser"] = f"give --denoiser ARCHITECTURE:PATH or FILE.py:NAME{', or a --velocity' * alone}"
    if lacking := [name for name in needed if name not in given and not len(dataset.train_images)]:
        raise DataError(f"{dataset.name} has no images to train a {' or a '.join(lacking)} on; "
                        f"{', and '.join(needed[name] for name in lacking)}")
    return given


def _asks_for_noise(c: Configuration) -> bool:
    return bool(set(c.samplers) - set(OF_VELOCITY if c.velocity is not None else ()))


def _one(option: str, told: str, importer: Callable[[str], Given], dataset: Dataset, *more) -> Given:
    """A network of a file of weights; of a file of Python, a function of an image (and more)."""
    if own.is_own(told):
        return own.given(option, told, np.zeros(dataset.shape, np.float32), *more)
    return importer(told)
