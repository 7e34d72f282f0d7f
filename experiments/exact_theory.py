"""Rate, SNR and robust accuracy where mathematics knows them: exactly, estimated, and as the paper approximates.

Command: purimetry run exact_theory
Time: about a minute on 2 cores of an AMD EPYC.
Expect: estimates within their standard errors of what is exact, and the attack and exact robust accuracy to agree on
every image of the flat manifold. The product of the steps' rates falls to a tenth of the purifier's, because what is
left of a perturbation is on the manifold; their first order costs as much as half more where a step compresses by
half. S(CR eps) is right within 3 points for the classifier of random weights, 10 to 15 points too high for the one
that sees the manifold only, whose gradients the rate of random perturbations does not tell. It fails for the mixture:
the purifier draws every image to the mean of its own side, so it compresses by a factor of 3 to 30 and leaves the
boundary where it was. S(CR eps) then says 80 % where the attack leaves 0.

The data are drawn from distributions whose optimal noise predictor is known, in the run's shape, and purified by the
run's samplers. They are centred on grey and small enough for the clip to [0, 1] to bind nowhere.
low_rank: a Gaussian on the span of the training images' first principal axes (80 % of their variance), with variance
0.1 along it and a tenth to a thousandth of that across it. f_xi is affine, so everything is exact.
mixture: an isotropic Gaussian about each class's mean. The Jacobian is exact, but f_xi is not affine; its SNR is given
for a single component alone, its robust accuracy linearised at each image.

The paper's rate of a whole purifier is taken as the product of its steps' (Eqs. 15, 16). Beside it stands the product
of the steps' exact rates, so that what the first order costs and what the product costs can be told apart. The paper's
robust accuracy is S(CR eps) with exact S and CR. Budgets are multiples of the bare classifier's median minimum
perturbation, as data of this size are not the run's. The bare classifiers are linear: one with random weights, one that
sees the manifold only, and the nearest mean, which is the mixture's best.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import product
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ..compression.attacks.search import attack_images
from ..compression.batches import at_most, over_images
from ..compression.prediction import by_survival
from ..compression.purifiers.diffusion import diffusion
from ..compression.rates import expected_rates
from ..compression.records import Arrays, Measurement
from ..compression.samplers import SAMPLERS, Steps
from ..compression.statistics import bootstrap
from ..compression.survival import kaplan_meier
from ..compression.trajectories import trajectory
from ..compression.types import Purifier
from ..compression.variance import stochasticity
from ..theory import directions, low_rank, mixture, mixture_jacobian, survival
from ..theory.low_rank import LowRank, LowRankMap
from ..theory.mixture import Mixture
from ..theory.mixture_jacobian import MixtureJacobian
from ..theory.spectrum import Spectrum, uniform_variance
from .pieces import Piece
from .progress import bar
from .robust_accuracy import converged
from .workbench import Cell, Unmet, Workbench, each

ON_VARIANCE = 0.1
"""Along the manifold, in the diffusion's range [-1, 1]."""

OFF_VARIANCES = (1e-4, 1e-3, 1e-2)
"""Across the manifold, and of the mixture's components."""

EXPLAINED = 0.8
"""Share of the training images' variance that the manifold's axes explain."""

LEARNED_FROM = 1000
"""Training images that the axes are taken from."""

MEANS_LIMIT = 0.3
"""Largest distance from grey of the mixture's means, in the diffusion's range."""

EPS = 0.02
"""Size of the random perturbations of rates and SNR, in pixel units; small, as the mixture's rates are of the limit."""

BUDGETS = (1, 2, 4)
"""Attack budgets, over the bare classifier's median minimum perturbation."""

CLASSIFIERS = {"low_rank": ("random", "manifold"), "mixture": ("nearest_mean",)}
"""Bare classifiers of each distribution."""

ROBUST_AT = OFF_VARIANCES[1]
"""The variance at which robust accuracy is measured."""

ATTACKED = 48
"""Images that are attacked."""

STOCHASTIC = 32
"""Images whose SNR is estimated, each from DRAWN x DRAWN purified images."""

