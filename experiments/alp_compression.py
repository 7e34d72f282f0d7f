"""Autoencoder purifiers beside diffusion: what they compress, and whether that predicts their robustness (ALP, ours).

Command: purimetry run alp_compression
Time: about 5 minutes on 2 cores of an AMD EPYC, by its 570 seconds of both.
Expect: autoencoders below the diffusion models' curve. On digits (128 images, eps 0.1) ALP has the rate 0.584 ± 0.003
and 60 ± 4 % robust accuracy, the VAE 0.579 ± 0.003 and 53 ± 4 %, where DDIM at t* = 2 compresses less, 0.634 ± 0.003,
and keeps 65 ± 4 %; ALP's adversarial rate is 0.67, DDIM's at t* = 5 0.48. ALP's noise changes neither rate nor
robustness (58 ± 4 % without it). S(CR eps) at anchors is 15 ± 1 points too high for autoencoders, 13 ± 2 for diffusion,
the short attack extrapolated is within 0.3 ± 0.3, though its form was chosen on diffusion.

The document measures robust accuracy alone. Here ALP at its learned sigma, the same network without its noise, a VAE,
MagNet's reformer (an autoencoder of reconstruction alone), and DDPM and DDIM at the middle t* have all that the
compression paper measures of a purifier, each with the functions that measure the grid: rate (l2 and l_inf), rate along
the margin's gradient, SNR of input against randomness, spectrum of the Jacobian, and robust accuracy under the
converged attack with fixed randomness beside what each predictor says of it. A deterministic purifier has no SNR. The
effective rank is the participation ratio of the squared singular values; of large images it is estimated from products
with random signs, and the largest singular value by Golub-Kahan bidiagonalisation.
"""

from collections import deque
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ..compression.batches import over_images
from ..compression.distances import psnr
from ..compression.jacobian import largest_singular_values, participation_ratio, push
from ..compression.randomness import PROBE, step_key
from ..compression.records import Arrays, Measurement
from ..compression.statistics import bootstrap
from . import randomness
from .alp_cells import compared
from .autoencoders import at_sigma, variational_weights, weights
from .minimum_perturbation import distances
from .pieces import Piece
from .prediction import GRADIENTS, Evidence, probes
from .rates import anchors, rates, spectra
from .robust_accuracy import attacked
from .workbench import BARE, Cell, Workbench, each

KRYLOV = 12
"""Products with J, and with its transpose, behind the largest singular value of a large Jacobian."""


def spectrum(bench: Workbench, cell: Cell) -> Arrays:
    """Per image: the largest singular value of J and its effective rank."""
    if not bench.large:
        values = spectra(bench, cell)["singular_values"]
        return {"largest": values[:, 0], "rank": np.asarray(jax.vmap(participation_ratio)(values))}

    def compute() -> Arrays:
        found = over_images(partial(_sketched, bench.configuration.draws), (bench.purifier(cell),), bench.images,
                            bench.keys(), size=1, name=f"spectrum of {cell}")
        return dict(zip(("largest", "rank"), found, strict=True))

    return bench.shard("alp_compression", f"{cell}-spectrum", compute)


def fidelity(bench: Workbench, cell: Cell) -> np.ndarray:
    """PSNR of each purified clean image, in dB."""
    return over_images(psnr, (), anchors(bench, cell, bench.configuration.seeds[0])["anchor"], bench.images)


def pieces(bench: Workbench) -> list[Piece]:
    """Each purifier."""
    return [Piece(cell, 1 + cell.t_star, partial(_exhaust, bench, cell)) for cell in (BARE, *compared(bench))]


def run(bench: Workbench) -> list[Measurement]:
    """Measure every purifier, then score the predictors on autoencoders and on diffusion."""
    cells = compared(bench)
    found = [m for cell in each("compression", cells) for m in _measure(bench, cell)]
    diffusions = [cell for cell in cells if cell.t_star]
    kinds = {"autoencoder": [cell for cell in cells if not cell.t_star], "diffusion": diffusions}
    found += [m for kind in kinds.items() for m in _predictors(bench, *kind)]
    return bench.write("alp_compression", found, weights(bench, {"magnet": at_sigma(0.0)}) | variational_weights(bench))


