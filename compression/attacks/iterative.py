"""Iterative attacks as a few pure functions, and the loop that judges each of their iterates."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ..randomness import ATTACK, redraw, step_key
from ..types import AttackResult, Budget, Image, Key, Logits, Loss, Objective, Scalar

Rival = Int[Array, ""]
"""The class that a restart is after; -1 for none in particular."""

Ranking = Int[Array, "classes"]
"""The classes, likeliest rival at the clean image first, the true class last."""


class Query(NamedTuple):
    """How a step asks the loss about its iterate, and what that costs.

    ask: (ascend, x, iterate) to the objective at the iterate, by which it is judged; the point that the step leaves
        from; and gradient and objective there. `ascend` maps a point to what is ascended and the whole objective.
    evaluations: of the loss by one step, those of gradients included. gradients: by one step.
    """

    ask: Callable[[Callable, Image, Image], tuple[Objective, Image, Image | None, Objective]]
    evaluations: int
    gradients: int


def _gradient(ascend, x, iterate):
    gradient, objective = jax.grad(ascend, has_aux=True)(iterate)
    return objective, iterate, gradient, objective


def _value(ascend, x, iterate):
    _, objective = ascend(iterate)
    return objective, iterate, None, objective


GRADIENT = Query(_gradient, evaluations=1, gradients=1)
"""The gradient at the iterate; the objective comes with it."""

VALUE = Query(_value, evaluations=1, gradients=0)
"""The objective alone, for attacks without gradients."""


def no_rival(ranking: Ranking, restart: Int[Array, ""]) -> Rival:
    """Every restart ascends the loss's own objective."""
    return jnp.int32(-1)


def each_rival(ranking: Ranking, restart: Int[Array, ""]) -> Rival:
    """Every restart is after a class of its own, the likeliest at the clean image first."""
    return ranking[restart % (ranking.shape[0] - 1)]


def rivals_after_own(ranking: Ranking, restart: Int[Array, ""]) -> Rival:
    """The first restart ascends the loss's own objective, each later one is after a class."""
    return jnp.where(restart > 0, each_rival(ranking, restart - 1), -1)


def own_or_margin(objective: Objective, rival: Rival) -> Scalar:
    """The loss's own objective, or the margin of the rival."""
    return jnp.where(rival < 0, objective.ascent, objective.margins[rival])


def strongest(attack: "Iterative", x: Image, candidate: Image, margin: Scalar) -> Scalar:
    """The merit of a candidate of an attack that stays inside its budget: the margin."""
    return margin


def closest(attack: "Iterative", x: Image, candidate: Image, margin: Scalar) -> Scalar:
    """The merit of a candidate of a minimum-norm attack: how far inside the budget a misclassified one is.

    Negative outside the budget; the lowest finite number for what is not misclassified.
    """
    return jnp.where(margin >= 0, attack.eps - attack.norm.length(candidate - x), jnp.finfo(x.dtype).min)


class Iterative(NamedTuple):
    """An attack that moves one iterate, `steps` times for each of `restarts` restarts.

    start: (x, key, restart) to the first iterate and the algorithm's own memory, all of whose numbers are finite.
    move: (x, point, gradient, objective, memory, k) to the next iterate and memory, from what `query` gave;
        objective.ascent is what the gradient is of.
    eps, norm: the budget in pixel units, and its ball, the module `linf` or `l2`.
    query: how a step asks the loss.
    rival: (ranking, restart) to the class that a restart is after.
    ascent: (objective, rival) to what a restart ascends.
    merit: (attack, x, candidate, margin) to what candidates are compared by; >= 0 is a success.
    fresh: whether every step has a xi of its own instead of the attack's key. One such draw says little about an
        iterate, so only the clean image and the last iterate of each restart are judged, at the attack's key.
    """

    start: Callable[[Image, Key, Int[Array, ""]], tuple[Image, Any]]
    move: Callable[[Image, Image, Image | None, Objective, Any, Int[Array, ""]], tuple[Image, Any]]
    steps: int
    restarts: int
    eps: Budget
    norm: ModuleType
    query: Query = GRADIENT
    rival: Callable[[Ranking, Int[Array, ""]], Rival] = no_rival
    ascent: Callable[[Objective, Rival], Scalar] = own_or_margin
    merit: Callable[["Iterative", Image, Image, Scalar], Scalar] = strongest
    fresh: bool = False

    def __call__(self, loss: Loss, x: Image, key: Key) -> AttackResult:
        """Attack one image: the clean image and every iterate of every restart are judged."""

        def restart(search, r):
            search = begin(self, search, x, key, r)
            search, _ = jax.lax.scan(lambda s, _: (advance(self, loss, s, x, key), None), search, length=self.steps)
            return judge(self, search, x, search.iterate, loss(search.iterate, key).margins), None

        search, _ = jax.lax.scan(restart, unbroken(self, x, key, loss(x, key).margins), jnp.arange(self.restarts))
        best = self.norm.project(search.best, x, self.eps)
        return result(self, search, best, loss(best, key).margin)