DRAWN = 16


class Known(NamedTuple):
    """Data whose purification is known, and linear classifiers (weights [classes, d], bias) of it, by name."""

    data: LowRank | Mixture
    predictor: Callable
    images: np.ndarray
    classifiers: dict[str, tuple[np.ndarray, np.ndarray]]


def on_low_rank(bench: Workbench, off: float) -> Known:
    """Data near a flat manifold."""
    seed, n = bench.configuration.seeds[0], len(bench.images)
    data = low_rank.low_rank(np.zeros(bench.dataset.shape), _axes(bench), ON_VARIANCE, off)
    weights = np.random.default_rng(seed).normal(size=(bench.dataset.classes, data.mean.size))
    return Known(
        data, low_rank.noise_predictor(data, bench.schedule), _pixels(low_rank.sample, data, n, seed),
        {"random": _about_grey(weights), "manifold": _about_grey(weights @ data.basis @ data.basis.T)},
    )


def on_mixture(bench: Workbench, variance: float) -> Known:
    """Data about one mean a class."""
    seed, n = bench.configuration.seeds[0], len(bench.images)
    images, labels = bench.training
    means = np.stack([images[labels == label].mean(0) for label in range(bench.dataset.classes)])
    means = (means - means.mean(0)) * MEANS_LIMIT / np.abs(means - means.mean(0)).max()
    data = mixture.mixture(np.ones(len(means)), means, variance)
    flat = data.means.reshape(len(means), -1)
    weights, bias = _about_grey(2 * flat)
    return Known(data, mixture.noise_predictor(data, bench.schedule), _pixels(mixture.sample, data, n, seed),
                 {"nearest_mean": (weights, bias - (flat**2).sum(1) / 2)})


KINDS = {"low_rank": on_low_rank, "mixture": on_mixture}


def compression(bench: Workbench, kind: str, off: float, cell: Cell) -> Arrays:
    """Rates [images], exact, estimated and approximated; variances and SNR (not a number where nothing is drawn)."""

    def compute():
        known, steps, purifier = _purified(bench, kind, off, cell)
        keys, eps = bench.keys(), np.full(len(bench.images), EPS, np.float32)
        found = over_images(partial(expected_rates, draws=bench.configuration.draws), (purifier,), known.images, keys,
                            eps, name=f"rate of {cell}")
        exact = exactly(bench, known, steps, purifier)
        few = slice(min(STOCHASTIC, len(bench.images)))
        variances = over_images(partial(_variances, DRAWN), (purifier,), known.images[few], keys[few], eps[few],
                                size=at_most(16, known.images), name=f"variances of {cell}")
        alone = _alone(known, bench, steps)
        return {
            "estimated": found.l2.mean, "estimated_se": found.l2.se,
            "exact": [one.spectrum.expected_rate for one in exact.maps],
            "rms": [one.spectrum.rms_rate for one in exact.maps],
            "product": exact.product, "first_order": exact.first_order,
            "input": variances.input, "internal": variances.internal,
            "exact_snr": alone.variances(uniform_variance(EPS)).snr,
        }

    return bench.shard("exact_theory", f"{kind}-off{off:g}-{cell}", compute)


def robustness(bench: Workbench, kind: str, off: float, cell: Cell, classifier: str) -> Arrays:
    """Whether images withstand each budget [budgets, images], exactly and by attack, and the paper's ingredients."""

    def compute():
        known, steps, purifier = _purified(bench, kind, off, cell)
        few = np.arange(min(ATTACKED, len(bench.images)))
        weights, bias = known.classifiers[classifier]
        images, keys = known.images[few], bench.keys()[few]
        labels = (images.reshape(len(few), -1) @ weights.T + bias).argmax(1).astype(np.int32)
        anchors = over_images(_purify, (purifier,), images, keys, name=f"anchors of {cell}")
        maps = exactly(bench, known, steps, purifier).maps
        clean, anchor, composed = np.transpose([
            distances(weights, bias, x, a, int(label), jacobian)
            for x, a, label, jacobian in zip(images, anchors, labels, maps[: len(few)], strict=True)
        ])
        eps = np.median(clean) * np.asarray(BUDGETS, np.float32)
        again = np.tile(few, len(eps))
        with bar(f"attack {classifier} behind {cell}") as show:
            found = attack_images(converged(bench.configuration), Partial(_linear, *map(jnp.asarray, (weights, bias))),
                                  purifier, images[again], labels[again], keys[again], np.repeat(eps, len(few)),
                                  on_segment=lambda done, active: show(done, f"{active} images unbroken"))
        return {"eps": eps, "exact": composed > eps[:, None], "clean": clean, "anchor": anchor,
                "attacked": (found.broken_at < 0).reshape(len(eps), -1)}

    return bench.shard("exact_theory", f"{kind}-off{off:g}-{cell}-{classifier}", compute)