def _exhaust(bench: Workbench, cell: Cell) -> None:
    if cell == BARE:
        distances(bench, cell)
    else:
        deque(_measure(bench, cell), maxlen=0)
        for eps in bench.configuration.eps:
            probes(bench, cell, eps)


def _measure(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    mean, seed = partial(bench.mean, "alp_compression"), bench.configuration.seeds[0]
    yield mean("clean_accuracy", 100 * (anchors(bench, cell, seed)["margin"] < 0), "%", cell.at)
    yield mean("psnr", fidelity(bench, cell), "dB", cell.at)
    for quantity, values in spectrum(bench, cell).items():
        unit = {"largest": "ratio", "rank": "directions"}[quantity]
        yield mean({"largest": "largest_singular_value", "rank": "effective_rank"}[quantity], values, unit, cell.at)
    for eps in bench.configuration.eps:
        at, rate = {**cell.at, "eps": eps}, rates(bench, cell, eps, seed)
        for norm in ("l2", "linf"):
            yield mean(f"rate_{norm}", rate[norm], "ratio", at)
        yield mean("adversarial_rate", probes(bench, cell, eps)["adversarial_rate"], "ratio", at)
        robust = attacked(bench, cell, eps, "converged")["broken_at"] < 0
        yield mean("robust_accuracy", 100 * robust, "%", at)
    yield from _snr(bench, cell)


def _snr(bench: Workbench, cell: Cell) -> Iterator[Measurement]:
    found, at = randomness.measured(bench, cell), {**cell.at, "eps": bench.configuration.eps[0]}
    for kind in ("input", "internal"):
        yield bench.mean("alp_compression", "variance", found[kind], "squared pixels, a mean over pixels",
                         {**at, "of": kind})
    if randomness.is_random(found):
        given, internal = found["input"], found["internal"]
        ratio = bootstrap(lambda a, b: float(a.mean() / b.mean()), given, internal,
                          resamples=bench.configuration.bootstrap)
        yield bench.measurement("alp_compression", "snr", ratio.value, ratio.se, len(given), "ratio", at)


def _predictors(bench: Workbench, kind: str, cells: list[Cell]) -> Iterator[Measurement]:
    """What each predictor says of each purifier, and its mean absolute error over those of a kind."""
    evidence, everyone = Evidence(bench, cells), np.arange(len(bench.images))
    samples = np.random.default_rng(0).integers(0, evidence.n, (bench.configuration.bootstrap, evidence.n))
    robust = np.stack([evidence.robust(images) for images in samples])
    for name in GRADIENTS:
        predicted = evidence.predicted(name, everyone)
        again = np.stack([evidence.predicted(name, images) for images in samples])
        for (cell, eps), value, values in zip(evidence.grid, predicted, again.T, strict=True):
            yield bench.measurement("alp_compression", "predicted_robust_accuracy", value, values.std(ddof=1),
                                    evidence.n, "%", {**cell.at, "eps": eps, "predictor": name})
        found, resampled = predicted - evidence.robust(everyone), again - robust
        for quantity, of in (("mean_absolute_error", lambda e: np.abs(e).mean(-1)), ("bias", lambda e: e.mean(-1))):
            yield bench.measurement("alp_compression", quantity, of(found), of(resampled).std(ddof=1), evidence.n,
                                    "percentage points", {"kind": kind, "predictor": name})


def _sketched(draws, purifier, x, key):
    """The largest singular value, and (E||J v||^2)^2 / E||J^T J v||^2 over random signs v: the participation ratio."""
    values = largest_singular_values(purifier, x, key, k=1, iterations=KRYLOV).values
    signs = jax.random.rademacher(step_key(key, PROBE, 3), (draws, *x.shape), x.dtype)

    def energies(v):
        moved = push(purifier, x, key, v)
        back = jax.vjp(lambda x: purifier(x, key), x)[1](moved)[0]
        return jnp.sum(moved**2), jnp.sum(back**2)

    first, second = jax.lax.map(energies, signs)
    return values[0], first.mean() ** 2 / second.mean()
