"""ALP's hierarchy of resilience: alone, beside and with adversarial training, its fidelity and its speed (Table II).

Command: purimetry run alp_hierarchy
Time: about 5 minutes on 2 cores of an AMD EPYC, by its 530 seconds of both; on CIFAR-10 15 for 32 images, as measured.
Expect: another hierarchy than the document's. On digits (48 images, eps 0.2) ALP before adversarial training takes
robustness from it: 35 ± 7 % instead of 71 ± 7 % under the converged attack that knows the defence, though 88 ± 5 %
under one that does not. On CIFAR-10 (32 images, 8/255) both leave 19 ± 7 %, ALP alone 0, and 62 ± 9 % where the attack
does not know it. There DDPM in 100 steps takes 325 ± 15 times as long as a draw of ALP, 27 ± 1 times as long as its 20.

Clean accuracy, robust accuracy at 8/255 as in the document and at the run's budgets (8/255 hardly moves 8 x 8 digits),
PSNR of purified clean images, and latencies, of: no defence, ALP at its learned sigma, adversarial training (TRADES;
the document does not say how its classifier was trained) and both. ALP decides by the ensemble of 20 (Eq. 3), and by a
single draw, for which right shares of 20 draws are counted, under attack times those when clean (on digits this is off
by 0.2 points at most, on CIFAR-10 by 0.4, and by 6 under an attack of the classifier alone). The document does not say
whether its PGD-7 knows the purifier, so both are measured: `classifier` attacks the classifier alone, and ALP purifies
what it finds; `defence` attacks through the ensemble with fresh draws in every gradient. `converged` also knows the
defence, and takes decaying steps on the margin with a restart for each rival class. Judging draws are others than those
attacked.

Latency is the wall-clock time of one image from pixels to logits, compiled, on one core: the classifier alone, one draw
of ALP, the ensemble of 20 in one batch, and diffusion purification at the middle t*, in this run's respaced steps and,
as iterative purifiers are usually run, in every step of the 1000-step schedule, up to the same t and to DiffPure's 100.
Repeats take turns, so that whatever else the machine does slows all of them. A resumed run keeps the seconds that it
has; nothing else here depends on them.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from ..compression import samplers, schedules
from ..compression.attacks.iterative import redrawn
from ..compression.attacks.search import attack_images
from ..compression.batches import over_draws, over_images
from ..compression.callables import as_pytree
from ..compression.claim import view_margin
from ..compression.distances import psnr
from ..compression.ensembles import Pooled, ensemble_classifier
from ..compression.losses import View, cross_entropy, defended, margin
from ..compression.purifiers.diffusion import diffusion
from ..compression.purifiers.identity import identity
from ..compression.purifiers.purify import purify
from ..compression.randomness import JUDGE, redraws, step_key
from ..compression.records import Arrays, Measurement
from ..compression.statistics import Interval, bootstrap, percentile_interval, resampled
from ..compression.types import Purifier
from .adversarial import targets, together
from .alp_cells import ALP, lend
from .autoencoders import DRAWS, PGD_EPS, pgd_7, weights
from .pieces import Piece
from .progress import bar
from .robust_accuracy import converged
from .verdicts import interval
from .workbench import Unmet, Workbench, each

DEFENCES = ("undefended", "alp", "trained", "alp+trained")
"""The document's rows, in its order."""

KNOWN = ("classifier", "defence", "converged")
"""What an attack knows, and how hard it tries."""

DIFFPURE = 100
"""Steps of DiffPure on CIFAR-10 (t* = 0.1 of 1000; Nie et al. 2022)."""

REPEATS, ENOUGH = 30, 20.0
"""Repeats of a latency, and seconds after which no more are begun once there are 3."""


class Defence(NamedTuple):
    """A classifier with what stands before it, and how it decides."""

    classifier: Callable
    purifier: Callable
    view: View


