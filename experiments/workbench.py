"""What every experiment works with: the data, the networks, the purifiers, and where measurements go."""

import json
import platform
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from importlib.metadata import version
from typing import NamedTuple

import jax
import numpy as np

from ..compression import checks, randomness, samplers, schedules
from ..compression.networks.precision import in_precision
from ..compression.networks.pure import Network
from ..compression.purifiers.diffusion import diffusion
from ..compression.purifiers.identity import identity
from ..compression.records import Arrays, Folder, Measurement, write_atomic
from ..compression.types import NoisePredictor, Purifier
from . import models
from .configuration import Configuration
from .datasets import DATASETS
from .progress import bar
from .workers import Piece


class Cell(NamedTuple):
    """One purifier of the grid; t_star 0 is the bare classifier."""

    sampler: str
    t_star: int

    def __str__(self) -> str:
        return f"{self.sampler}-t{self.t_star}"

    @property
    def at(self) -> dict:
        """Its coordinates in records."""
        return {"sampler": self.sampler, "t_star": self.t_star}


BARE = Cell("none", 0)


class Workbench:
    """A run's configuration made concrete. Raises before any work if the configuration cannot be met."""

    def __init__(self, configuration: Configuration):
        self.configuration = configuration = configuration.resolved()
        self.schedule = schedules.respaced(schedules.linear(), configuration.respaced)
        for cell in self.cells:
            samplers.SAMPLERS[cell.sampler](self.schedule, cell.t_star)
        for eps in configuration.eps:
            checks.check_budget(eps)
        self.dataset = DATASETS[configuration.dataset](configuration.data_dir)
        self.indices = self.dataset.subset(configuration.images, configuration.subset_seed)
        self.images, self.labels = self.dataset.test_images[self.indices], self.dataset.test_labels[self.indices]
        checks.check_images(self.images)
        checks.check_labels(self.labels, len(self.images), self.dataset.classes)
        self._purifiers: dict[Cell, Purifier] = {}
        published = {"resnet20": lambda: self._classifier, "denoiser": lambda: self._denoiser}
        weights = {name: network()[1] for name, network in published.items() if self._published(name)}
        determinants = {**configuration.determinants(), "data_sha256": self.dataset.fingerprint, **weights}
        self.folder = Folder(configuration.out, determinants)
        taken = {"dataset": self.dataset.name, "split": "test", "indices": self.indices.tolist()}
        write_atomic(self.folder.path / "images.json", json.dumps(taken).encode())

    @property
    def cells(self) -> list[Cell]:
        """The grid of purifiers."""
        return [Cell(s, t) for s in self.configuration.samplers for t in self.configuration.t_stars]

    @property
    def middle_cells(self) -> list[Cell]:
        """Every sampler at the middle t*."""
        t_stars = sorted(self.configuration.t_stars)
        return [cell for cell in self.cells if cell.t_star == t_stars[len(t_stars) // 2]]

    @cached_property
    def classifier(self) -> Network:
        """The trained classifier."""
        return self._classifier[0]

    @cached_property
    def robust_classifier(self) -> Network:
        """The same network, adversarially trained."""
        return models.robust_classifier(self.configuration.training, self.dataset, self.configuration.cache)[0]

    @cached_property
    def denoiser(self) -> NoisePredictor:
        """The trained noise predictor, in the run's precision."""
        network, precision = self._denoiser[0], self.configuration.precision
        return network if precision == "float32" else in_precision(network, precision)

    @cached_property
    def _classifier(self) -> tuple[Network, str]:
        if self._published("resnet20"):
            return models.resnet20(self.configuration.resnet20)
        return models.classifier(self.configuration.training, self.dataset, self.configuration.cache)

    @cached_property
    def _denoiser(self) -> tuple[Network, str]:
        if self._published("denoiser"):
            return models.ddpm_unet(self.configuration.denoiser)
        return models.denoiser(self.configuration.training, self.dataset, self.configuration.cache)

    def _published(self, name: str) -> bool:
        """Whether published weights take the place of a network trained here."""
        return self.dataset.name == "cifar10" and getattr(self.configuration, name) is not None

    def purifier(self, cell: Cell) -> Purifier:
        """The purifier of a cell; checked on two images before it is first used."""
        if cell == BARE:
            return identity
        if cell not in self._purifiers:
            made = diffusion(self.denoiser, samplers.SAMPLERS[cell.sampler](self.schedule, cell.t_star))
            checks.check_purifier(made, self.images[:2], self.keys()[:2])
            self._purifiers[cell] = made
        return self._purifiers[cell]

    def pieces(self, cells: list[Cell], measure: Callable) -> list[Piece]:
        """`measure(bench, cell)`, an iterator of measurements, for each cell as work for any process.

        Purifiers of one t* share their programs, and cost as many steps.
        """
        return [Piece(cell.t_star, 1 + cell.t_star, partial(_exhaust, measure, self, cell)) for cell in cells]

    def keys(self, seed: int | None = None):
        """xi of each image; of the first base seed unless told."""
        return randomness.configurations(self.configuration.seeds[0] if seed is None else seed, self.indices)

    def shard(self, experiment: str, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """Arrays of one piece of work, computed once per run."""
        return self.folder.shard(experiment, name, compute)

    def write(self, experiment: str, measurements: Iterable[Measurement]) -> list[Measurement]:
        """Write an experiment's records."""
        return self.folder.write(experiment, measurements)

    def describe(self, experiment: str, text: str) -> None:
        """Keep how an experiment was computed beside its records, for the report."""
        write_atomic(self.folder.path / experiment / "about.txt", text.encode())

    def lacking(self, experiment: str, lines: list[str]) -> None:
        """Say in the report what an experiment had to leave out, and what to supply for it."""
        write_atomic(self.folder.path / experiment / "lacking.txt", " ".join(lines).encode())

    def measurement(self, experiment, quantity, value, se, n, unit, at, seed: int | None = None) -> Measurement:
        """A measurement with this run's provenance."""
        run = {**self._provenance, "seed": self.configuration.seeds[0] if seed is None else seed}
        return Measurement(experiment, quantity, float(value), None if se is None else float(se), int(n), unit, at, run)

    def mean(self, experiment, quantity, values, unit, at, seed: int | None = None) -> Measurement:
        """The mean of one value an image, with its standard error over images."""
        values = np.asarray(values, np.float64)
        se = values.std(ddof=1) / len(values) ** 0.5
        return self.measurement(experiment, quantity, values.mean(), se, len(values), unit, at, seed)

    @cached_property
    def _provenance(self) -> dict:
        packages = ("purimetry", "jax", "jaxlib", "flax", "optax", "numpy")
        return {
            "configuration": self.configuration.determinants(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
            "device": f"{jax.devices()[0].device_kind} ({platform.machine()}, {sys.platform})",
            "data_sha256": self.dataset.fingerprint,
            "weights_sha256": {"classifier": self._classifier[1], "denoiser": self._denoiser[1]},
        }


def _exhaust(measure, bench, cell) -> None:
    deque(measure(bench, cell), maxlen=0)


def each(description: str, items: list) -> Iterator:
    """Iterate with a progress bar."""
    with bar(description) as show:
        for done, item in enumerate(items):
            show(done / len(items), str(item))
            yield item
        show(1.0)
