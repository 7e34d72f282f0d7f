"""What every experiment works with: the data, the networks, the purifiers, and where measurements go."""

import hashlib
import json
import platform
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import version
from typing import NamedTuple

import jax
import numpy as np

from ..compression import checks, features, randomness, schedules
from ..compression.purifiers.diffusion import diffusion
from ..compression.purifiers.flow import noise_of
from ..compression.purifiers.identity import identity
from ..compression.records import Arrays, Folder, Measurement, write_atomic
from ..compression.types import Classifier, NoisePredictor, Purifier
from . import own, reuse
from .configuration import Configuration
from .datasets import chosen, read
from .networks import NAMES, Networks
from .pieces import Piece
from .progress import bar
from .purifiers import OF_VELOCITY, SAMPLERS


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


LARGE = 1024
"""Pixels from which an image is large."""

BARE = Cell("none", 0)


class Unmet(ValueError):
    """A run lacks what one of its experiments needs; others may do without."""


class Workbench:
    """A run's configuration made concrete. Raises before any work if the configuration cannot be met.

    claim: whether the output folder becomes this run's; a forecast leaves it as it is.
    """

    def __init__(self, configuration: Configuration, claim: bool = True):
        told, configuration = configuration.images, configuration.resolved()
        self.schedule = schedules.respaced(schedules.linear(), configuration.respaced)
        self.configuration = configuration
        for cell in self._grid:
            SAMPLERS[cell.sampler](self.schedule, cell.t_star)
        for eps in (*configuration.eps, configuration.eps_max):
            checks.check_budget(eps)
        self.dataset = read(configuration.dataset, configuration.data_dir, configuration.image_size)
        available = len(self.dataset.test_images)
        if configuration.indices:
            self.indices = chosen(configuration.indices, self.dataset.name, available)
        else:
            if told is None and available < configuration.images:
                self.configuration = configuration = replace(configuration, images=available)
            self.indices = self.dataset.subset(configuration.images, configuration.subset_seed)
        self.images, self.labels = self.dataset.test_images[self.indices], self.dataset.test_labels[self.indices]
        checks.check_images(self.images)
        checks.check_labels(self.labels, len(self.images), self.dataset.classes)
        self._purifiers: dict[Cell, Purifier] = {}
        self._checked: set[Cell | str] = set()
        self._lent: dict[Cell, Callable[[], Purifier]] = {}
        self.networks = Networks(configuration, self.dataset)
        self._own = self._read_purifiers()
        self._check_times()
        determinants = {**self.settings, "data_sha256": self.dataset.fingerprint, **self.networks.determinants}
        if self._own:
            determinants["purifiers"] = [[cell.sampler, sha256] for cell, sha256 in self._own.items()]
        self._reused = [reuse.Source(folder, determinants) for folder in configuration.reuse]
        self.folder = Folder(configuration.out, determinants, claim)
        if claim:
            taken = {"dataset": self.dataset.name, "split": "test", "indices": self.indices.tolist()}
            write_atomic(self.folder.path / "images.json", json.dumps(taken).encode())

    @property
    def settings(self) -> dict:
        """What was told that determines the records."""
        told = self.configuration.determinants()
        if self.configuration.indices:
            told["indices_sha256"] = hashlib.sha256(self.indices.astype("<i8").tobytes()).hexdigest()
        return told

    @property
    def large(self) -> bool:
        """Whether images are so large that a run takes hours on a CPU, and Jacobians are too large to hold."""
        return self.images[0].size > LARGE

    @property
    def cells(self) -> list[Cell]:
        """The purifiers that are measured: the grid, and those of one's own."""
        return [*self._grid, *self._own]

    @property
    def grid(self) -> list[Cell]:
        """The diffusion purifiers, every sampler at every t*; Unmet where there is none."""
        if not self._grid:
            raise Unmet("this experiment is about diffusion purifiers, and --samplers names none; name ddpm, for "
                        "example")
        return self._grid

    @property
    def _grid(self) -> list[Cell]:
        return [Cell(s, t) for s in self.configuration.samplers for t in self.configuration.t_stars]

    @property
    def middle_cells(self) -> list[Cell]:
        """Every sampler at the middle t*."""
        return self._at_the_middle(self.grid)

    @property
    def one_of_each(self) -> list[Cell]:
        """Every sampler at the middle t*, and the purifiers of one's own."""
        return [*self._at_the_middle(self._grid), *self._own]

    def _at_the_middle(self, grid: list[Cell]) -> list[Cell]:
        t_stars = sorted(self.configuration.t_stars)
        return [cell for cell in grid if cell.t_star == t_stars[len(t_stars) // 2]]

    @property
    def classifier(self) -> Classifier:
        """The classifier."""
        return self.networks.classifier

    @property
    def penultimate(self) -> Callable:
        """The features from which the classifier's last layer makes its logits; Unmet where it shows none."""
        try:
            return features.penultimate(self.classifier)
        except TypeError as error:
            raise Unmet(str(error)) from error

    @property
    def denoiser(self) -> NoisePredictor:
        """The noise predictor, in the run's precision; Unmet where no purifier of the run asks for one."""
        if self.grid and not self.networks.has_denoiser:
            raise Unmet("this experiment takes a noise predictor, and --samplers names only flow, along --velocity; "
                        "add ddpm, for example, and --denoiser where there is nothing to train one on")
        return self.networks.denoiser

    @property
    def training(self) -> tuple:
        """Images to learn from, and their labels; Unmet where there are none."""
        if not len(self.dataset.train_images):
            raise Unmet(f"{self.dataset.name} has no training images, from which this experiment learns where images "
                        "lie; take digits, cifar10 or cifar100")
        return self.dataset.train_images, self.dataset.train_labels

    def _read_purifiers(self) -> dict[Cell, str]:
        """One's own purifiers with what their records are known by; lent until they are first used."""
        found = {}
        for told in self.configuration.purifiers:
            read = own.given("--purifiers", told, self.images[0], self.keys()[0])
            cell = Cell(read.architecture.rpartition(":")[2], 0)
            if cell in found or cell.sampler in (*SAMPLERS, BARE.sampler, *NAMES):
                raise ValueError(f"--purifiers {told}: {cell.sampler} is taken; give it another name in its file")
            with own.named(f"--purifiers {told}"):
                checks.check_purifier(read.network, self.images[:2], self.keys()[:2])
            found[cell] = read.sha256
            self._lent[cell] = lambda purifier=read.network: purifier
        return found

    def _covered(self, cell: Cell) -> bool:
        """Whether the training of the cell's network was about its step of the respaced schedule."""
        last = self.networks.trained_until(cell.sampler)
        return last is None or cell.t_star == 0 or int(self.schedule.time[cell.t_star]) < last

    def _check_times(self) -> None:
        for sampler in self.configuration.samplers:
            covered = lambda t, sampler=sampler: self._covered(Cell(sampler, t))
            if beyond := [t for t in self.configuration.t_stars if not covered(t)]:
                last, name = sum(map(covered, range(1, self.schedule.steps + 1))), self.networks.predictor(sampler)
                raise ValueError(
                    f"--{name} {getattr(self.configuration, name)} was trained until t = "
                    f"{self.networks.trained_until(sampler)}, which is step {last} of {self.schedule.steps}, got "
                    f"--t-stars {' '.join(map(str, beyond))}; choose t* up to {last}, or another {name}"
                )

    def purifier(self, cell: Cell) -> Purifier:
        """The purifier of a cell; checked on two images before it, or another with its network, is first used."""
        if cell == BARE:
            return identity
        if cell not in self._purifiers:
            made = self._lent[cell]() if cell in self._lent else self._diffusion(cell)
            unknown = cell if cell in self._lent else self.networks.predictor(cell.sampler)
            if unknown not in self._checked:
                checks.check_purifier(made, self.images[:2], self.keys()[:2])
                self._checked.add(unknown)
            self._purifiers[cell] = made
        return self._purifiers[cell]

    def _diffusion(self, cell: Cell) -> Purifier:
        if not self._covered(cell):
            last, name = self.networks.trained_until(cell.sampler), self.networks.predictor(cell.sampler)
            warnings.warn(f"{cell} begins beyond t = {last}, until which the {name} was trained; what it measures says "
                          "little", stacklevel=3)
        predictor = noise_of(self.networks.velocity) if cell.sampler in OF_VELOCITY else self.denoiser
        return diffusion(predictor, SAMPLERS[cell.sampler](self.schedule, cell.t_star))

    def lend(self, cell: Cell, make: Callable[[], Purifier]) -> None:
        """Let a purifier outside the grid, made when first used, stand as a cell for whatever measures cells.

        Unmet where one of the user's own has its name.
        """
        if cell in self._own:
            raise Unmet(f"--purifiers has a {cell.sampler}, the name of one that this experiment measures; give it "
                        "another in its file")
        self._lent[cell] = make

    def pieces(self, cells: list[Cell], measure: Callable) -> list[Piece]:
        """`measure(bench, cell)`, any iterable, for each cell as work for any process; it reads no other cells' shards.

        Diffusion purifiers of one t* cost as many steps, and those of one network share their programs; with large
        images, whose measurement takes much longer than compiling, it counts more that processes end together. The
        bare classifier is measured before other networks are there, so it must make shards only, as records name all.
        """
        return [Piece(cell.t_star if cell.t_star and not self.large else cell, 1 + cell.t_star,
                      partial(_exhaust, measure, self, cell), self._networks_before(cell)) for cell in cells]

    def _networks_before(self, cell: Cell) -> tuple[str, ...]:
        """Networks that have to be there before a cell is measured; what is reused is compared with all."""
        return ("classifier",) if cell == BARE and not self._reused else NAMES

    def keys(self, seed: int | None = None):
        """xi of each image; of the first base seed unless told."""
        return randomness.configurations(self.configuration.seeds[0] if seed is None else seed, self.indices)

    def shard(self, experiment: str, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """Arrays of one piece of work, computed once per run."""
        return self.folder.shard(experiment, name, compute)

    def per_image(
        self, experiment: str, cell: Cell, what: str, compute: Callable[["Workbench"], Arrays]
    ) -> Arrays:
        """Arrays of a cell with a row an image, computed once per run, of images that no run of --reuse has measured.

        what: tells them from others of the cell. compute: measures all images of the workbench that it is given.
        """
        name = f"{cell}-{what}" if what else str(cell)
        return self.shard(experiment, name, partial(self._joined, experiment, cell, name, compute))

    def _joined(self, experiment: str, cell: Cell, name: str, compute: Callable[["Workbench"], Arrays]) -> Arrays:
        theirs = self._sources if cell in (BARE, *self.cells) else []  # other cells' networks are not compared
        known = reuse.take(theirs, experiment, cell.sampler, name, self.indices)
        if known.arrays is None:
            return compute(self)
        parts = [known.arrays, *([compute(Part(self, known.missing))] if len(known.missing) else [])]
        order = np.argsort(np.concatenate([known.rows, known.missing]))
        return {key: array[order] for key, array in reuse.join(parts).items()}

    @cached_property
    def _sources(self) -> list[reuse.Source]:
        """Runs whose measurements may be taken: their networks are this run's."""
        sha256 = self.networks.sha256 if self._reused else {}
        for source in self._reused:
            source.check_weights({name: sha256[name] for name in sha256 if name not in self.networks.given})
        return self._reused

    def write(
        self, experiment: str, measurements: Iterable[Measurement], weights: dict[str, str] | None = None
    ) -> list[Measurement]:
        """Write an experiment's records; weights: SHA-256 of networks that only this experiment uses, by name."""
        return self.folder.write(experiment, [made_with(m, weights or {}) for m in measurements])

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
            "configuration": self.settings,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
            "device": f"{jax.devices()[0].device_kind} ({platform.machine()}, {sys.platform})",
            "data_sha256": self.dataset.fingerprint,
            "weights_sha256": {**self.networks.sha256, **{cell.sampler: sha256 for cell, sha256 in self._own.items()}},
        }


class Part(Workbench):
    """A workbench with some of another's images; what is asked of it image by image is measured for all of those."""

    def __init__(self, whole: Workbench, rows: np.ndarray):
        self.__dict__.update(whole.__dict__)
        self._whole, self._rows = whole, rows
        self.images, self.labels, self.indices = whole.images[rows], whole.labels[rows], whole.indices[rows]

    def per_image(
        self, experiment: str, cell: Cell, what: str, compute: Callable[[Workbench], Arrays]
    ) -> Arrays:
        """The rows of these images."""
        whole = self._whole.per_image(experiment, cell, what, compute)
        return {key: array[self._rows] for key, array in whole.items()}

    def shard(self, experiment: str, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """None, for it would be taken for one of all images."""
        raise TypeError(f"{name} is asked of some of the run's images; ask for it per image")


def made_with(m: Measurement, weights: dict[str, str]) -> Measurement:
    """The measurement, whose provenance names more networks by the SHA-256 of their weights."""
    return replace(m, run={**m.run, "weights_sha256": {**m.run["weights_sha256"], **weights}})


def _exhaust(measure, bench, cell) -> None:
    deque(measure(bench, cell), maxlen=0)


def each(description: str, items: list) -> Iterator:
    """Iterate with a progress bar."""
    with bar(description) as show:
        for done, item in enumerate(items):
            show(done / len(items), str(item))
            yield item
        show(1.0)