class Exact(NamedTuple):
    """The maps f_xi linearised at each image, and the products over steps of exact and first-order expected rates."""

    maps: list[LowRankMap | MixtureJacobian]
    product: np.ndarray
    first_order: np.ndarray


def exactly(bench: Workbench, known: Known, steps: Steps, purifier: Purifier) -> Exact:
    """What is known of a purifier at each of the run's images."""
    n = len(known.images)
    if isinstance(known.data, LowRank):
        whole = low_rank.purification(known.data, bench.schedule, steps)
        over_time = low_rank.rates_over_time(known.data, bench.schedule, steps)
        products = (np.full(n, rates.prod()) for rates in (over_time.isotropic, over_time.first_order))
        return Exact([whole] * n, *products)
    basis = mixture_jacobian.mean_differences(known.data)
    levels = directions.noise_levels(bench.schedule)
    found = over_images(_mixture_jacobian, (known.data, levels, steps, basis, purifier), known.images, bench.keys(),
                        name="Jacobian of the mixture's purifier")
    maps = [MixtureJacobian(basis, *rows) for rows in zip(*found[1:], strict=True)]
    forward = float(np.prod(steps.forward_state))
    return Exact(maps, forward * found.isotropic.prod(1), forward * found.first_order.prod(1))


def distances(
    weights: np.ndarray, bias: np.ndarray, x: np.ndarray, anchor: np.ndarray, label: int,
    jacobian: LowRankMap | MixtureJacobian,
) -> tuple[float, float, float]:
    """Minimum l_inf perturbations of a linear classifier at x, at the anchor, and behind the linearised purifier."""
    margins, gradients = survival.linear_rivals(weights, bias, anchor, label)
    pulled = (
        jacobian.pull(gradients) if isinstance(jacobian, MixtureJacobian)
        else [jacobian.jacobian_product(g.reshape(x.shape)).ravel() for g in gradients]
    )
    return (survival.linear_distance(weights, bias, x, label, np.inf),
            survival.linear_distance(weights, bias, anchor, label, np.inf),
            float(survival.composed_distance(margins, gradients, np.asarray(pulled), np.inf).exact))


def pieces(bench: Workbench) -> list[Piece]:
    """Each purifier of each distribution."""
    return [
        Piece((kind, cell.t_star), 1 + cell.t_star, partial(list, _measure(bench, kind, off, cell)))
        for kind, off, cell in _grid(bench)
    ]


def run(bench: Workbench) -> list[Measurement]:
    """Measure every purifier of every distribution."""
    grid = each("exact theory", _grid(bench))
    return bench.write("exact_theory", [m for place in grid for m in _measure(bench, *place)])


def _grid(bench: Workbench) -> list[tuple[str, float, Cell]]:
    cells = [cell for cell in bench.grid if cell.sampler in SAMPLERS]
    if not cells:
        raise Unmet(f"closed forms are known for {', '.join(SAMPLERS)}; name one of them in --samplers")
    return list(product(KINDS, OFF_VARIANCES, cells))


