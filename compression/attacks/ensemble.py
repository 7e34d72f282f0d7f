"""The standard ensemble: AutoAttack's attacks in its order, each on the images that the former ones left (Croce and
Hein 2020)."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..checks import check_classifier, check_images
from ..gradients import eot
from ..losses import Criterion, View, cross_entropy, defended, dlr, log_odds, margin
from ..types import Classifier, Purifier
from . import linf
from .apgd import apgd, apgd_targeted
from .fab import fab
from .iterative import Iterative
from .search import attack_images, judge_images
from .square import square


class Member(NamedTuple):
    """One attack of an ensemble; `attack_images` says what the parts are.

    draws: evaluations of the model in one of the view.
    """

    name: str
    attack: Callable[..., Iterative]
    criterion: Criterion = margin
    view: View = defended
    confidence: float = 0.0
    draws: int = 1


Version = Callable[[int, ModuleType], tuple[Member, ...]]
"""(number of classes, norm) to the attacks in their order."""


def standard_attacks(classes: int, norm: ModuleType, *, steps: int = 100, queries: int = 5000) -> tuple[Member, ...]:
    """AutoAttack's version `standard`: APGD-CE, targeted APGD-DLR and FAB-T of 9 rivals, Square.

    For defences that are deterministic once their key is held. APGD-CE ascends the log-odds, which has
    cross-entropy's directions and order and does not saturate.
    """
    targets = min(9, classes - 1)
    return (
        Member("apgd_ce", partial(apgd, steps=steps, norm=norm), log_odds),
        Member("apgd_t", partial(apgd_targeted, steps=steps, targets=targets, norm=norm)),
        Member("fab_t", partial(fab, steps=steps, targets=targets, norm=norm)),
        Member("square", partial(square, queries=queries, norm=norm)),
    )


def rand_attacks(classes: int, norm: ModuleType, *, steps: int = 100, draws: int = 20) -> tuple[Member, ...]:
    """AutoAttack's version `rand`: APGD-CE and APGD-DLR on the expectation over 20 configurations.

    For defences that draw their randomness anew: the configurations that are attacked do not contain the one that
    is tested, which is the image's own key. So every step is spent on every image, and the test comes after it.
    """
    member = partial(Member, attack=partial(apgd, steps=steps, norm=norm), view=partial(eot, draws=draws),
                     confidence=np.inf, draws=draws)
    return member("apgd_ce", criterion=cross_entropy), member("apgd_dlr", criterion=dlr)


class EnsembleResult(NamedTuple):
    """What an ensemble found for each of n images.

    names: "clean", then the attacks. by: [n] number of the name that broke the image, -1 for none.
    x, margin: [n, ...] the input of the largest margin that was verified, >= 0 where the image is broken.
    evaluations, gradients: [n, attacks] of the model, those of gradients included, spent by each attack.
    """

    names: tuple[str, ...]
    by: Int[np.ndarray, "n"]
    x: Float[np.ndarray, "n height width channel"]
    margin: Float[np.ndarray, "n"]
    evaluations: Int[np.ndarray, "n attacks"]
    gradients: Int[np.ndarray, "n attacks"]

    @property
    def robust(self) -> Float[np.ndarray, "names"]:
        """Share of the images that is left after each name: clean accuracy first, robust accuracy last."""
        return np.array([((self.by < 0) | (self.by > number)).mean() for number in range(len(self.names))])


def ensemble(
    classifier: Classifier,
    purifier: Purifier,
    images,
    labels,
    keys,
    eps,
    norm: ModuleType = linf,
    version: Version = standard_attacks,
    size: int | None = None,
    on_segment: Callable[[str, float, int], None] = lambda name, done, active: None,
) -> EnsembleResult:
    """Attack each image with one attack after the other until one breaks it.

    images, labels, eps: as in `attack_images`. keys: [n], the xi under which every input is judged.
    version: `standard_attacks`, `rand_attacks`, or your own; `partial(standard_attacks, queries=1000)` changes one.
    size: images in one compiled call; as in `over_images` unless told. The last call is padded to it, so that no
        result depends on which images are left; where few are and the model is large, a smaller size is faster.
    on_segment: told the attack's name, its fraction done and the number of images that it still attacks.

    Whatever an attack returns is inside the budget, and is judged again by the defence itself at the image's key.

    >>> import purimetry as pm
    >>> images, keys = np.array([0.6, 0.5], np.float32).reshape(1, 1, 2, 1), pm.configurations(0, np.arange(1))
    >>> mine = lambda classes, norm: (Member("fgsm", partial(pm.fgsm, norm=norm)),)
    >>> found = ensemble(lambda x: x.reshape(-1), pm.identity, images, np.array([0]), keys, 0.1, version=mine)
    >>> found.names[found.by[0]], found.robust.tolist(), found.evaluations.tolist()
    ('fgsm', [1.0, 0.0], [[5]])
    """
    images, labels = check_images(images), np.asarray(labels)
    members = version(check_classifier(classifier, images[:2]), norm)
    n = len(images)
    x, margins = np.array(images, np.float32), judge_images(classifier, purifier, images, labels, keys, size)
    by = np.where(margins < 0, -1, 0)
    spent = np.zeros((2, n, len(members)), np.int64)
    budgets = np.broadcast_to(np.asarray(eps, np.float32), n)
    for number, member in enumerate(members):
        which = np.flatnonzero(by < 0)
        if len(which) == 0:
            break
        found = attack_images(member.attack, classifier, purifier, images[which], labels[which], keys[which],
                              budgets[which], member.criterion, size, partial(on_segment, member.name),
                              view=member.view, confidence=member.confidence)
        verified = judge_images(classifier, purifier, found.x, labels[which], keys[which], size)
        better = verified > margins[which]
        x[which[better]], margins[which[better]] = found.x[better], verified[better]
        by[which[verified >= 0]] = number + 1
        spent[:, which, number] = member.draws * np.stack([found.evaluations, found.gradients])
        spent[0, which, number] += 1
    return EnsembleResult(("clean", *(member.name for member in members)), by, x, margins, *spent)
