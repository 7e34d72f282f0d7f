"""Iterative attacks as a pair of pure functions, and the loop that judges each of their iterates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ..randomness import ATTACK, redraw, step_key
from ..types import AttackResult, Budget, Image, Key, Logits, Loss, Objective, Scalar


class Iterative(NamedTuple):
    """An attack that moves one iterate, `steps` times for each of `restarts` restarts.

    start: (x, key, restart) to the first iterate and the algorithm's own memory.
    move: (x, iterate, gradient, objective, memory, k) to the next iterate and memory.
    targeted: whether restarts after the first ascend the margin of one rival class each, the likeliest at the
        clean image first, instead of the loss's own objective.
    fresh: whether every gradient has a xi of its own instead of the attack's key. One such draw says little about an
        iterate, so only the clean image and the last iterate of each restart are judged, at the attack's key.
    """

    start: Callable[[Image, Key, Int[Array, ""]], tuple[Image, Any]]
    move: Callable[[Image, Image, Image, Objective, Any, Int[Array, ""]], tuple[Image, Any]]
    steps: int
    restarts: int
    targeted: bool = False
    fresh: bool = False

    def __call__(self, loss: Loss, x: Image, key: Key) -> AttackResult:
        """Attack one image: the clean image and every iterate of every restart are judged."""

        def restart(search, r):
            search = begin(self, search, x, key, r)
            search, _ = jax.lax.scan(lambda s, _: (advance(self, loss, s, x, key), None), search, length=self.steps)
            return judge(search, search.iterate, loss(search.iterate, key).margins), None

        search, _ = jax.lax.scan(restart, unbroken(self, x, key, loss(x, key).margins), jnp.arange(self.restarts))
        return AttackResult(search.best, search.margin, search.broken_at, search.gradients)


def redrawn(attack: Callable[[Budget], Iterative], eps: Budget) -> Iterative:
    """The attack with a fresh xi for every gradient, against a defence whose randomness is not fixed (Table S2).

    `functools.partial(redrawn, pgd)` is its constructor.
    """
    return attack(eps)._replace(fresh=True)


class Search(NamedTuple):
    """How far the attack on one image has come.

    iterate, memory, k, rival: the current restart's; rival -1 is the loss's own objective.
    ranking: the rival classes, likeliest at the clean image first. best, margin: the strongest input judged so far.
    broken_at: number of the first judged input that was misclassified, -1 for none; 0 is the clean image.
    judged: inputs judged so far, the clean image included. gradients: gradients spent so far.
    """

    iterate: Image
    memory: Any
    k: Int[Array, ""]
    rival: Int[Array, ""]
    ranking: Int[Array, "classes"]
    best: Image
    margin: Scalar
    broken_at: Int[Array, ""]
    judged: Int[Array, ""]
    gradients: Int[Array, ""]


def unbroken(attack: Iterative, x: Image, key: Key, margins: Logits) -> Search:
    """The search before its first restart: only the clean image is judged, by its margins."""
    ranking = jnp.argsort(-margins).astype(jnp.int32)
    iterate, memory = attack.start(x, key, jnp.int32(0))
    zero, none = jnp.int32(0), jnp.int32(-1)
    nothing = jnp.full((), -jnp.inf, x.dtype)
    return judge(Search(iterate, memory, zero, none, ranking, x, nothing, none, zero, zero), x, margins)


def begin(attack: Iterative, search: Search, x: Image, key: Key, restart: Int[Array, ""]) -> Search:
    """Put the search at the start of a restart."""
    iterate, memory = attack.start(x, step_key(key, ATTACK, restart), restart)
    rivals = search.ranking.shape[0] - 1
    rival = jnp.where(attack.targeted & (restart > 0), search.ranking[(restart - 1) % rivals], -1)
    return search._replace(iterate=iterate, memory=memory, k=jnp.int32(0), rival=rival.astype(jnp.int32))


def advance(attack: Iterative, loss: Loss, search: Search, x: Image, key: Key) -> Search:
    """Judge the iterate, unless its randomness is fresh, and move it, at the cost of one gradient."""

    def ascent(iterate):
        objective = loss(iterate, redraw(key, search.gradients) if attack.fresh else key)
        return jnp.where(search.rival < 0, objective.ascent, objective.margins[search.rival]), objective

    gradient, objective = jax.grad(ascent, has_aux=True)(search.iterate)
    if not attack.fresh:
        search = judge(search, search.iterate, objective.margins)
    iterate, memory = attack.move(x, search.iterate, gradient, objective, search.memory, search.k)
    return search._replace(iterate=iterate, memory=memory, k=search.k + 1, gradients=search.gradients + 1)


def judge(search: Search, candidate: Image, margins: Logits) -> Search:
    """Record a candidate: an image stays robust only if no judged input was misclassified."""
    margin = margins.max()
    first = (search.broken_at < 0) & (margin >= 0)
    better = margin > search.margin
    return search._replace(
        best=jnp.where(better, candidate, search.best),
        margin=jnp.where(better, margin, search.margin),
        broken_at=jnp.where(first, search.judged, search.broken_at),
        judged=search.judged + 1,
    )
