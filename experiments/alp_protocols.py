"""ALP under every protocol, which its document does not have: does its noise hide gradients, or the defence itself?

Command: purimetry run alp_protocols
Time: about 6 minutes on 2 cores of an AMD EPYC, by its 620 seconds of both.
Expect: no masking. On digits (48 images) all attacks leave 67 ± 7 % of the ensemble at eps 0.1 and 0 at 0.2, where an
attack of the classifier alone leaves 77 ± 6 and 21 ± 6 % (undefended: 50 and 0). No other gradient breaks more: of the
ensemble at 0.2 BPDA leaves 27 ± 6 %, the network without noise 10 ± 4 %, ALP's own 6 ± 4 % under PGD-40, which is not
converged. Preflight finds nothing.

The document attacks with PGD-7 and calls what is left immunity (alp Sec. Experiments); it does not say whether that
attack knows the purifier. Here ALP at its learned sigma is attacked as a single draw and as the ensemble of 20 (Eq. 3)
at every budget of the run, the first 48 images. An attack sees one fixed xi, a fresh one for every gradient, or 20
(EOT); through the ensemble every gradient is that of the mean of softmax over 20 draws. Gradients are the defence's
own, past the purifier (BPDA), or those of the same network without its noise. The attacks are PGD (40 steps on
cross-entropy), the converged attack (decaying steps on the margin, a restart a rival class) on one fixed draw and on
the ensemble with fresh ones, and Square without gradients where xi is held, so that its queries are consistent. A
single fixed draw also meets the standard ensemble of attacks (AutoAttack's); "classifier alone" are inputs of the
converged attack of the bare classifier, which knows no purifier. "all" is what all attacks of a protocol leave.

Beside this, at clean images: the cosine of the margin's gradients under two xi and of a mean over 20 with one over 32
others, and `preflight`'s verdicts. Were the noise "non-differentiable" (Sec. Methodology B), cosines would be near 0,
small steps would not gain what the gradient promises, and attacks without gradients would break more.
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from ..compression.attacks.ensemble import ensemble, standard_attacks
from ..compression.attacks.pgd import pgd
from ..compression.attacks.search import attack_images
from ..compression.attacks.square import square
from ..compression.batches import at_most, over_images
from ..compression.claim import view_margin
from ..compression.gradients import gradient_agreement
from ..compression.losses import View, cross_entropy, defended, margin
from ..compression.protocol import BPDA, FULL, Protocol, evaluate, expectation, fixed, fresh, transferred
from ..compression.purifiers.identity import identity
from ..compression.randomness import JUDGE, redraw, step_key
from ..compression.records import Arrays, Measurement
from . import preflight
from .adversarial import TOGETHER, targets
from .alp_cells import ALP, STILL, lend
from .autoencoders import DRAWS, ENSEMBLE, weights
from .pieces import Piece
from .progress import bar
from .robust_accuracy import converged
from .workbench import Workbench, each

TESTS = 8
"""Draws that judge a candidate of a single draw."""

QUERIES = 300
"""Of Square by itself."""

SIZES, OTHERS = (1, DRAWS), 32
"""Configurations in the gradients whose cosines are measured, and in the mean that they are compared with."""

VALUES = ("robust", "clean")
"""Of `protocol.Row`, kept per image."""

UNAWARE = Protocol("classifier alone", "fresh", 0, "fresh", 1)
"""The attack that knows no purifier, and so no xi."""


VIEWS: dict[str, View] = {"draw": defended, "ensemble": ENSEMBLE}
"""How ALP decides: by a single draw, or by 20."""

JUDGES = {"draw": TESTS, "ensemble": 1}
"""How many decisions judge a candidate that must not know them."""


class Case(NamedTuple):
    """Attacks of one protocol and gradient; `gradient` says whose Jacobian stands for the purifier's."""

    decision: str
    protocol: Protocol
    gradient: str = "full"
    attacks: tuple[str, ...] = ("pgd",)

    def __str__(self) -> str:
        return f"{self.decision}-{self.protocol.name}-{self.gradient}".replace(" ", "-")


CASES = (
    Case("draw", fixed(), "full", ("pgd", "converged", "square")), Case("draw", fixed(), "bpda"),
    Case("draw", fixed(), "noiseless"), Case("draw", transferred(TESTS)), Case("draw", fresh(TESTS)),
    Case("draw", expectation(DRAWS, TESTS)), Case("draw", expectation(DRAWS, TESTS), "bpda"),
    Case("ensemble", fixed(), "full", ("pgd", "square")), Case("ensemble", fresh(), "full", ("pgd", "converged")),
    Case("ensemble", fresh(), "bpda"), Case("ensemble", fresh(), "noiseless"),
)
"""Everything that is attacked; the converged attack and Square where they cost least or tell most."""


def attacks(bench: Workbench) -> dict:
    """Attacks, with what they ascend, by name."""
    return {
        "pgd": (partial(pgd, steps=bench.configuration.paper_steps), cross_entropy),
        "converged": (converged(bench.configuration), margin),
        "square": (partial(square, queries=QUERIES, horizon=QUERIES), margin),
    }


