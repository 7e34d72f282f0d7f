"""Distances of purified adversarial images to clean ones in feature spaces, and robustness: Fig. S5, Tables S10, S11.

Command: purimetry run distribution
Time: about 3 minutes on one core of an AMD EPYC, after rates and robust accuracy; Inception and CLIP take more.
Expect: in the classifier's features, distances that fall with purification at eps = 0.2 and order the purifiers about
as well as the rate does (Fréchet -0.99, kernel -0.88, rate -0.94 at eps = 0.2; -0.73, -0.63, -0.69 at 0.1): nothing
like the paper's contrast between FID and rate, though its own Tables 2 and S10 also have -0.62, and -1 within DDPM.
Only the cosine distance fails at 0.1 (-0.26), since it grows again beyond t* = 5. With 128 images of 128 features half
to all of a Fréchet distance is bias: at eps = 0.1 and t* >= 10 it says that purification moves images away from the
clean distribution where the unbiased kernel distance sees them approach it.

The Fréchet distance between sets of images and the cosine distance between an image and its clean original, both
before and after purification, in the features that the classifier's last layer reads, and in those of Inception
(768 as in the paper, App. D) and CLIP where their weights are given. Inputs are attacked by the paper's PGD with
xi_attack = xi_test, all 40 steps also where fewer would do. A set is compared with the clean originals of the same
images, so that only what attack and purifier did to them differs. With no more images than features the Fréchet
distance is mostly bias, which the jackknife estimates; the kernel distance (KID) has none and decides.

Whether a distance orders the purifiers of the grid as robust accuracy does is a rank correlation over cells, with an
interval from random halves of the images, which distances, rates and robust accuracy share; -1 is what explains
robustness. A distance needs the attack whose outcome it is to explain, the rate does not.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..compression import features
from ..compression.attacks.search import attack_images
from ..compression.batches import at_most, over_images
from ..compression.distances import cosine_distance, frechet_distance, jackknife, kernel_distance
from ..compression.purifiers.purify import purify
from ..compression.records import Arrays, Measurement
from ..compression.statistics import halved, percentile_interval, spearman
from .pieces import Piece
from .progress import bar
from .rates import rates
from .robust_accuracy import attacked, protocols
from .verdicts import interval
from .workbench import Cell, Workbench, each, made_with

IMAGES = 128
"""Images that are attacked and compared, the first of the run's, at most."""

INCEPTION_DIMS = 768
"""Features of Inception that are compared (App. D)."""

RESAMPLES = 200
"""Random halves of the images for rank correlations, at most: each takes a Fréchet distance for every cell."""

JACKKNIFE = 32
"""Groups of images left out in turn for the error of a Fréchet distance, at most."""

METRICS = {"frechet": frechet_distance, "kernel": kernel_distance}
"""Distances between sets of features."""

PREDICTORS = (*METRICS, "cosine", "rate")
"""What may order the purifiers as their robust accuracy does: distances after purification, and the l2 rate."""

LACKING = {
    "inception": "The Fréchet Inception distance needs --inception with the file pt_inception-2015-12-05-6726825d.pth "
                 "of pytorch-fid's releases.",
    "clip": "Distances in CLIP's space need --clip with model.safetensors of openai/clip-vit-base-patch32.",
}
"""What to supply, by option."""

ATTACKS = ("paper", "converged")
"""Attacks whose robust accuracy is compared with the distances."""

QUANTITIES = (*PREDICTORS, *ATTACKS, "kernel_before")
"""What `order` gives of each cell."""


class Space(NamedTuple):
    """A feature space: what to call it, the file of its weights if it has one, and the features."""

    name: str
    file: Path | None
    load: Callable[[], Callable]

    def __str__(self) -> str:
        return self.name if self.file is None else f"{self.name}-{_sha256(self.file)[:8]}"


def spaces(bench: Workbench) -> list[Space]:
    """The classifier's penultimate layer, and the published networks whose weights the run was given."""
    c = bench.configuration
    published = [
        Space("inception", c.inception, partial(_load, _inception, c.inception)),
        Space("clip", c.clip, partial(_load, features.clip, c.clip)),
    ]
    own = Space("penultimate", None, lambda: bench.penultimate)
    return [own, *(space for space in published if space.file is not None)]


