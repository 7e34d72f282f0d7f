"""ALP's claims, judged: gradient masking, immunity, sigma's optimum, speed, stability; what its robustness is made of.

Command: purimetry run alp_claims
Time: a minute, after `alp_protocols`, `alp_hierarchy`, `alp_tradeoff` and `alp_trials` (15 minutes on 2 cores of an AMD
EPYC with alp_sigma's trainings, by the seconds of both).
Expect: on digits, masking contradicted twice: steps gain 0.94 ± 0.02 of what the gradient promises, gradients of two
draws have a cosine of 0.70 ± 0.02. No attack without ALP's gradient breaks more of a held draw than the converged
attack with it, which leaves the third claim undecided with 48 images. At eps 0.1 ALP keeps 17 ± 5 points more than no
defence: compression 15 ± 5, randomness 2 ± 2, and an attack that does not know it leaves 10 ± 4 more; at 0.2 it keeps
none, and 21 ± 6 are ignorance. Sigma is not 0.219 (0.331 ± 0.005), a peak is undecided, diffusion takes 0.4 to 14 times
as long; whether PGD-7's accuracy varies over trainings is undecided, by 3.9 points, from 0 to 15 (unaware), and 0.9.

Each claim of the document says where an effect lies, as in `hypotheses`: supported or contradicted where the whole 95 %
interval is on one side. Intervals are bootstraps over images (with rare ones as in `Hypothesis.judge`), but for sigma
and stability, which are over the five trainings of `alp_trials` (Student's t, F), and for speed, over repeats.

Masking (Sec. Methodology B). `shattered`: a small step along the gradient gains less than a quarter of what it promises
(as in `preflight`). `unstable`: gradients of the margin under two draws have a cosine below 1/2. `masked`: with the xi
held, attacks that do not use ALP's own gradient (Square, BPDA, the network without noise) leave over 3 points less than
those that do. Immunity: `immune`, the ensemble of 20 keeps 3 points more than no defence under all attacks of
`alp_protocols`. Its causes, which add up to what an attack of the classifier alone leaves: `compression`, ALP's network
without noise over no defence; `randomness`, the ensemble under all attacks over that; `ignorance`, the attack of the
classifier alone over that. Each is claimed to be over 3 points. Optimum: `sigma` is within 10 % of the document's
0.219 after training; `peak`: PGD-7 leaves more at sigma = 0.5 than at both 0 and 2 (Fig. 3). `speed`: a purification
is 100 to 1000 times as fast as diffusion's. `stable`: accuracy under PGD-7 varies over trainings by no more than the
document's 1.94 points, beside what so few images add (`statistics.row_spread`), which `alp_trials` does not take out.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ..compression.claim import Claim
from ..compression.hypothesis import Hypothesis, Verdict
from ..compression.records import Arrays, Measurement
from ..compression.statistics import row_spread, student
from . import alp_hierarchy, alp_protocols, alp_tradeoff, alp_trials
from .adversarial import targets
from .alp_cells import ALP, STILL, lend
from .autoencoders import STARTS, budget, trial_weights, weights
from .pieces import Piece
from .robust_accuracy import attacked
from .verdicts import verdict
from .workbench import BARE, Workbench, each

POINTS = 3.0
"""Percentage points below which a difference in accuracy does not matter."""

SIGMA, SPREAD = 0.219, 1.94
"""The document's sigma (Fig. 2) and standard deviation over trials in points (abstract)."""

