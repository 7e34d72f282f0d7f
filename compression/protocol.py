"""Robust accuracy with its protocol beside it: which randomness an attack saw, and which one it was judged by.

A protocol says both (compression_paper Sec. 4, App. C). Attack and judgement are kept apart: the attack chooses a
candidate, and then the candidate is judged with draws that the attack never saw, unless the randomness is said to be
fixed. Judging every input while the attack is still optimising lets it try draws until one fails, which drives any
random defence to 0; it is available, and says so.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from .attacks.iterative import Iterative, redrawn
from .attacks.search import attack_images
from .batches import over_draws, over_images, shard_size
from .ensembles import Pooled
from .gradients import eot, straight_through
from .losses import Criterion, View, defended, margin
from .purifiers.identity import identity
from .randomness import JUDGE, redraw, step_key
from .types import AttackResult, Classifier, Image, Key, Label, Loss, Purifier

Xi = Literal["fixed", "fresh", "every input"]
"""The image's own xi; new draws; a new draw for every input that the attack tries."""

Reading = Literal["single", "worst", "mean", "vote", "while optimising"]
"""How test draws are read: the one there is; an image counts if it is right in all of them; as the share of them in
which it is right; if most of them are right; if no input that the attack tried failed at its own draw."""


class Protocol(NamedTuple):
    """Which randomness an attack sees and which one judges it.

    xi_attack: of the gradients. k: draws that each gradient is a mean over (EOT-k).
    xi_test: of the judgement. n: draws that judge. first: number of the first of them.
    readings: of the n draws, a row each.
    """

    name: str
    xi_attack: Xi
    k: int
    xi_test: Xi
    n: int
    first: int = 0
    readings: tuple[Reading, ...] = ("single",)


def fixed() -> Protocol:
    """xi_attack = xi_test: the deterministic f_xi of the paper, which makes no use of its randomness (Table S2)."""
    return Protocol("fixed xi", "fixed", 1, "fixed", 1)


def transferred(n: int = 1, first: int = 0) -> Protocol:
    """Attack one fixed xi, test others (Table S4). `first`: number of the first of the n other ones."""
    return _read(Protocol("transfer between xi", "fixed", 1, "fresh", n, first))


def fresh(n: int = 1) -> Protocol:
    """A new xi for every gradient and n new ones for the test: the usual PGD on a random defence (Table S2)."""
    return _read(Protocol("fresh xi", "fresh", 1, "fresh", n))


def expectation(k: int = 15, n: int = 1) -> Protocol:
    """EOT-k: every gradient is a mean over k new draws, and n new ones test (Eq. 22, Table S2).

    `expectation(k)._replace(xi_attack="fixed")` ascends the mean over one set of k draws.
    """
    return _read(Protocol(f"EOT-{k}", "fresh", k, "fresh", n))


def vote(n: int, k: int | None = None) -> Protocol:
    """A defence that takes the majority of n draws, attacked by EOT-k; k is n unless told."""
    return expectation(n if k is None else k, n)._replace(name=f"majority of {n}", readings=("vote",))


def while_optimising(protocol: Protocol) -> Protocol:
    """The same attack, but every input that it tries is judged at a draw of its own, and one failure is enough.

    Not a robust accuracy: the more steps the attack takes, the more draws it tries.
    """
    return protocol._replace(name=f"{protocol.name}, judged while optimising", xi_attack="every input",
                             xi_test="every input", n=1, readings=("while optimising",))


def _read(protocol: Protocol) -> Protocol:
    return protocol if protocol.n == 1 else protocol._replace(readings=("worst", "mean", "vote"))


FULL: Mapping[str, Purifier | None] = {"full": None}
"""The gradient through the purifier itself."""

BPDA: Mapping[str, Purifier | None] = {"bpda": identity}
"""The gradient past the purifier. A surrogate is {"2 steps": diffusion.fewer_steps(purifier, steps)}."""


class Row(NamedTuple):
    """One cell of the matrix of protocols, gradients and attacks.

    robust, clean: [images] whether each image is right after the attack, and before; for the reading "mean" the share
        of test draws. robust is never above clean.
    steps, restarts: of the attack. draws: of the ensemble that the defence is, 1 if it is none.
    evaluations, gradients: [images] of the model ("classifier after purifier" at one draw) spent by attack and
        judgement; gradients are among the evaluations.
    """

    protocol: Protocol
    reading: Reading
    gradient: str
    attack: str
    eps: Any
    steps: int
    restarts: int
    draws: int
    robust: Float[np.ndarray, "images"]
    clean: Float[np.ndarray, "images"]
    evaluations: Int[np.ndarray, "images"]
    gradients: Int[np.ndarray, "images"]

    @property
    def at(self) -> dict:
        """The cell's coordinates, all that belongs beside its number in a record."""
        p = self.protocol
        return {
            "protocol": p.name, "xi_attack": p.xi_attack, "k": p.k, "xi_test": p.xi_test, "n": p.n,
            "reading": self.reading, "gradient": self.gradient, "attack": self.attack, "eps": self.eps,
            "steps": self.steps, "restarts": self.restarts, "draws": self.draws,
        }

    @property
    def accuracy(self) -> float:
        """Robust accuracy, 0 to 1."""
        return float(self.robust.mean())

    @property
    def se(self) -> float:
        """Its standard error over images; NaN for one image."""
        n = len(self.robust)
        return float(self.robust.std(ddof=1) / n**0.5) if n > 1 else float("nan")


