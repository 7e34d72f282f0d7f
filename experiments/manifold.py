"""Is what lies on the data manifold preserved, is what lies off it compressed, and where are adversarial directions?

Command: purimetry run manifold
Time: about a minute on 2 cores of an AMD EPYC.
Expect: of a random perturbation 0.66 is left at t* = 1 and 0.35 at DDPM's t* = 15. The purifier is selective in every
cell: off the manifold 0.62 falls to 0.24, on it 0.92 to 0.75, so what is left turns to the manifold (24 to 62 % of its
squared norm, by chance 12.5 %). But only at t* = 1 is 0.9 of it preserved on the manifold. The adversarial direction
lies 2.4 to 4.8 times as much on the manifold as chance, for the most part only at the largest t*, and f_xi leaves 0.9
to 1.4 of it, of which the expected rate says nothing; of its sign, 1.3 to 2.2 times chance on the manifold, 0.6 to 0.8
is left. The bare classifier's gradient is hardly on the manifold (1.7 times chance) and is compressed nearly like a
random direction. Tangent spaces of the denoiser agree with the data's (53 to 56 % mean squared cosine) almost as well
as those of two halves of the training images do with one another (57 %).

The Jacobian of the whole f_xi, clip included, at the first images of each cell: whole where d <= 256, by Golub-Kahan
bidiagonalisation and random probes elsewhere. Tangent spaces have the dimension of `diffusion_steps`. They are
estimated twice: by local PCA of the training images nearest to the image, and by the denoiser's own Jacobian at a small
noise. The adversarial direction is the gradient of the margin through the purifier, J^T g, and its sign, the direction
in which an l_inf attack starts; beside them stand those of the bare classifier. The share of a direction is that of its
squared norm inside the tangent space, over what a random direction has, m / d. Pixels that are hardly ever used make
that chance a little low, for any direction that a classifier has a use for.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..compression import manifold
from ..compression.batches import over_draws, over_images
from ..compression.decompositions import orthonormal, svd
from ..compression.gradients import gradient
from ..compression.hypothesis import Hypothesis
from ..compression.jacobian import (
    entropy_rank, jacobian, largest_singular_values, participation_ratio, push, symmetric_spectrum,
)
from ..compression.purifiers.identity import identity
from ..compression.records import Arrays, Measurement
from ..compression.schedules import Schedule
from ..compression.types import Classifier, NoisePredictor, Purifier
from .diffusion_steps import EXACT_DIMENSION, LEARNED_FROM, neighbours, together
from .pieces import Piece
from .verdicts import verdict
from .workbench import Cell, Workbench, each

ANALYSED, PROBED = 128, 16
"""Images whose Jacobian is analysed, where it is formed and where it is not, which is dear."""

PROBES = 16
"""Random perturbations an image where the Jacobian is not formed."""

ITERATIONS = 3
"""Size of Krylov spaces, over the number of directions that are looked for."""

DENOISER_TIMES = (2, 5)
"""Steps of the schedule at which the denoiser's tangent spaces are compared with the data's; the first is used."""

TANGENTS = ("data", "denoiser")
"""How tangent spaces are estimated."""

DIRECTIONS = ("adversarial", "adversarial_sign", "bare", "bare_sign")
"""Gradients of the margin through the purifier and of the bare classifier, and their signs."""

CLAIMS = {name: Hypothesis(name, statement, **bounds) for name, statement, bounds in (
    ("preserved", "at least 0.9 of a perturbation on the manifold is left", {"above": 0.9}),
    ("compressed", "at most 0.5 of a perturbation off the manifold is left", {"below": 0.5}),
    ("selective", "less is left of one off the manifold than of one on it (ratio below 1)", {"below": 1}),
    ("turned", "what is left of a random one lies more on the manifold than chance (times chance)", {"above": 1}),
    ("adversarial_on", "the adversarial direction lies more on the manifold than chance (times chance)", {"above": 1}),
    ("adversarial_mostly_on", "most of the adversarial direction lies on the manifold (share)", {"above": 0.5}),
    ("adversarial_survives", "more is left of the adversarial direction than of a random one (ratio)", {"above": 1}),
    ("bare_on", "the bare classifier's gradient lies more on the manifold than chance (times chance)", {"above": 1}),
    ("bare_survives", "more is left of the bare classifier's gradient than of a random one (ratio)", {"above": 1}),
)}
"""What is claimed of one effect an image, in `effects`."""


class Settings(NamedTuple):
    """Of tangent spaces: of the data's, and the denoiser's step."""

    dimension: int
    neighbours: int
    t: int


class Models(NamedTuple):
    """What the Jacobian of one image is analysed with."""

    classifier: Classifier
    denoiser: NoisePredictor
    purifier: Purifier
    schedule: Schedule
    known: np.ndarray


def analysis(bench: Workbench, cell: Cell) -> Arrays:
    """Per image: the Jacobian's spectrum, what is left of perturbations, and how directions lie to tangent spaces."""

    def compute():
        few = np.arange(_images(bench))
        measure = partial(_whole if _is_exact(bench) else _probed, Settings(**neighbours(bench), t=_small(bench)[0]))
        models = Models(bench.classifier, bench.denoiser, bench.purifier(cell), bench.schedule, _known(bench))
        return over_images(measure, (models,), bench.images, bench.labels, bench.keys(), which=few,
                           size=together(bench), name=f"Jacobian of {cell}")

    return bench.shard("manifold", str(cell), compute)


