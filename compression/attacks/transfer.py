"""Transfer attacks: inputs found on one defence, judged on another."""

from collections.abc import Callable

import numpy as np

from ..losses import Criterion, View, defended, margin
from ..types import AttackResult, Classifier, Purifier
from .iterative import Iterative
from .search import attack_images, judge_images


def transfer(
    attack: Callable[..., Iterative],
    surrogate: tuple[Classifier, Purifier],
    target: tuple[Classifier, Purifier],
    images,
    labels,
    keys,
    eps,
    criterion: Criterion = margin,
    size: int | None = None,
    *,
    surrogate_keys=None,
    view: View = defended,
) -> AttackResult:
    """Attack a surrogate with all of an attack's steps, and judge what is strongest there on the target.

    surrogate, target: classifier and purifier each. images, labels, eps, criterion, view: as in `attack_images`.
    keys: [n], the target's xi. surrogate_keys: the surrogate's; the same unless told. With the target as its own
        surrogate and other keys it is the transfer between configurations of App. C, Table S4.

    Two inputs an image are judged on the target: the clean one (number 0) and the one found (1), which is only sought
    where the clean one is right. Gradients and evaluations are those of the surrogate.

    >>> import jax.numpy as jnp, purimetry as pm
    >>> images, keys = np.array([0.6, 0.5], np.float32).reshape(1, 1, 2, 1), pm.configurations(0, np.arange(1))
    >>> flat = (lambda x: x.reshape(-1), pm.identity)
    >>> steep = (lambda x: 9 * x.reshape(-1), pm.identity)
    >>> found = transfer(pm.fgsm, flat, steep, images, np.array([0]), keys, 0.1)
    >>> found.broken_at.tolist(), round(float(found.margin[0]), 2)
    ([1], 0.9)
    """
    images, labels = np.asarray(images), np.asarray(labels)
    before = judge_images(*target, images, labels, keys, size)
    which = np.flatnonzero(before < 0)
    gradients, evaluations = np.zeros((2, len(images)), np.int32)
    result = AttackResult(np.array(images, np.float32), before.copy(), np.where(before < 0, -1, 0), gradients,
                          evaluations)
    if len(which) == 0:
        return result
    budgets = np.broadcast_to(np.asarray(eps, np.float32), len(images))
    seen = keys if surrogate_keys is None else surrogate_keys
    found = attack_images(attack, *surrogate, images[which], labels[which], seen[which], budgets[which], criterion,
                          size, view=view, confidence=np.inf)
    after = judge_images(*target, found.x, labels[which], keys[which], size)
    found = found._replace(margin=after, broken_at=np.where(after >= 0, 1, -1))
    for whole, new in zip(result, found, strict=True):
        whole[which] = new
    return result