def evaluate(
    protocols: Sequence[Protocol],
    attacks: Mapping[str, tuple[Callable[..., Iterative], Criterion]],
    classifier: Classifier,
    purifier: Purifier,
    images,
    labels,
    keys,
    eps,
    *,
    gradients: Mapping[str, Purifier | None] = FULL,
    view: View = defended,
    size: int | None = None,
    on_segment: Callable[[str, float, int], None] = lambda cell, done, active: None,
) -> list[Row]:
    """Robust accuracy in every cell of protocols x gradients x attacks, each with what it means and what it cost.

    attacks: constructor of an `Iterative` from eps and the criterion that it ascends, by name.
    images, labels, keys, eps: as in `attack_images`; keys are the fixed xi.
    gradients: the purifier whose Jacobian stands for the defence's, None for its own, by name.
    view: how the defence decides: `defended` by a single draw, `ensembles.Pooled` by many.
    size: model evaluations in one compiled call, divided by the draws of a gradient or of a judgement; as many as
        `shard_size` gives images unless told.
    on_segment: told the cell, the fraction done and the number of images still attacked.

    An image is robust only if it was right when clean, under the same draws, and the candidate did not break it.

    >>> import purimetry as pm
    >>> images, labels = np.linspace(0.1, 0.4, 4, dtype=np.float32).reshape(4, 1, 1, 1), np.zeros(4, int)
    >>> dark = lambda x: jnp.stack([0.5, x.mean()])
    >>> shift = lambda x, key: x + jax.random.uniform(key, minval=-0.1, maxval=0.1)
    >>> attacks = {"pgd": (partial(pm.pgd, step_size=0.1), pm.margin)}
    >>> rows = evaluate([fixed(), expectation(4, n=20)], attacks, dark, shift, images, labels,
    ...                 pm.configurations(0, np.arange(4)), 0.2)
    >>> for row in rows:
    ...     print(row.protocol.name, row.reading, row.accuracy, row.gradients[0])
    fixed xi single 0.5 40
    EOT-4 worst 0.5 160
    EOT-4 mean 0.65 160
    EOT-4 vote 0.75 160
    """
    _check_matrix(protocols, attacks, gradients)
    for protocol in protocols:
        if protocol.k < 1 or protocol.n < 1:
            raise ValueError(f"a protocol needs at least 1 draw, got k = {protocol.k} and n = {protocol.n}; raise them")
    images, labels = np.asarray(images), np.asarray(labels)
    draws, rows = view.draws if isinstance(view, Pooled) else 1, []
    size = shard_size(images) if size is None else size
    shard = lambda each: max(1, min(len(images), size // (each * draws)))
    for gradient, through in gradients.items():
        seen = purifier if through is None else straight_through(purifier, through)
        for name, (attack, criterion) in attacks.items():
            found: dict[tuple, AttackResult] = {}
            for protocol in protocols:
                how = protocol.xi_attack, protocol.k, protocol.xi_test == "fixed"
                if how not in found:
                    cell = f"{name}, {gradient} gradient, {protocol.name}"
                    found[how] = attack_images(
                        partial(redrawn, attack) if protocol.xi_attack == "fresh" else attack, classifier, seen, images,
                        labels, keys, eps, criterion, shard(protocol.k), partial(on_segment, cell),
                        view=_attacked_view(protocol, view), confidence=np.inf if protocol.xi_test == "fresh" else 0.0,
                    )
                settings, spent = attack(0.0), found[how]
                robust, clean, judged = _judged(protocol, view, classifier, purifier, images, labels, keys, spent,
                                                shard(protocol.n))
                cost = protocol.k * draws
                rows += [
                    Row(protocol, reading, gradient, name, eps, settings.steps, settings.restarts, draws,
                        robust[reading], clean[reading], cost * spent.evaluations + draws * judged,
                        cost * spent.gradients)
                    for reading in protocol.readings
                ]
    return rows


def _check_matrix(protocols, attacks, gradients) -> None:
    """Raise unless these are what `evaluate` says: a newcomer's slips would fail far inside."""
    if isinstance(protocols, Protocol) or not all(isinstance(protocol, Protocol) for protocol in protocols):
        raise TypeError(f"protocols are a list of what their constructors return, got {protocols!r}; give for example "
                        "[pm.fixed(), pm.expectation(15)]")
    pairs = attacks.values() if isinstance(attacks, Mapping) else [None]
    if not all(isinstance(pair, tuple) and len(pair) == 2 and all(map(callable, pair)) for pair in pairs):
        raise TypeError("attacks are a dict from a name to a pair of constructor and criterion, got "
                        f'{attacks!r}; give for example {{"pgd": (pm.pgd, pm.margin)}}')
    ways = gradients.values() if isinstance(gradients, Mapping) else [""]
    if not all(through is None or callable(through) for through in ways):
        raise TypeError("gradients are a dict from a name to a purifier to differentiate through, None for the "
                        f"defence's own, got {gradients!r}; give pm.FULL, pm.BPDA, or {{**pm.FULL, **pm.BPDA}}")


def strongest(rows: Sequence[Row]) -> Row:
    """What is left of each image after all attacks (and gradients) of rows that share protocol, reading and budget."""
    kinds = {(row.protocol, row.reading, row.draws, np.asarray(row.eps).tobytes()) for row in rows}
    if len(kinds) != 1:
        raise ValueError(f"rows must share one protocol, reading and budget, got {len(kinds)} kinds; combine them kind "
                         "by kind")
    joined = lambda names: " + ".join(Counter(names))
    return rows[0]._replace(
        gradient=joined(row.gradient for row in rows), attack=joined(row.attack for row in rows),
        steps=sum(row.steps for row in rows), restarts=sum(row.restarts for row in rows),
        robust=np.min([row.robust for row in rows], 0), clean=np.min([row.clean for row in rows], 0),
        evaluations=np.sum([row.evaluations for row in rows], 0), gradients=np.sum([row.gradients for row in rows], 0),
    )


def _attacked_view(protocol: Protocol, view: View) -> View:
    view = partial(eot, draws=protocol.k, view=view) if protocol.k > 1 else view
    return partial(drawn_for_every_input, view=view) if protocol.xi_attack == "every input" else view


def drawn_for_every_input(
    classifier: Classifier, purifier: Purifier, label: Label, criterion: Criterion = margin, *, view: View = defended
) -> Loss:
    """The view of an attack that meets a new xi wherever it looks: xi is a hash of the key and the input's bits.

    >>> import purimetry as pm
    >>> noise = lambda x, key: jax.random.normal(key, x.shape)
    >>> loss = drawn_for_every_input(lambda x: x.reshape(-1), noise, jnp.int32(0))
    >>> at = lambda value: float(loss(jnp.full((1, 2, 1), value), pm.configuration(0, 0)).margin)
    >>> at(0.5) == at(0.5), at(0.5) == at(0.5000001)
    (True, False)
    """
    inner = view(classifier, purifier, label, criterion)

    def loss(x: Image, key: Key):
        bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), jnp.uint32).ravel()
        odd = (2 * jnp.arange(len(bits), dtype=jnp.uint32) + 1) * jnp.uint32(2654435761)
        return inner(x, jax.random.fold_in(step_key(key, JUDGE, 1), jnp.sum(bits * odd, dtype=jnp.uint32)))

    return loss


