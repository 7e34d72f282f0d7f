"""The pieces that an experiment's work falls into, and who computes which."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple


class Piece(NamedTuple):
    """Independent work that leaves shards (or weights) behind.

    program: pieces of one program share compiled code, so they go to one process where there are enough others.
    cost: how long it takes, relative to the experiment's other pieces. compute: its result is dropped.
    needs: programs whose pieces in the experiments before have to be done first, beside its own; it reads what these
        leave and nothing else, nor what an experiment's `run` makes. None is all of them.
    """

    program: Hashable
    cost: float
    compute: Callable[[], Any]
    needs: tuple[Hashable, ...] | None = None


class Group(NamedTuple):
    """Pieces of an experiment, by their numbers, that one process computes one after another."""

    experiment: str
    numbers: tuple[int, ...]
    programs: frozenset[Hashable]
    needs: frozenset[Hashable] | None
    cost: float

    @classmethod
    def of(cls, experiment: str, pieces: Sequence[Piece], numbers: Iterable[int]) -> "Group":
        """What these pieces are together."""
        numbers = tuple(numbers)
        chosen = [pieces[number] for number in numbers]
        programs, anything = frozenset(piece.program for piece in chosen), any(p.needs is None for p in chosen)
        needs = None if anything else programs.union(*(piece.needs for piece in chosen))
        return cls(experiment, numbers, programs, needs, sum(piece.cost for piece in chosen))

    def shares(self, other: "Group") -> bool:
        """Whether it is of the same experiment and of programs of the other's, so that compiled code serves both."""
        return self.experiment == other.experiment and bool(self.programs & other.programs)

    def may_start(self, unfinished: Iterable["Group"]) -> bool:
        """Whether it may while these groups of experiments before its own are not done.

        >>> rates = Group.of("rates", [Piece(5, 1, print, needs=("denoiser",))], [0])
        >>> denoiser = Group.of("training", [Piece("denoiser", 1, print, needs=())], [0])
        >>> classifier = Group.of("training", [Piece("classifier", 1, print, needs=())], [0])
        >>> rates.may_start([classifier]), rates.may_start([classifier, denoiser])
        (True, False)
        """
        others = list(unfinished)
        return not others or (self.needs is not None and not any(self.needs & other.programs for other in others))


class Passes(NamedTuple):
    """How often one image goes through "classifier after purifier" of a cell, at most: alone, and with a gradient."""

    cell: Hashable
    forward: float
    gradient: float


def groups(pieces: Sequence[Piece], workers: int) -> list[list[int]]:
    """Numbers of the pieces that go to a process together, the dearest group first.

    >>> pieces = [Piece("a", 1, print), Piece("b", 3, print), Piece("a", 1, print)]
    >>> groups(pieces, workers=2), groups(pieces, workers=3)
    ([[1], [0, 2]], [[1], [0], [2]])
    """
    together = defaultdict(list)
    for number, piece in enumerate(pieces):
        together[piece.program].append(number)
    found = list(together.values())
    if len(found) < workers:
        found = [[number] for number in range(len(pieces))]
    return sorted(found, key=lambda group: -sum(pieces[number].cost for number in group))


def share(pieces: Sequence[Piece], host: int, count: int) -> list[int]:
    """Numbers of the pieces that one of `count` hosts computes: each group goes to the one with least to do by then.

    >>> pieces = [Piece("a", 1, print), Piece("b", 3, print), Piece("a", 1, print)]
    >>> share(pieces, 0, 2), share(pieces, 1, 2), share(pieces, 0, 1)
    ([1], [0, 2], [0, 1, 2])
    """
    costs, shares = [0.0] * count, [[] for _ in range(count)]
    for group in groups(pieces, count):
        least = costs.index(min(costs))
        costs[least] += sum(pieces[number].cost for number in group)
        shares[least] += group
    return sorted(shares[host])