CLAIMS = {
    "shattered": Hypothesis("shattered", "Small steps along the gradient do not gain what it promises", below=0.25),
    "unstable": Hypothesis("unstable", "Gradients under two draws have little in common", below=0.5),
    "masked": Hypothesis("masked", "Attacks without ALP's gradient break more than those with it", above=POINTS),
    "immune": Hypothesis("immune", "ALP keeps accuracy under attacks that know it", above=POINTS),
    "compression": Hypothesis("compression", "Its network without noise is robust", above=POINTS),
    "randomness": Hypothesis("randomness", "Its noise and ensemble add to that", above=POINTS),
    "ignorance": Hypothesis("ignorance", "An attack that does not know it finds it more robust", above=POINTS),
    "sigma": Hypothesis("sigma", "Training finds sigma = 0.219", above=0.9 * SIGMA, below=1.1 * SIGMA),
    "peak": Hypothesis("peak", "Robustness peaks at a sigma between 0 and 2", above=0),
    "speed": Hypothesis("speed", "ALP is 100 to 1000 times as fast as diffusion", above=100, below=1000),
    "stable": Hypothesis("stable", "Robust accuracy is the same over trainings", below=SPREAD),
}
UNITS = {"shattered": "gained over promised", "unstable": "cosine", "sigma": "latent units", "speed": "ratio"}
"""Of effects that are not in percentage points."""

LEVELS = ("undefended", "without noise", "ensemble", "unaware")
"""What is attacked: nothing, ALP's network without noise, ALP by all attacks, and by one that does not know it."""

PEAK = (0.0, 0.5, 2.0)
"""Sigmas between whose first and last the second is claimed to be best (Fig. 3)."""

NOT_OVER_IMAGES = ("sigma", "speed", "stable")
"""Claims whose n counts trainings or repeats."""

THREATS = ("classifier", "ensemble")
"""What PGD-7 knows in trials and at every sigma."""


def probe(bench: Workbench, eps: float) -> Arrays:
    """Per image: what a small step along ALP's gradient promises and gains, its xi held."""

    def compute() -> Arrays:
        images, labels = targets(bench)
        found = Claim(bench.classifier, bench.purifier(ALP), images, labels, bench.keys()[: len(images)], eps).probe
        return {"promised": found.promised, "gained": found.gained}

    lend(bench)
    return bench.shard("alp_claims", f"probe-eps{eps:.4g}", compute)


def levels(bench: Workbench, eps: float) -> dict[str, np.ndarray]:
    """Share of right decisions per image at each of LEVELS."""
    lend(bench)
    count = len(targets(bench)[0])
    alone = lambda cell: 1.0 * (attacked(bench, cell, eps, "converged")["broken_at"][:count] < 0)
    rows = [(at, robust) for at, robust, _ in alp_protocols.everything(bench, eps) if at["defence"] == "ensemble"]
    fresh = [robust for at, robust in rows if at["xi_test"] == "fresh"]
    unaware = [robust for at, robust in rows if at["protocol"] == alp_protocols.UNAWARE.name]
    return dict(zip(LEVELS, (alone(BARE), alone(STILL), np.min(fresh, 0), unaware[0]), strict=True))


def masking(bench: Workbench, eps: float) -> np.ndarray:
    """Per image: what ALP's own gradient leaves minus what attacks without it leave, its one xi held."""
    rows = [(at, robust) for at, robust, _ in alp_protocols.everything(bench, eps)
            if at["defence"] == "draw" and at["protocol"] == "fixed xi" and at["attack"] != "standard"]
    own = lambda at: at["gradient"] == "full" and at["attack"] != "square"
    return np.min([r for at, r in rows if own(at)], 0) - np.min([r for at, r in rows if not own(at)], 0)


def stability(right: np.ndarray) -> Verdict:
    """Whether accuracy is the same over trainings, from [trainings, images] outcomes, without the images' own noise."""
    alike = (right == right[0]).all()
    return CLAIMS["stable"].judged(row_spread(100.0 * right), len(right), alike=bool(alike))