def defence(bench: Workbench, name: str) -> Defence:
    """One of DEFENCES."""
    lend(bench)
    classifier = bench.networks.robust_classifier if "trained" in name else bench.classifier
    if "alp" in name:
        return Defence(classifier, bench.purifier(ALP), Pooled(DRAWS))
    return Defence(classifier, identity, defended)


def budgets(bench: Workbench) -> list[float]:
    """The document's, then the run's."""
    return list(dict.fromkeys([PGD_EPS, *bench.configuration.eps]))


def clean(bench: Workbench, name: str) -> Arrays:
    """Whether each clean image is decided right, by the whole defence and by single draws (a share of them)."""
    return bench.shard("alp_hierarchy", f"{name}-clean", lambda: _judged(bench, name, targets(bench)[0]))


def attacked(bench: Workbench, name: str, eps: float, known: str) -> Arrays:
    """The same after an attack; right only where also right when clean.

    Where single draws decide, both shares are multiplied, as if the clean image met draws of its own. The share right
    in both under one draw, which `protocol` counts, is not in the shards; of shares a and b it is from a + b - 1, or
    0, to the smaller one.
    """

    def compute() -> Arrays:
        d, (images, labels) = defence(bench, name), targets(bench)
        attack = {"converged": converged(bench.configuration)}.get(known, pgd_7)
        purifier, view = (identity, defended) if known == "classifier" else (d.purifier, d.view)
        with bar(f"attack {name} eps {eps:.3g} ({known})") as show:
            found = attack_images(partial(redrawn, attack) if view is not defended else attack, d.classifier, purifier,
                                  images, labels, bench.keys()[: len(images)], eps,
                                  margin if known == "converged" else cross_entropy,
                                  together(images, 1 if view is defended else DRAWS), view=view, confidence=np.inf,
                                  on_segment=lambda done, active: show(done))
        after, before = _judged(bench, name, found.x), clean(bench, name)
        return {reading: after[reading] * before[reading] for reading in after}

    return bench.shard("alp_hierarchy", f"{name}-eps{eps:.4g}-{known}", compute)


