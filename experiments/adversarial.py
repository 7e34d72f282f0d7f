"""Adversarial inputs that several experiments share: PGD and BPDA, each with one configuration or with EOT (App. C).

The paper's attack: 40 steps of 0.01/0.3 eps on cross-entropy from a uniform start (Table S6). Every image gets all
steps, also when it is broken early, as an input that has to fool other configurations should.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from ..compression.attacks.iterative import redrawn
from ..compression.attacks.pgd import pgd
from ..compression.attacks.search import attack_images
from ..compression.batches import SHARD, at_most
from ..compression.gradients import bpda, eot
from ..compression.losses import View, cross_entropy, defended
from .progress import bar
from .workbench import Cell, Workbench

ATTACKED = 48
"""Images that are attacked, the first of the run's."""

TOGETHER = 240
"""Configurations in one compiled call: images times draws, for the memory of their gradients."""


def together(images: np.ndarray, draws: int) -> int:
    """Images in one compiled call of an attack that sees so many draws of each."""
    return max(1, at_most(TOGETHER, images) // draws)


class Kind(NamedTuple):
    """What an attack knows of a random defence.

    gradient: "full" through every sampler step (PGD), or "bpda", the identity in place of the purifier's Jacobian.
    draws: configurations in one gradient (EOT where more than 1). fresh: whether each gradient has new ones; else all
    have the one xi that the image's base seed gives.
    """

    gradient: str
    draws: int = 1
    fresh: bool = False

    def __str__(self) -> str:
        return f"{self.gradient}-k{self.draws}-{self.at['xi_attack']}"

    @property
    def at(self) -> dict:
        """Its coordinates in records."""
        return {"gradient": self.gradient, "k": self.draws, "xi_attack": "fresh" if self.fresh else "fixed"}

    @property
    def view(self) -> View:
        """The loss that it ascends."""
        one = {"full": defended, "bpda": bpda}[self.gradient]
        return one if self.draws == 1 else partial(eot, draws=self.draws, view=one)


EOT_DRAWS = 15
"""Configurations in an EOT gradient (Table S6)."""

PGD, PGD_EOT = Kind("full"), Kind("full", EOT_DRAWS, fresh=True)
BPDA, BPDA_EOT = Kind("bpda"), Kind("bpda", EOT_DRAWS, fresh=True)


def targets(bench: Workbench) -> tuple[np.ndarray, np.ndarray]:
    """The images that are attacked, and their labels."""
    return bench.images[:ATTACKED], bench.labels[:ATTACKED]


def budget(bench: Workbench) -> float:
    """The budget of these attacks: the run's largest, where attacks differ most."""
    return max(bench.configuration.eps)


def adversaries(bench: Workbench, cell: Cell, kind: Kind, seed: int | None = None) -> np.ndarray:
    """The strongest input found for each image, by the attack's own view; of the first base seed unless told."""
    eps = budget(bench)
    seed = bench.configuration.seeds[0] if seed is None else seed

    def compute():
        paper = partial(pgd, steps=bench.configuration.paper_steps)
        attack = partial(redrawn, paper) if kind.fresh else paper
        images, labels = targets(bench)
        with bar(f"attack {cell} eps {eps:g} ({kind})") as show:
            found = attack_images(attack, bench.classifier, bench.purifier(cell), images, labels,
                                  bench.keys(seed)[:ATTACKED], eps, cross_entropy,
                                  min(SHARD, together(images, kind.draws)),
                                  view=kind.view, confidence=np.inf,
                                  on_segment=lambda done, active: show(done, f"{active} images"))
        return {"x": found.x}

    return bench.shard("adversarial", f"{cell}-eps{eps:g}-{kind}-seed{seed}", compute)["x"]
