"""ALP under every protocol, which its document does not have: does its noise hide gradients, or the defence itself?

Command: purimetry run alp_protocols
Time: TIME
Expect: EXPECT

The document attacks with PGD-7 and calls what is left immunity (alp Sec. Experiments); it does not say whether that
attack knows the purifier. Here ALP at its learned sigma is attacked as a single draw and as the ensemble of 20 (Eq. 3)
at every budget of the run, the first 48 images. An attack sees one fixed xi, a fresh one for every gradient, or 20
(EOT); through the ensemble every gradient is that of the mean of softmax over 20 draws. Gradients are the defence's
own, past the purifier (BPDA), or those of the same network without its noise. The attacks are PGD (40 steps on
cross-entropy), the converged attack (decaying steps on the margin, a restart a rival class) where a draw is held or
the ensemble decides, and Square without gradients where xi is held, so that its queries are consistent. A single draw
also meets AutoAttack's versions `standard` (fixed xi) and `rand` (EOT-20); "classifier alone" are inputs of the
converged attack of the bare classifier, which knows no purifier. "all" is what all attacks of a protocol leave.

Beside this, at clean images: the cosine of the margin's gradients under two xi and of a mean over 20 with one over 32
others, and `preflight`'s verdicts. Were the noise "non-differentiable" (Sec. Methodology B), cosines would be near 0,
small steps would not gain what the gradient promises, and attacks without gradients would break more.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from ..compression.attacks import linf
from ..compression.attacks.ensemble import ensemble, rand_attacks, standard_attacks
from ..compression.attacks.pgd import pgd
from ..compression.attacks.search import attack_images
from ..compression.attacks.square import square
from ..compression.batches import over_images
from ..compression.claim import view_margin
from ..compression.ensembles import Pooled
from ..compression.gradients import gradient_agreement
from ..compression.losses import View, cross_entropy, defended, margin
from ..compression.protocol import BPDA, FULL, Protocol, evaluate, expectation, fixed, fresh, transferred
from ..compression.purifiers.identity import identity
from ..compression.randomness import JUDGE, redraw, step_key
from ..compression.records import Arrays, Measurement
from . import preflight
from .adversarial import TOGETHER, targets
from .alp_cells import ALP, STILL, lend
from .autoencoders import DRAWS
from .progress import bar
from .robust_accuracy import converged
from .workbench import Workbench, each
from .workers import Piece

TESTS = 8
"""Draws that judge a candidate of a single draw."""

QUERIES = 300
"""Of Square by itself."""

SIZES, OTHERS = (1, DRAWS), 32
"""Configurations in the gradients whose cosines are measured, and in the mean that they are compared with."""

VALUES = ("robust", "clean")
"""Of `protocol.Row`, kept per image."""

AUTOATTACK = {
    "standard": (standard_attacks, Protocol("fixed xi", "fixed", 1, "fixed", 1)),
    "rand": (rand_attacks, Protocol(f"EOT-{DRAWS}", "fixed", DRAWS, "fresh", 1)),
}
"""Versions, with the protocol that each follows."""

UNAWARE = Protocol("classifier alone", "fresh", 0, "fresh", 1)
"""The attack that knows no purifier, and so no xi."""


class Decision(NamedTuple):
    """How ALP decides: by a single draw, or by the ensemble."""

    view: View
    protocols: tuple[Protocol, ...]
    tests: int


DECISIONS = {
    "draw": Decision(defended, (fixed(), transferred(TESTS), fresh(TESTS), expectation(DRAWS, TESTS)), TESTS),
    "ensemble": Decision(Pooled(DRAWS), (fixed(), fresh()), 1),
}
GRADIENTS = ("full", "bpda", "noiseless")
"""Whose Jacobian stands for the purifier's."""


def attacks(bench: Workbench, decision: str, protocol: Protocol, gradient: str) -> dict:
    """Attacks that are worth their cost, with what they ascend, by name."""
    found = {"pgd": (partial(pgd, steps=bench.configuration.paper_steps), cross_entropy)}
    held = protocol == fixed()
    if gradient == "full" and (held or decision == "ensemble"):
        found["converged"] = converged(bench.configuration), margin
    if gradient == "full" and held:
        found["square"] = partial(square, queries=QUERIES, horizon=QUERIES), margin
    return found