def matrix(bench: Workbench, eps: float, case: Case) -> Arrays:
    """One protocol and gradient, [rows, images]: of each attack a reading after the other, `at` says which."""

    def compute() -> Arrays:
        images, labels = targets(bench)
        through = {**FULL, **BPDA, "noiseless": bench.purifier(STILL)}[case.gradient]
        with bar(f"{case}, eps {eps:g}") as show:
            rows = evaluate([case.protocol], {name: attacks(bench)[name] for name in case.attacks}, bench.classifier,
                            bench.purifier(ALP), images, labels, bench.keys()[: len(images)], eps,
                            size=at_most(TOGETHER, images), gradients={case.gradient: through},
                            view=VIEWS[case.decision], on_segment=lambda name, done, active: show(done, name))
        values = {name: np.stack([getattr(row, name) for row in rows]) for name in VALUES}
        return {"at": np.array([json.dumps(row.at) for row in rows]), **values}

    lend(bench)
    return bench.shard("alp_protocols", f"{case}-eps{eps:.4g}", compute)


def autoattack(bench: Workbench, eps: float) -> Arrays:
    """Whether a single draw, its xi held, withstands the standard ensemble, per image."""

    def compute() -> Arrays:
        (images, labels), c = targets(bench), bench.configuration
        members = partial(standard_attacks, steps=c.ensemble_steps, queries=c.square_queries)
        with bar(f"standard ensemble, eps {eps:g}") as show:
            found = ensemble(bench.classifier, bench.purifier(ALP), images, labels, bench.keys()[: len(images)], eps,
                             version=members, size=at_most(16, images),
                             on_segment=lambda name, done, active: show(done, f"{name}, {active} images"))
        return {"robust": found.by < 0, "clean": found.by != 0}

    lend(bench)
    return bench.shard("alp_protocols", f"autoattack-eps{eps:.4g}", compute)


def unaware(bench: Workbench, eps: float) -> Arrays:
    """What ALP makes of inputs that fool the bare classifier, [tests, images] by decision, with the bare one's own."""

    def compute() -> Arrays:
        images, labels = targets(bench)
        found = attack_images(converged(bench.configuration), bench.classifier, identity, images, labels,
                              bench.keys()[: len(images)], eps, confidence=np.inf)
        judge = lambda decision, x: np.stack([
            right(bench, VIEWS[decision], x, number) for number in range(JUDGES[decision])])
        judged = {f"{decision}_{name}": judge(decision, x) for decision in VIEWS
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


def pieces(bench: Workbench) -> list[Piece]:
    """Each part of the matrix, and what stands beside it."""
    budgets = bench.configuration.eps
    cost = lambda case: case.protocol.k * (DRAWS if case.decision == "ensemble" else 1) * len(case.attacks)
    return [
        *(Piece(str(case), cost(case), partial(matrix, bench, eps, case)) for eps in budgets for case in CASES),
        *(Piece("autoattack", DRAWS, partial(autoattack, bench, eps)) for eps in budgets),
        *(Piece("unaware", 1, partial(unaware, bench, eps)) for eps in budgets),
        Piece("agreement", 1, partial(agreement, bench)),
        Piece("preflight", DRAWS, partial(_checked, bench)),
    ]


def run(bench: Workbench) -> list[Measurement]:
    """Attack under every protocol at every budget, and measure what gradients are worth."""
    found = [m for eps in each("ALP under every protocol", list(bench.configuration.eps)) for m in _measure(bench, eps)]
    return bench.write("alp_protocols", [*found, *_gradients(bench), *_preflight(bench)], weights(bench))


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
    for case in CASES:
        found = matrix(bench, eps, case)
        rows += [({"defence": case.decision, **json.loads(str(at))}, robust, clean)
                 for at, robust, clean in zip(*(found[name] for name in ("at", *VALUES)), strict=True)]
    at = {"defence": "draw", **_at(fixed()), "gradient": "full", "attack": "standard", "eps": eps}
    rows.append((at, *(1.0 * autoattack(bench, eps)[name] for name in VALUES)))
    for decision, count in JUDGES.items():
        found = unaware(bench, eps)
        at = {"defence": decision, **_at(UNAWARE), "n": count, "reading": "mean" if count > 1 else "single",
              "gradient": "none", "attack": "converged", "eps": eps}
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


def _checked(bench: Workbench) -> list[dict]:
    lend(bench)
    return preflight.outcomes(bench, ALP)


def _preflight(bench: Workbench) -> Iterator[Measurement]:
    for outcome in _checked(bench):
        flaws = float(outcome["outcome"] in ("error", "warning"))
        yield bench.measurement("alp_protocols", "flaws", flaws, None, preflight.count(bench), "flaws",
                                {"eps": preflight.budget(bench), **outcome})


def _judging(number, key):
    return redraw(step_key(key, JUDGE, 0), number)
