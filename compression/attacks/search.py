"""Attack many images: compiled in short segments, so that an image leaves the batch as soon as it is broken."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ..batches import SHARD, over_images
from ..checks import check_budget, check_classifier, check_images, check_keys, check_labels, check_shape
from ..losses import Criterion, defended, margin, margins
from ..types import AttackResult, Classifier, Purifier
from . import iterative, linf

SEGMENT = 4
"""Steps in one compiled call; between calls broken images are dropped. Steps that it divides need one program."""


def attack_images(
    attack: Callable[..., iterative.Iterative],
    classifier: Classifier,
    purifier: Purifier,
    images,
    labels,
    keys,
    eps,
    criterion: Criterion = margin,
    size: int = SHARD,
    on_segment: Callable[[float, int], None] = lambda done, active: None,
) -> AttackResult:
    """Attack "classifier after purifier" at each image, with full gradients and xi_attack = xi_test = keys.

    attack: constructor of an `Iterative` from eps, for example `partial(pgd, steps=40)`.
    images: [n, height, width, channel] in [0, 1]; labels: [n]; keys: [n], each image's xi.
    eps: budget in pixel units, in (0, 1], one number or one an image. A sweep over it does not recompile.
    on_segment: told the fraction done and the number of images still unbroken.

    What the attack returns is clipped to the budget and judged again by a forward pass alone: `broken_at`
    is -1 unless that input is really misclassified. Arrays are NumPy, with images along the first axis.
    """
    check_images(images)
    check_labels(labels, len(images), check_classifier(classifier, images[:2]))
    check_budget(eps)
    check_keys(keys, len(images))
    check_shape(purifier, images[0], keys[0])
    budgets = jnp.broadcast_to(jnp.asarray(eps, jnp.float32), len(images))
    rows = (jnp.asarray(images), jnp.asarray(labels), keys, budgets)

    def apply(function, which, *more):
        some = jax.tree.map(lambda a: a[which], rows)
        return over_images(function, (classifier, purifier), *some, *more, size=size, name="attack")

    def judge(which, candidates):
        """Judge one input an image by a forward pass; one program for all attacks of a purifier."""
        return over_images(_margins, (classifier, purifier), candidates, rows[1][which], keys[which], size=size,
                           name="attack")

    everyone = np.arange(len(images))
    search = apply(partial(_unbroken, attack), everyone, judge(everyone, images))
    settings, done = attack(0.0), 0
    total = settings.restarts * settings.steps
    for restart in range(settings.restarts):
        which = np.flatnonzero(search.broken_at < 0)
        if len(which):
            restarts = np.full(len(which), restart)
            _put(search, which, apply(partial(_restart, attack), which, _take(search, which), restarts))
        for step in range(0, settings.steps, SEGMENT):
            which = np.flatnonzero(search.broken_at < 0)
            length = min(SEGMENT, settings.steps - step)
            if len(which):
                segment = partial(_segment, attack, criterion, length)
                _put(search, which, apply(segment, which, _take(search, which)))
            done += length
            on_segment(done / total, len(which))
        which = np.flatnonzero(search.broken_at < 0)
        if len(which):
            last = _take(search, which)
            _put(search, which, apply(_last, which, last, judge(which, last.iterate)))
    best = apply(_inside, everyone, search.best)
    margin = judge(everyone, best).max(1)
    return AttackResult(best, margin, np.where(margin >= 0, search.broken_at, -1), search.gradients)


def _take(search, which):
    return jax.tree.map(lambda a: a[which], search)


def _put(search, which, part):
    for whole, new in zip(jax.tree.leaves(search), jax.tree.leaves(part), strict=True):
        whole[which] = new


def _margins(classifier, purifier, x, label, key):
    """Lowest finite number in place of the true class's -inf, so that what is not finite is an error."""
    return jnp.maximum(margins(classifier(purifier(x, key)), label), jnp.finfo(x.dtype).min)


def _unbroken(attack, classifier, purifier, x, label, key, eps, margins):
    return iterative.unbroken(attack(eps), x, key, margins)


def _restart(attack, classifier, purifier, x, label, key, eps, search, restart):
    return iterative.begin(attack(eps), search, x, key, restart)


def _segment(attack, criterion, length, classifier, purifier, x, label, key, eps, search):
    loss = defended(classifier, purifier, label, criterion)
    step = lambda s, _: (iterative.advance(attack(eps), loss, s, x, key), None)
    return jax.lax.scan(step, search, length=length)[0]


def _last(classifier, purifier, x, label, key, eps, search, margins):
    return iterative.judge(search, search.iterate, margins)


def _inside(classifier, purifier, x, label, key, eps, best):
    return linf.project(best, x, eps)