def _judged(protocol, view, classifier, purifier, images, labels, keys, found, size):
    """Robust and clean by reading, and evaluations of the view that it took."""
    if protocol.xi_test == "every input":
        return {"while optimising": (found.broken_at < 0) * 1.0}, {"while optimising": (found.broken_at != 0) * 1.0}, 0
    judge = partial(_right, view, protocol.xi_test == "fixed", protocol.n)
    first = np.full(len(images), protocol.first, np.int32)
    before, after = (
        over_images(judge, (classifier, purifier), x, labels, keys, first, size=size, name="judgement")
        for x in (images, found.x)
    )
    votes = before.margin < 0, after.margin < 0
    clean, robust = votes[0], votes[0] & votes[1]
    majority = [_majority(verdict.predicted, np.asarray(labels)) for verdict in (before, after)]
    return (
        {"single": robust[:, 0] * 1.0, "worst": robust.all(1) * 1.0, "mean": robust.mean(1),
         "vote": (majority[0] & majority[1]) * 1.0},
        {"single": clean[:, 0] * 1.0, "worst": clean.all(1) * 1.0, "mean": clean.mean(1), "vote": majority[0] * 1.0},
        2 * protocol.n,
    )


class Verdict(NamedTuple):
    """margin, predicted: [draws] of one image; predicted is the label where the margin is negative."""

    margin: Float[Any, "*draws"]
    predicted: Int[Any, "*draws"]


def _right(view, held, n, classifier, purifier, x, label, key, first) -> Verdict:
    number = first + jnp.arange(n)
    xis = key[None] if held else jax.vmap(partial(redraw, step_key(key, JUDGE, 0)))(number)
    margins = over_draws(lambda xi: view(classifier, purifier, label, margin)(x, xi).margins, xis, x)
    largest = margins.max(1)
    return Verdict(largest, jnp.where(largest < 0, label, margins.argmax(1)))


def _majority(predicted, labels):
    """Whether more draws are right than agree on any other class."""
    classes = np.arange(max(predicted.max(), labels.max()) + 1)
    votes, own = (predicted[..., None] == classes).sum(1), classes == labels[:, None]
    return np.where(own, votes, 0).max(1) > np.where(own, 0, votes).max(1)