def tangents(bench: Workbench) -> Arrays:
    """Per image: cosines of principal angles between the data's tangent space and others, [images, dimension]."""

    def compute():
        few = slice(_images(bench))
        known = np.random.default_rng(0).permutation(_known(bench))
        first, second = known[: len(known) // 2], known[len(known) // 2 :]
        over = lambda function, *shared: over_images(function, shared, bench.images[few], bench.keys()[few],
                                                     size=together(bench), name="tangent spaces")
        settings = Settings(**neighbours(bench), t=0)
        found = {"halves": over(partial(_halves, settings), first, second),
                 "random": over(partial(_random, settings), known)}
        for t in _small(bench):
            compared = partial(_compared, settings._replace(t=t))
            found[f"denoiser-t{t}"] = over(compared, bench.denoiser, bench.schedule, known)
        return found

    return bench.shard("manifold", "tangents", compute)


def effects(found: Arrays, chance: float) -> dict[str, np.ndarray]:
    """The effect on each image that each of the CLAIMS is about, from an `analysis`; chance: m / d."""
    return {
        "preserved": found["left_on_data"],
        "compressed": found["left_off_data"],
        "selective": found["left_off_data"] / found["left_on_data"],
        "turned": found["share_after"] / chance,
        "adversarial_on": found["share_data_adversarial"] / chance,
        "adversarial_mostly_on": found["share_data_adversarial"],
        "adversarial_survives": found["left_adversarial"] / found["left_random"],
        "bare_on": found["share_data_bare"] / chance,
        "bare_survives": found["left_bare"] / found["left_random"],
    }


def pieces(bench: Workbench) -> list[Piece]:
    """Each cell of the grid, and the tangent spaces."""
    _known(bench)
    return [*bench.pieces(bench.grid, _measure), Piece("tangents", 2, partial(tangents, bench))]


def run(bench: Workbench) -> list[Measurement]:
    """Analyse every cell of the grid."""
    if not _is_exact(bench):
        bench.lacking("manifold", [
            f"Whole Jacobians are formed up to d = {EXACT_DIMENSION}; these images have d = "
            f"{np.prod(bench.dataset.shape)}, so there are the largest singular values only, no effective ranks and no "
            f"spectrum of the symmetric part, and rates are estimated from random probes on {PROBED} images."
        ])
    found = [m for cell in each("Jacobians", bench.grid) for m in _measure(bench, cell)]
    return bench.write("manifold", [*found, *_spaces(bench)])


def _is_exact(bench: Workbench) -> bool:
    return np.prod(bench.dataset.shape) <= EXACT_DIMENSION


def _images(bench: Workbench) -> int:
    return min(ANALYSED if _is_exact(bench) else PROBED, len(bench.images))


def _chance(bench: Workbench) -> float:
    return neighbours(bench)["dimension"] / np.prod(bench.dataset.shape)


def _measure(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    found = analysis(bench, cell)
    mean = lambda quantity, values, unit, **at: bench.mean("manifold", quantity, values, unit, {**cell.at, **at})
    for name in ("participation_ratio", "entropy_rank"):
        if name in found:
            yield mean(name, found[name], "directions")
    yield mean("largest_singular_value", found["singular_values"][:, 0], "ratio")
    if "symmetric" in found:
        yield mean("asymmetry", found["asymmetry"], "ratio of norms")
        yield mean("most_negative_eigenvalue", found["symmetric"][:, 0], "ratio")
    yield mean("clipped", 100 * found["clipped"], "% of pixel values")
    for direction in ("random", *DIRECTIONS):
        yield mean("left", found[f"left_{direction}"], "ratio", direction=direction)
    for tangent in TANGENTS:
        for direction in ("on", "off"):
            yield mean("left", found[f"left_{direction}_{tangent}"], "ratio", direction=direction, tangent=tangent)
        yield mean("overlap_least", 100 * found[f"overlap_{tangent}"], "%", tangent=tangent)
        for direction in DIRECTIONS:
            share = found[f"share_{tangent}_{direction}"]
            at = {"direction": direction, "tangent": tangent}
            yield mean("share", 100 * share, "%", **at)
            yield mean("share_over_chance", share / _chance(bench), "times chance", **at)
    for direction in DIRECTIONS:
        yield mean("share_least", 100 * found[f"share_least_{direction}"], "%", direction=direction)
    for name, effect in effects(found, _chance(bench)).items():
        said = CLAIMS[name].judge(effect, resamples=bench.configuration.bootstrap)
        yield from verdict(bench, "manifold", name, said, "ratio", {**cell.at, "claim": said.hypothesis.statement})


def _spaces(bench: Workbench) -> Iterator[Measurement]:
    yield bench.measurement("manifold", "chance", 100 * _chance(bench), None, 1, "%", {})
    yield bench.measurement("manifold", "dimension", neighbours(bench)["dimension"], None, 1, "directions", {})
    for other, cosines in tangents(bench).items():
        overlap = (cosines**2).mean(1)
        yield bench.mean("manifold", "overlap", 100 * overlap, "%", {"with": other})
        yield bench.mean("manifold", "overlap_over_chance", overlap / _chance(bench), "times chance", {"with": other})
        yield bench.mean("manifold", "largest_cosine", cosines[:, 0], "cosine", {"with": other})


def _known(bench: Workbench) -> np.ndarray:
    return bench.training[0][:LEARNED_FROM]


def _small(bench: Workbench) -> list[int]:
    return [min(t, bench.schedule.steps) for t in DENOISER_TIMES]


def _data_tangent(settings, known, x):
    return manifold.local_pca(known, x, neighbours=settings.neighbours, dimension=settings.dimension).basis


def _denoiser_tangent(settings, denoiser, schedule, x, key):
    iterations = None if x.size <= EXACT_DIMENSION else ITERATIONS * settings.dimension
    return manifold.denoiser_tangent(denoiser, schedule, x, key, t=settings.t, dimension=settings.dimension,
                                     iterations=iterations).basis


def _whole(settings, models, x, label, key):
    matrix = jacobian(models.purifier, x, key)
    values, right = svd(matrix)[1:]
    return {
        "singular_values": values, "symmetric": symmetric_spectrum(matrix),
        "asymmetry": jnp.linalg.norm(matrix - matrix.T) / (2 * jnp.linalg.norm(matrix)),
        "participation_ratio": participation_ratio(values), "entropy_rank": entropy_rank(values),
        **_left(lambda rows: rows @ matrix.T, lambda row: row @ matrix, jnp.eye(x.size), right[: settings.dimension],
                settings, models, x, label, key),
    }


def _probed(settings, models, x, label, key):
    m = settings.dimension
    top = largest_singular_values(models.purifier, x, key, k=m, iterations=ITERATIONS * m)
    pushed_one = lambda row: push(models.purifier, x, key, row.reshape(x.shape)).ravel()
    pushed = lambda rows: over_draws(pushed_one, rows, x)
    pulled = lambda row: jax.vjp(lambda x: models.purifier(x, key), x)[1](row.reshape(x.shape))[0].ravel()
    probes = manifold.isotropic(x, key, PROBES).reshape(PROBES, -1)
    return {"singular_values": top.values, "residual": top.residual,
            **_left(pushed, pulled, probes, top.right.reshape(m, -1), settings, models, x, label, key)}


def _left(pushed, pulled, probes, least, settings, models, x, label, key):
    """What is left of directions, and their shares.

    pushed: applies J to rows. pulled: J^T to one. probes: random rows, or all axes. least: the directions compressed
        least, rows.
    """
    anchor = models.purifier(x, key)
    after = _data_tangent(settings, models.known, anchor)
    moved = pushed(probes)
    found = {"left_random": _ratio(moved, probes), "share_after": _ratio(moved @ after, moved) ** 2,
             "clipped": jnp.mean((anchor <= 0) | (anchor >= 1))}
    bases = (_data_tangent(settings, models.known, x),
             _denoiser_tangent(settings, models.denoiser, models.schedule, x, key))
    at = lambda x: gradient(models.classifier, identity, x, label, key).ravel()
    through, bare = pulled(at(anchor)), at(x)
    gradients = dict(zip(DIRECTIONS, (through, jnp.sign(through), bare, jnp.sign(bare)), strict=True))
    for tangent, basis in zip(TANGENTS, bases, strict=True):
        inside, along = pushed(basis.T), probes @ basis
        found |= {f"left_on_{tangent}": _ratio(inside, basis),
                  f"left_off_{tangent}": _ratio(moved - along @ inside, probes - along @ basis.T),
                  f"overlap_{tangent}": _ratio(least @ basis, least) ** 2}
        found |= {f"share_{tangent}_{direction}": _ratio(row @ basis, row) ** 2 for direction, row in gradients.items()}
    for direction, row in gradients.items():
        found |= {f"left_{direction}": _ratio(pushed(row[None]), row),
                  f"share_least_{direction}": _ratio(least @ row, row) ** 2}
    return found


def _ratio(a, b):
    return jnp.linalg.norm(a) / jnp.linalg.norm(b)


def _halves(settings, first, second, x, key):
    return manifold.principal_cosines(_data_tangent(settings, first, x), _data_tangent(settings, second, x))


def _random(settings, known, x, key):
    other = orthonormal(manifold.isotropic(x, key, settings.dimension).reshape(settings.dimension, -1).T)
    return manifold.principal_cosines(_data_tangent(settings, known, x), other)


def _compared(settings, denoiser, schedule, known, x, key):
    model = _denoiser_tangent(settings, denoiser, schedule, x, key)
    return manifold.principal_cosines(_data_tangent(settings, known, x), model)