def purified(bench: Workbench, cell: Cell, eps: float) -> Arrays:
    """Adversarial images of a cell, and what its purifier makes of them under the xi that they were made for."""

    def compute() -> Arrays:
        attack, criterion = protocols(bench.configuration)["paper"]
        purifier, keys = bench.purifier(cell), bench.keys()[:IMAGES]
        with bar(f"adversarial images {cell} eps {eps:g}") as show:
            found = attack_images(attack, bench.classifier, purifier, bench.images[:IMAGES], bench.labels[:IMAGES],
                                  keys, eps, criterion, confidence=np.inf, on_segment=lambda done, active: show(done))
        return {"adversarial": found.x, "purified": purify(purifier, found.x, keys)}

    return bench.shard("distribution", f"{cell}-eps{eps:g}-images", compute)


def clean_features(bench: Workbench, space: Space) -> np.ndarray:
    """Features [n, d] of the clean images."""
    compute = lambda: _embedded(space, {"clean": bench.images[:IMAGES]})
    return bench.shard("distribution", f"clean-{space}", compute)["clean"]


def moved_features(bench: Workbench, cell: Cell, eps: float, space: Space) -> Arrays:
    """Features [n, d] of a cell's adversarial and purified images."""
    images = purified(bench, cell, eps)
    return bench.shard("distribution", f"{cell}-eps{eps:g}-{space}", lambda: _embedded(space, images))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine distance of each pair of rows, [n]."""
    return over_images(cosine_distance, (), a, b, name="cosine distance")


def order(clean, before, after, cosine, rate, *robust) -> np.ndarray:
    """What each cell has of QUANTITIES, of all or half of the images: [quantities, cells].

    clean: features [n, d]; before, after: those of adversarial and purified images [n, cells, d]. cosine, rate, and
    robust of each of ATTACKS: [n, cells].
    """
    by_cell = lambda metric, moved: [metric(moved[:, cell], clean) for cell in range(moved.shape[1])]
    distances = [by_cell(metric, after) for metric in METRICS.values()]
    means = [values.mean(0) for values in (cosine, rate, *robust)]
    return np.stack([*distances, *means, by_cell(kernel_distance, before)])


def ordered(bench: Workbench, eps: float, space: Space) -> Arrays:
    """What may order the cells of the grid: `value` of all images, and `values` of random halves."""
    seed, clean, cells = bench.configuration.seeds[0], clean_features(bench, space), bench.grid
    moved = [moved_features(bench, cell, eps, space) for cell in cells]
    before, after = (np.stack([m[name] for m in moved], 1) for name in ("adversarial", "purified"))
    by_image = lambda of: np.stack([of(cell)[:IMAGES] for cell in cells], 1)
    rate = by_image(lambda cell: rates(bench, cell, eps, seed)["l2"])
    robust = [by_image(lambda cell, a=a: attacked(bench, cell, eps, a)["broken_at"] < 0) for a in ATTACKS]

    def compute() -> Arrays:
        cosine = np.stack([cosines(m["purified"], clean) for m in moved], 1)
        rows = (clean, before, after, cosine, rate, *robust)
        count = min(RESAMPLES, bench.configuration.bootstrap)
        return {"value": order(*rows), "values": halved(order, *rows, resamples=count)}

    return bench.shard("distribution", f"order-eps{eps:g}-{space}", compute)


def pieces(bench: Workbench) -> list[Piece]:
    """Each cell of the grid: its images, their features, and what is compared with them."""
    return bench.pieces(bench.grid, _needed)


def run(bench: Workbench) -> list[Measurement]:
    """Measure every cell of the grid in every feature space, and what orders the cells as robust accuracy does."""
    bench.lacking("distribution", [text for name, text in LACKING.items() if not getattr(bench.configuration, name)])
    cells = [m for cell in each("distribution", bench.grid) for m in _measure(bench, cell)]
    settings = [(eps, space) for eps in bench.configuration.eps for space in spaces(bench)]
    ranks = [m for eps, space in settings for m in _ranks(bench, eps, space)]
    files = {space.name: _sha256(space.file) for space in spaces(bench) if space.file is not None}
    return bench.write("distribution", [_provenance(m, files) for m in (*cells, *ranks)])


def _provenance(m: Measurement, files: dict[str, str]) -> Measurement:
    """What is of a published network's features carries the SHA-256 of its file too."""
    used = {name: sha256 for name, sha256 in files.items() if name == m.at.get("features")}
    return made_with(m, used)


