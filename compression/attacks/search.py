"""Attack many images: compiled in short segments, so that an image leaves the batch as soon as it is broken."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..batches import SHARD, over_images
from ..checks import check_budget, check_classifier, check_images, check_keys, check_labels, check_shape
from ..losses import Criterion, View, defended, margin
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
    *,
    view: View = defended,
    confidence: float = 0.0,
) -> AttackResult:
    """Attack "classifier after purifier" at each image; by default with full gradients and xi_attack = xi_test = keys.

    attack: constructor of an `Iterative` from eps, for example `partial(pgd, steps=40)`.
    images: [n, height, width, channel] in [0, 1]; labels: [n]; keys: [n], each image's xi.
    eps: budget in pixel units, in (0, 1], one number or one an image. A sweep over it does not recompile.
    on_segment: told the fraction done and the number of images still attacked.
    view: the loss that the attack sees, and that its inputs are judged by. `gradients.bpda` judges the defence itself;
        for `gradients.eot`, or when another xi is to be fooled, judge what is returned with `judge_images`.
    confidence: >= 0; margin from which an image is attacked no further (Carlini and Wagner 2017). Infinity spends
        every step on every image, as an attack that has to transfer should.

    What the attack returns, its best by its own view, is clipped to the budget and judged again by a forward pass
    alone: `broken_at` is -1 unless that input is really misclassified. Arrays are NumPy, with images along the first
    axis.
    """
    if not confidence >= 0:
        raise ValueError(f"confidence is a margin >= 0, got {confidence}; 0 leaves an image once it is broken")
    check_images(images)
    check_labels(labels, len(images), check_classifier(classifier, images[:2]))
    check_budget(eps)
    check_keys(keys, len(images))
    check_shape(purifier, images[0], keys[0])
    budgets = np.broadcast_to(np.asarray(eps, np.float32), len(images))
    rows = (images, labels, keys, budgets)

    def apply(function, which, *more):
        return over_images(function, (classifier, purifier), *rows, *more, which=which, size=size, name="attack")

    def judge(which, candidates):
        return _judged(view, classifier, purifier, candidates, labels, keys, size, which)

    def attacked():
        return np.flatnonzero(search.margin < confidence)

    everyone = np.arange(len(images))
    search = apply(partial(_unbroken, attack), everyone, judge(everyone, images))
    settings, done = attack(0.0), 0
    total = settings.restarts * settings.steps
    for restart in range(settings.restarts):
        which = attacked()
        if len(which):
            restarts = np.full(len(images), restart)
            _put(search, which, apply(partial(_restart, attack), which, search, restarts))
        for step in range(0, settings.steps, SEGMENT):
            which = attacked()
            length = min(SEGMENT, settings.steps - step)
            if len(which):
                segment = partial(_segment, attack, view, criterion, length)
                _put(search, which, apply(segment, which, search))
            done += length
            on_segment(done / total, len(which))
        which = attacked()
        if len(which):
            last = np.zeros((len(images), search.ranking.shape[1]), np.float32)
            last[which] = judge(which, search.iterate)
            _put(search, which, apply(_last, which, search, last))
    best = apply(_inside, everyone, search.best)
    margin = judge(everyone, best).max(1)
    return AttackResult(best, margin, np.where(margin >= 0, search.broken_at, -1), search.gradients)


def judge_images(
    classifier: Classifier, purifier: Purifier, images, labels, keys, size: int = SHARD
) -> Float[np.ndarray, "n"]:
    """Margin of "classifier after purifier" at each image under its own xi; >= 0 is misclassified.

    images: [n, height, width, channel] in [0, 1]; labels: [n]; keys: [n]. With the images that an attack found and
    keys of another base seed, xi_attack != xi_test: a transfer attack (compression_paper App. C, Table S4).

    >>> import purimetry as pm
    >>> images, keys = np.array([0.75, 0.5], np.float32).reshape(1, 1, 2, 1), pm.configurations(1, np.arange(1))
    >>> judge_images(lambda x: x.reshape(-1), pm.identity, images, np.array([0]), keys).tolist()
    [-0.25]
    """
    check_images(images)
    check_labels(labels, len(images), check_classifier(classifier, images[:2]))
    check_keys(keys, len(images))
    check_shape(purifier, images[0], keys[0])
    return _judged(defended, classifier, purifier, images, labels, keys, size).max(1)


def _judged(view, classifier, purifier, candidates, labels, keys, size, which=None):
    """All margins of one input an image, by a forward pass; one program for all attacks that share a view."""
    return over_images(partial(_margins, view), (classifier, purifier), candidates, labels, keys, which=which,
                       size=size, name="attack")


def _put(search, which, part):
    for whole, new in zip(jax.tree.leaves(search), jax.tree.leaves(part), strict=True):
        whole[which] = new


def _margins(view, classifier, purifier, x, label, key):
    """Lowest finite number in place of the true class's -inf, so that what is not finite is an error."""
    return jnp.maximum(view(classifier, purifier, label, margin)(x, key).margins, jnp.finfo(x.dtype).min)


def _unbroken(attack, classifier, purifier, x, label, key, eps, margins):
    return iterative.unbroken(attack(eps), x, key, margins)


def _restart(attack, classifier, purifier, x, label, key, eps, search, restart):
    return iterative.begin(attack(eps), search, x, key, restart)


def _segment(attack, view, criterion, length, classifier, purifier, x, label, key, eps, search):
    loss = view(classifier, purifier, label, criterion)
    step = lambda s, _: (iterative.advance(attack(eps), loss, s, x, key), None)
    return jax.lax.scan(step, search, length=length)[0]


def _last(classifier, purifier, x, label, key, eps, search, margins):
    return iterative.judge(search, search.iterate, margins)


def _inside(classifier, purifier, x, label, key, eps, best):
    return linf.project(best, x, eps)