def pieces(bench: Workbench) -> list[Piece]:
    """What the claims are judged by, where it is not there yet."""
    lend(bench)
    found = [Piece(cell, 1, partial(attacked, bench, cell, eps, "converged"))
             for cell in (BARE, STILL) for eps in bench.configuration.eps]
    found += [Piece("probe", 1, partial(probe, bench, eps)) for eps in bench.configuration.eps]
    found += [Piece("peak", 1, partial(alp_tradeoff.measured, bench, "test", sigma)) for sigma in PEAK]
    return [*found, *alp_protocols.pieces(bench), *alp_trials.pieces(bench)]


def run(bench: Workbench) -> list[Measurement]:
    """Judge every claim."""
    found = [m for eps in each("claims", list(bench.configuration.eps)) for m in _attacks(bench, eps)]
    judges = (_gradients, _sigma, _peak, _speed, _stable)
    return bench.write("alp_claims", [*found, *(m for judge in judges for m in judge(bench))],
                       weights(bench) | trial_weights(bench, len(STARTS)))


def _say(bench: Workbench, found: Verdict, at: dict) -> Iterator[Measurement]:
    name = found.hypothesis.name
    yield from verdict(bench, "alp_claims", "effect", found, UNITS.get(name, "percentage points"),
                       {"claim": name, **at}, of_images=name not in NOT_OVER_IMAGES)


def _attacks(bench: Workbench, eps: float) -> Iterator[Measurement]:
    judge = lambda name, *rows, **how: _say(
        bench, CLAIMS[name].judge(*rows, resamples=bench.configuration.bootstrap, **how), {"eps": eps})
    found, at = levels(bench, eps), {"eps": eps}
    for name, values in found.items():
        yield bench.mean("alp_claims", "robust_accuracy", 100 * values, "%", {**at, "level": name})
    bare, still, whole, unaware = (100 * values for values in found.values())
    small = probe(bench, eps)
    yield from judge("shattered", small["gained"], small["promised"], statistic=lambda g, p: float(g.sum() / p.sum()))
    yield from judge("masked", 100 * masking(bench, eps))
    yield from judge("immune", whole - bare)
    for name, change in (("compression", still - bare), ("randomness", whole - still), ("ignorance", unaware - whole)):
        yield from judge(name, change)


def _gradients(bench: Workbench) -> Iterator[Measurement]:
    cosines = alp_protocols.agreement(bench)["fixed"][:, 0]
    yield from _say(bench, CLAIMS["unstable"].judge(cosines, resamples=bench.configuration.bootstrap), {})


def _trials(bench: Workbench) -> list[Arrays]:
    return [alp_trials.measured(bench, number) for number in range(len(STARTS))]


def _sigma(bench: Workbench) -> Iterator[Measurement]:
    values = np.array([float(found["sigma"]) for found in _trials(bench)])
    for number, value in enumerate(values):
        yield bench.measurement("alp_claims", "sigma", value, None, 1, "latent units", {"trial": number})
    yield from _say(bench, CLAIMS["sigma"].judged(student(values), len(values)), {})


def _peak(bench: Workbench) -> Iterator[Measurement]:
    for threat in THREATS:
        right = lambda sigma: 100.0 * (alp_tradeoff.measured(bench, "test", sigma)[threat] < 0)
        zero, half, two = map(right, PEAK)
        lead = lambda zero, half, two: float(half.mean() - max(zero.mean(), two.mean()))
        found = CLAIMS["peak"].judge(zero, half, two, statistic=lead, resamples=bench.configuration.bootstrap)
        yield from _say(bench, found, {"eps": budget(bench), "threat": threat})


def _speed(bench: Workbench) -> Iterator[Measurement]:
    for (of, over), ratio in alp_hierarchy.speedups(bench).items():
        n = len(alp_hierarchy.latencies(bench)[of])
        yield from _say(bench, CLAIMS["speed"].judged(ratio, n), {"of": of, "over": over})


def _stable(bench: Workbench) -> Iterator[Measurement]:
    for threat in THREATS:
        right = np.stack([found[threat] < 0 for found in _trials(bench)])
        yield from _say(bench, stability(right), {"eps": budget(bench), "threat": threat})