def _needed(bench: Workbench, cell: Cell) -> Iterator[Arrays]:
    for eps in bench.configuration.eps:
        yield from (moved_features(bench, cell, eps, space) for space in spaces(bench))
        yield rates(bench, cell, eps, bench.configuration.seeds[0])
        yield from (attacked(bench, cell, eps, attack) for attack in ATTACKS)


def _measure(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    seed = bench.configuration.seeds[0]
    for eps in bench.configuration.eps:
        at = {**cell.at, "eps": eps}
        for space in spaces(bench):
            clean, moved = clean_features(bench, space), moved_features(bench, cell, eps, space)
            yield from _distances(bench, {**at, "features": space.name}, clean, **moved)
        yield bench.mean("distribution", "rate", rates(bench, cell, eps, seed)["l2"][:IMAGES], "ratio", at)
        for attack in ATTACKS:
            robust = attacked(bench, cell, eps, attack)["broken_at"][:IMAGES] < 0
            yield bench.mean("distribution", "robust_accuracy", 100 * robust, "%", {**at, "attack": attack})


def _distances(
    bench: Workbench, at: dict, clean: np.ndarray, adversarial: np.ndarray, purified: np.ndarray
) -> Iterator[Measurement]:
    n, groups = len(clean), min(JACKKNIFE, len(clean))
    emit = lambda quantity, value, se: bench.measurement("distribution", quantity, value, se, n, "squared features", at)
    for name, metric in METRICS.items():
        for end, statistic, rows in (("before", metric, (adversarial, clean)), ("after", metric, (purified, clean)),
                                     ("reduction", partial(_reduction, metric), (adversarial, purified, clean))):
            found = jackknife(statistic, *rows, groups=groups)
            yield emit(f"{name}_{end}", found.value, found.error)
            yield emit(f"{name}_{end}_bias", found.bias, None)
    before, after = cosines(adversarial, clean), cosines(purified, clean)
    for name, values in (("before", before), ("after", after), ("reduction", before - after)):
        yield bench.mean("distribution", f"cosine_{name}", values, "1 - cosine", at)


def _reduction(metric: Callable[..., float], before: np.ndarray, after: np.ndarray, clean: np.ndarray) -> float:
    return metric(before, clean) - metric(after, clean)


def _ranks(bench: Workbench, eps: float, space: Space) -> Iterator[Measurement]:
    found, n = ordered(bench, eps, space), len(clean_features(bench, space))
    samplers = np.array([cell.sampler for cell in bench.grid])
    for over in ("all", *bench.configuration.samplers):
        chosen = (samplers == over) | (over == "all")
        for attack in ATTACKS if chosen.sum() > 2 else ():
            correlations = lambda of: rank_correlations(of[..., chosen], attack)
            value, values = correlations(found["value"]), np.array([correlations(of) for of in found["values"]])
            for p, predictor in enumerate(PREDICTORS):
                at = {"eps": eps, "features": space.name, "over": over, "attack": attack, "predictor": predictor}
                own = percentile_interval(value[p], values[:, p])
                # The Fréchet distance's bias is larger in halves, which may move its interval off its value.
                own = own._replace(low=min(own.low, own.value), high=max(own.high, own.value))
                yield from interval(bench, "distribution", "spearman", own, n, "rank correlation", at)
                if predictor != "rate":
                    lead = percentile_interval(value[-1] - value[p], values[:, -1] - values[:, p])
                    yield from interval(bench, "distribution", "rate_minus", lead, n, "rank correlation", at)


def rank_correlations(of: np.ndarray, attack: str) -> np.ndarray:
    """Of each of PREDICTORS with robust accuracy; of: [quantities, cells], as `order` gives it."""
    robust = of[QUANTITIES.index(attack)]
    return np.array([spearman(values, robust) for values in of[: len(PREDICTORS)]])


def _embedded(space: Space, images: Arrays) -> Arrays:
    network = space.load()
    return {name: over_images(_features, (network,), x, size=at_most(16, x), name=f"{space} of {name} images")
            for name, x in images.items()}


def _features(network, x):
    return network(x)


def _inception(path: Path) -> Callable:
    return features.inception(path, INCEPTION_DIMS)


@cache
def _load(build: Callable, path: Path) -> Callable:
    return build(path)


@cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