def matrix(bench: Workbench, eps: float, decision: str, protocol: Protocol, gradient: str) -> Arrays:
    """One protocol and gradient, [rows, images]: of each attack a reading after the other, `at` says which."""

    def compute() -> Arrays:
        images, labels = targets(bench)
        through = {**FULL, **BPDA, "noiseless": bench.purifier(STILL)}[gradient]
        with bar(f"{decision}, {protocol.name}, {gradient} gradient, eps {eps:g}") as show:
            rows = evaluate([protocol], attacks(bench, decision, protocol, gradient), bench.classifier,
                            bench.purifier(ALP), images, labels, bench.keys()[: len(images)], eps, size=TOGETHER,
                            gradients={gradient: through}, view=DECISIONS[decision].view,
                            on_segment=lambda name, done, active: show(done, name))
        values = {name: np.stack([getattr(row, name) for row in rows]) for name in VALUES}
        return {"at": np.array([json.dumps(row.at) for row in rows]), **values}

    lend(bench)
    name = f"{decision}-{protocol.name}-{gradient}-eps{eps:.4g}".replace(" ", "-")
    return bench.shard("alp_protocols", name, compute)


def autoattack(bench: Workbench, eps: float, version: str) -> Arrays:
    """Whether a single draw withstands an ensemble of attacks, per image."""

    def compute() -> Arrays:
        (images, labels), c = targets(bench), bench.configuration
        settings = {"standard": {"queries": c.square_queries}, "rand": {"draws": DRAWS}}[version]
        members = partial(AUTOATTACK[version][0], steps=c.ensemble_steps, **settings)
        with bar(f"AutoAttack {version}, eps {eps:g}") as show:
            found = ensemble(bench.classifier, bench.purifier(ALP), images, labels, bench.keys()[: len(images)], eps,
                             linf, members, 16 if version == "standard" else TOGETHER // DRAWS,
                             lambda name, done, active: show(done, f"{name}, {active} images"))
        return {"robust": found.by < 0, "clean": found.by != 0}

    lend(bench)
    return bench.shard("alp_protocols", f"autoattack-{version}-eps{eps:.4g}", compute)


def unaware(bench: Workbench, eps: float) -> Arrays:
    """What ALP makes of inputs that fool the bare classifier, [tests, images] by decision, with the bare one's own."""

    def compute() -> Arrays:
        images, labels = targets(bench)
        found = attack_images(converged(bench.configuration), bench.classifier, identity, images, labels,
                              bench.keys()[: len(images)], eps, confidence=np.inf)
        judge = lambda decision, x: np.stack([
            right(bench, DECISIONS[decision].view, x, number) for number in range(DECISIONS[decision].tests)])
        judged = {f"{decision}_{name}": judge(decision, x) for decision in DECISIONS
                  for name, x in (("robust", found.x), ("clean", images))}
        return {"bare": found.margin < 0, **judged}

    lend(bench)
    return bench.shard("alp_protocols", f"unaware-eps{eps:.4g}", compute)


def right(bench: Workbench, view: View, x: np.ndarray, number: int) -> np.ndarray:
    """Whether ALP decides each of the first images right under draws that no attack saw, the number-th set of them."""
    keys = jax.vmap(partial(_judging, number))(bench.keys()[: len(x)])
    return over_images(partial(view_margin, view), (bench.classifier, bench.purifier(ALP)), x, bench.labels[: len(x)],
                       keys) < 0


def agreement(bench: Workbench) -> Arrays:
    """Cosines of gradients at clean images, [images, sizes]: with other single xi, and with the mean over others."""

    def compute() -> Arrays:
        images, labels = targets(bench)
        found = over_images(partial(gradient_agreement, sizes=SIZES, others=OTHERS),
                            (bench.classifier, bench.purifier(ALP)), images, labels, bench.keys()[: len(images)],
                            name="gradient agreement")
        return found._asdict()

    lend(bench)
    return bench.shard("alp_protocols", "agreement", compute)


def cases(bench: Workbench) -> list[tuple[str, Protocol, str]]:
    """Decision, protocol and gradient of every part of the matrix."""
    return [(name, protocol, gradient) for name, decision in DECISIONS.items() for protocol in decision.protocols
            for gradient in GRADIENTS]