def redrawn(attack: Callable[[Budget], Iterative], eps: Budget) -> Iterative:
    """The attack with a fresh xi for every step, against a defence whose randomness is not fixed (Table S2).

    `functools.partial(redrawn, pgd)` is its constructor.
    """
    return attack(eps)._replace(fresh=True)


class Search(NamedTuple):
    """How far the attack on one image has come.

    iterate, memory, k, rival: the current restart's. ranking: of the classes at the clean image.
    best, merit: the best input judged so far, and its merit.
    broken_at: number of the first judged input that was a success, -1 for none; 0 is the clean image.
    judged: inputs judged so far, the clean image included. moves: steps taken so far.
    """

    iterate: Image
    memory: Any
    k: Int[Array, ""]
    rival: Rival
    ranking: Ranking
    best: Image
    merit: Scalar
    broken_at: Int[Array, ""]
    judged: Int[Array, ""]
    moves: Int[Array, ""]


def unbroken(attack: Iterative, x: Image, key: Key, margins: Logits) -> Search:
    """The search before its first restart: only the clean image is judged, by its margins."""
    ranking = jnp.argsort(-margins).astype(jnp.int32)
    iterate, memory = attack.start(x, key, jnp.int32(0))
    zero, none = jnp.int32(0), jnp.int32(-1)
    nothing = jnp.full((), -jnp.inf, x.dtype)
    return judge(attack, Search(iterate, memory, zero, none, ranking, x, nothing, none, zero, zero), x, x, margins)


def begin(attack: Iterative, search: Search, x: Image, key: Key, restart: Int[Array, ""]) -> Search:
    """Put the search at the start of a restart."""
    iterate, memory = attack.start(x, step_key(key, ATTACK, restart), restart)
    rival = attack.rival(search.ranking, restart).astype(jnp.int32)
    return search._replace(iterate=iterate, memory=memory, k=jnp.int32(0), rival=rival)


def advance(attack: Iterative, loss: Loss, search: Search, x: Image, key: Key) -> Search:
    """Judge the iterate, unless its randomness is fresh, and move it, at the cost of one query."""

    def ascend(point):
        objective = loss(point, redraw(key, search.moves) if attack.fresh else key)
        value = attack.ascent(objective, search.rival)
        return value, objective._replace(ascent=value)

    seen, point, gradient, objective = attack.query.ask(ascend, x, search.iterate)
    if not attack.fresh:
        search = judge(attack, search, x, search.iterate, seen.margins)
    iterate, memory = attack.move(x, point, gradient, objective, search.memory, search.k)
    return search._replace(iterate=iterate, memory=memory, k=search.k + 1, moves=search.moves + 1)


def judge(attack: Iterative, search: Search, x: Image, candidate: Image, margins: Logits) -> Search:
    """Record a candidate: an image stays robust only if no judged input was a success."""
    merit = attack.merit(attack, x, candidate, margins.max())
    first = (search.broken_at < 0) & (merit >= 0)
    better = merit > search.merit
    return search._replace(
        best=jnp.where(better, candidate, search.best),
        merit=jnp.where(better, merit, search.merit),
        broken_at=jnp.where(first, search.judged, search.broken_at),
        judged=search.judged + 1,
    )


def result(attack: Iterative, search: Search, best: Image, margin: Scalar) -> AttackResult:
    """What was found: the best input, by now inside the budget, and its margin, judged once more.

    It is the last input that is judged, and a success of its own where what was found outside the budget is one at
    the budget's edge too.
    """
    at = jnp.where(search.broken_at < 0, search.judged, search.broken_at)
    beside = search.moves * (attack.query.evaluations - (not attack.fresh))  # evaluations that judged nothing
    return AttackResult(
        x=best,
        margin=margin,
        broken_at=jnp.where(margin >= 0, at, -1),
        gradients=search.moves * attack.query.gradients,
        evaluations=search.judged + 1 + beside,
    )