def timed(bench: Workbench) -> dict[str, tuple[Callable, Purifier]]:
    """What is timed: how it decides, and what purifies."""
    lend(bench)
    t, respaced = bench.middle_cells[0].t_star, bench.configuration.respaced
    whole = lambda t: diffusion(bench.denoiser, samplers.SAMPLERS["ddpm"](schedules.linear(), t))
    return {
        "classifier": (_one, identity),
        "draw": (_one, bench.purifier(ALP)),
        "ensemble": (_ensemble, bench.purifier(ALP)),
        **{str(cell): (_one, bench.purifier(cell)) for cell in bench.middle_cells},
        **{f"ddpm, {steps} steps": (_one, whole(steps)) for steps in sorted({t * 1000 // respaced, DIFFPURE})},
    }


def latencies(bench: Workbench) -> Arrays:
    """Seconds of one image from pixels to logits, [repeats] by what purifies."""

    def compute() -> Arrays:
        x, key = bench.images[0], bench.keys()[0]
        calls = {name: partial(program, as_pytree(bench.classifier), as_pytree(purifier), x, key)
                 for name, (program, purifier) in timed(bench).items()}
        for call in calls.values():
            call().block_until_ready()
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(REPEATS):
            for name, call in calls.items():
                if len(seconds[name]) < 3 or sum(seconds[name]) < ENOUGH:
                    began = time.perf_counter()
                    call().block_until_ready()
                    seconds[name].append(time.perf_counter() - began)
        return {name: np.array(values) for name, values in seconds.items()}

    return bench.shard("alp_hierarchy", "latencies", compute)


def speedups(bench: Workbench) -> dict[tuple[str, str], Interval]:
    """How many times a diffusion purification takes the median time of ALP's single draw, or of its ensemble."""
    found, resamples = latencies(bench), bench.configuration.bootstrap
    medians = {name: resampled(np.median, values, resamples=resamples, seed=number)
               for number, (name, values) in enumerate(found.items())}
    ours = ("draw", "ensemble")
    return {(name, over): percentile_interval(np.median(found[name]) / np.median(found[over]),
                                              medians[name] / medians[over])
            for name in found if name not in ("classifier", *ours) for over in ours}


def pieces(bench: Workbench) -> list[Piece]:
    """Each attack on each defence. Latencies are left to `run`, which has the machine to itself.

    Unmet where there is no noise predictor, beside which ALP is timed.
    """
    if not bench.networks.has_denoiser:
        raise Unmet("ALP is timed beside DDPM, whose noise predictor no --samplers of this run ask for; add ddpm")
    return [Piece((name, known), DRAWS if "alp" in name else 1, partial(attacked, bench, name, eps, known))
            for name in DEFENCES for eps in budgets(bench) for known in _known(name)]


def run(bench: Workbench) -> list[Measurement]:
    """Attack every defence, and time purification."""
    found = [m for name in each("hierarchy", list(DEFENCES)) for m in _measure(bench, name)]
    return bench.write("alp_hierarchy", [*found, *_fidelity(bench), *_speed(bench)],
                       weights(bench) | bench.networks.robust_sha256)


def _known(name: str) -> tuple[str, ...]:
    """Of a classifier alone, whoever knows it knows the defence."""
    return KNOWN if "alp" in name else KNOWN[1:]


def _measure(bench: Workbench, name: str) -> Iterator[Measurement]:
    mean = partial(bench.mean, "alp_hierarchy")
    for reading, values in clean(bench, name).items():
        yield mean("clean_accuracy", 100 * values, "%", {"defence": name, "reading": reading})
    for eps in budgets(bench):
        for known in _known(name):
            at = {"defence": name, "eps": eps, "known": known, "draws": DRAWS if "alp" in name else 1}
            for reading, values in attacked(bench, name, eps, known).items():
                yield mean("robust_accuracy", 100 * values, "%", {**at, "reading": reading})


def _fidelity(bench: Workbench) -> Iterator[Measurement]:
    lend(bench)
    images, keys = targets(bench)[0], bench.keys()[: len(targets(bench)[0])]
    values = over_images(psnr, (), purify(bench.purifier(ALP), images, keys), images)
    yield bench.mean("alp_hierarchy", "psnr", values, "dB", {})


def _speed(bench: Workbench) -> Iterator[Measurement]:
    resamples = bench.configuration.bootstrap
    for name, values in latencies(bench).items():
        median = bootstrap(np.median, 1000 * values, resamples=resamples)
        yield from interval(bench, "alp_hierarchy", "latency", median, len(values), "ms an image", {"of": name})
    for (name, ours), ratio in speedups(bench).items():
        yield from interval(bench, "alp_hierarchy", "speedup", ratio, len(latencies(bench)[name]), "ratio",
                            {"of": name, "over": ours})


def _judged(bench: Workbench, name: str, x: np.ndarray) -> Arrays:
    """Right under draws that no attack saw: the whole defence, and the share of single draws."""
    d, keys = defence(bench, name), bench.keys()[: len(x)]
    rows, shared = (x, bench.labels[: len(x)], keys), (d.classifier, d.purifier)
    size = together(x, DRAWS)
    whole = over_images(partial(_margin, d.view), shared, *rows, size=size) < 0
    if d.view is defended:
        return {"defence": 1.0 * whole}
    return {"defence": 1.0 * whole, "draw": (over_images(_margins, shared, *rows, size=size) < 0).mean(1)}


def _margin(view, classifier, purifier, x, label, key):
    return view_margin(view, classifier, purifier, x, label, step_key(key, JUDGE, 0))


def _margins(classifier, purifier, x, label, key):
    margin_under = partial(view_margin, defended, classifier, purifier, x, label)
    return over_draws(margin_under, redraws(step_key(key, JUDGE, 0), DRAWS), x)


@jax.jit
def _one(classifier, purifier, x, key):
    return classifier(purifier(x, key))


@jax.jit
def _ensemble(classifier, purifier, x, key):
    return ensemble_classifier(classifier, purifier, DRAWS)(x, key)