def pieces(bench: Workbench) -> list[Piece]:
    """Each part of the matrix, and what stands beside it."""
    lend(bench)
    found = [_piece(f"{eps:g}", 1, unaware, bench, eps) for eps in bench.configuration.eps]
    for eps in bench.configuration.eps:
        found += [_piece((name, protocol.name), protocol.k * (DRAWS if name == "ensemble" else 1), matrix, bench, eps,
                         name, protocol, gradient) for name, protocol, gradient in cases(bench)]
        found += [_piece(version, 20, autoattack, bench, eps, version) for version in AUTOATTACK]
    return [*found, _piece("agreement", 1, agreement, bench), _piece("preflight", 20, preflight.checked, bench, ALP)]


def _piece(program, cost: float, measure: Callable, *arguments) -> Piece:
    return Piece(program, cost, partial(measure, *arguments))


def run(bench: Workbench) -> list[Measurement]:
    """Attack under every protocol at every budget, and measure what gradients are worth."""
    lend(bench)
    found = [m for eps in each("ALP under every protocol", list(bench.configuration.eps)) for m in _measure(bench, eps)]
    return bench.write("alp_protocols", [*found, *_gradients(bench), *_preflight(bench)])


def _measure(bench: Workbench, eps: float) -> Iterator[Measurement]:
    rows = everything(bench, eps)
    for at, robust, clean in rows:
        yield bench.mean("alp_protocols", "robust_accuracy", 100 * robust, "%", at)
        yield bench.mean("alp_protocols", "clean_accuracy", 100 * clean, "%", at)
    for at, robust in together(rows):
        yield bench.mean("alp_protocols", "robust_accuracy", 100 * robust, "%", at)
    yield bench.mean("alp_protocols", "undefended", 100 * unaware(bench, eps)["bare"], "%", {"eps": eps})


def everything(bench: Workbench, eps: float) -> list[tuple[dict, np.ndarray, np.ndarray]]:
    """Coordinates, robust and clean per image of every attack at a budget."""
    rows = []
    for decision, protocol, gradient in cases(bench):
        found = matrix(bench, eps, decision, protocol, gradient)
        rows += [({"defence": decision, **json.loads(str(at))}, robust, clean)
                 for at, robust, clean in zip(*(found[name] for name in ("at", *VALUES)), strict=True)]
    for version, (_, protocol) in AUTOATTACK.items():
        at = {"defence": "draw", **_at(protocol), "gradient": "full", "attack": version, "eps": eps}
        rows.append((at, *(1.0 * autoattack(bench, eps, version)[name] for name in VALUES)))
    for decision in DECISIONS:
        found = unaware(bench, eps)
        at = {"defence": decision, **_at(UNAWARE), "n": DECISIONS[decision].tests, "gradient": "none",
              "reading": "mean" if DECISIONS[decision].tests > 1 else "single", "attack": "converged", "eps": eps}
        clean = found[f"{decision}_clean"]
        rows.append((at, (found[f"{decision}_robust"] & clean).mean(0), clean.mean(0)))
    return rows


def together(rows: list) -> Iterator[tuple[dict, np.ndarray]]:
    """What the strongest of all attacks and gradients leaves of each image, by decision, protocol and reading."""
    kind = lambda at: (at["defence"], at["protocol"], at["n"], at["reading"])
    for one in dict.fromkeys(kind(at) for at, *_ in rows):
        same = [(at, robust) for at, robust, _ in rows if kind(at) == one]
        yield {**same[0][0], "gradient": "all", "attack": "all"}, np.min([robust for _, robust in same], 0)


def _at(protocol: Protocol) -> dict:
    return {"protocol": protocol.name, "xi_attack": protocol.xi_attack, "k": protocol.k, "xi_test": protocol.xi_test,
            "n": protocol.n, "reading": "single"}


def _gradients(bench: Workbench) -> Iterator[Measurement]:
    for kind, cosines in agreement(bench).items():
        for size, values in zip(SIZES, cosines.T, strict=True):
            yield bench.mean("alp_protocols", "gradient_cosine", values, "cosine", {"with": kind, "k": size})


def _preflight(bench: Workbench) -> Iterator[Measurement]:
    for outcome in preflight.outcomes(bench, ALP):
        flaws = float(outcome["outcome"] in ("error", "warning"))
        yield bench.measurement("alp_protocols", "flaws", flaws, None, preflight.count(bench), "flaws",
                                {"eps": preflight.budget(bench), **outcome})


def _judging(number, key):
    return redraw(step_key(key, JUDGE, 0), number)