def _measure(bench: Workbench, kind: str, off: float, cell: Cell) -> Iterator[Measurement]:
    at = {"kind": kind, "off_variance": off, **cell.at}
    mean = partial(bench.mean, "exact_theory")
    found = compression(bench, kind, off, cell)
    for quantity in ("exact", "rms", "estimated", "product", "first_order"):
        yield mean(f"rate_{quantity}", found[quantity], "ratio", at)
    yield mean("rate_difference", found["estimated"] - found["exact"], "ratio", at)
    if np.isfinite(found["exact_snr"]):
        yield bench.measurement("exact_theory", "snr_exact", found["exact_snr"], None, 1, "ratio", at)
        snr = bootstrap(lambda a, b: a.mean() / b.mean(), found["input"], found["internal"],
                        resamples=bench.configuration.bootstrap)
        yield bench.measurement("exact_theory", "snr_estimated", snr.value, snr.se, len(found["input"]), "ratio", at)
    for classifier in CLASSIFIERS[kind] if off == ROBUST_AT else ():
        yield from _robust(bench, kind, cell, classifier, found["exact"].mean(), at)


def _robust(bench, kind, cell, classifier, rate, at) -> Iterator[Measurement]:
    found = robustness(bench, kind, ROBUST_AT, cell, classifier)
    n = found["exact"].shape[1]
    for number, budget in enumerate(BUDGETS):
        here = {**at, "classifier": classifier, "budget": budget}
        exact, attacked, eps = (found[name][number] for name in ("exact", "attacked", "eps"))
        for quantity, values in (
            ("robust_exact" if kind == "low_rank" else "robust_linearised", exact), ("robust_attacked", attacked),
            ("robust_disagreement", exact != attacked), ("robust_bare", found["clean"] > eps),
        ):
            yield bench.mean("exact_theory", quantity, 100 * values, "%", here)
        for where in ("clean", "anchor"):
            said = by_survival(kaplan_meier(found[where], np.zeros(n, bool)), np.array([rate]), eps)
            se = 100 * np.sqrt(said * (1 - said) / n)
            yield bench.measurement("exact_theory", f"robust_paper_{where}", 100 * said, se, n, "%", here)


def _purified(bench: Workbench, kind: str, off: float, cell: Cell) -> tuple[Known, Steps, Purifier]:
    known, steps = KINDS[kind](bench, off), SAMPLERS[cell.sampler](bench.schedule, cell.t_star)
    return known, steps, diffusion(known.predictor, steps)


def _alone(known: Known, bench: Workbench, steps: Steps) -> Spectrum:
    """The spectrum of the low-rank purifier, or of that of one component."""
    if isinstance(known.data, LowRank):
        return low_rank.purification(known.data, bench.schedule, steps).spectrum
    along = directions.composed(directions.sampler_steps(known.data.variances[:1], bench.schedule, steps))
    return Spectrum(along.gain, along.noise, np.array([known.data.means[0].size]))


@lru_cache(maxsize=1)
def _axes(bench: Workbench) -> np.ndarray:
    rows = bench.training[0][:LEARNED_FROM].reshape(-1, np.prod(bench.dataset.shape)).astype(np.float64)
    _, sizes, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    explained = np.cumsum(sizes**2) / np.sum(sizes**2)
    return axes[: 1 + int(np.argmax(explained >= EXPLAINED))].T


def _pixels(sample: Callable, data: LowRank | Mixture, n: int, seed: int) -> np.ndarray:
    return np.clip((sample(data, n, np.random.default_rng(seed)) + 1) / 2, 0, 1)


def _about_grey(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A classifier whose logits are all 0 for a grey image."""
    return weights, -weights.sum(1) / 2


def _linear(weights, bias, x):
    return weights.astype(x.dtype) @ x.ravel() + bias.astype(x.dtype)


def _purify(purifier, x, key):
    return purifier(x, key)


def _variances(drawn, purifier, x, key, eps):
    return stochasticity(purifier, x, key, eps, inputs=drawn, configurations=drawn).variances


def _mixture_jacobian(data, levels, steps, basis, purifier, x, key):
    path = trajectory(purifier, x, key)
    states = 2 * jnp.concatenate([path.forward[-1:], path.reverse[:-1]]) - 1
    return mixture_jacobian.purification_jacobian(data, levels, steps, basis, states)
