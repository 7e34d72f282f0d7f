"""Attack many images: compiled in short segments, so that an image leaves the batch as soon as it is broken."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..batches import over_images
from ..checks import check_budget, check_classifier, check_images, check_keys, check_labels, check_shape
from ..losses import Criterion, View, defended, margin
from ..types import AttackResult, Classifier, Purifier
from . import iterative

SEGMENT, GROWTH = 4, 4
"""Steps in one compiled call, between which broken images are dropped: at least SEGMENT, and 1 / GROWTH of those that
the restart has done, so that a long attack is seldom interrupted and no image spends much more than it needs."""


def attack_images(
    attack: Callable[..., iterative.Iterative],
    classifier: Classifier,
    purifier: Purifier,
    images,
    labels,
    keys,
    eps,
    criterion: Criterion = margin,
    size: int | None = None,
    on_segment: Callable[[float, int], None] = lambda done, active: None,
    *,
    view: View = defended,
    confidence: float = 0.0,
) -> AttackResult:
    """Attack "classifier after purifier" at each image; by default with full gradients and xi_attack = xi_test = keys.

    attack: constructor of an `Iterative` from eps, for example `partial(pgd, steps=40)`.
    images: [n, height, width, channel] in [0, 1]; labels: [n]; keys: [n], each image's xi.
    eps: budget in pixel units of the attack's norm, one number or one an image. A sweep over it does not recompile.
    on_segment: told the fraction done and the number of images still attacked.
    view: the loss that the attack sees, and that its inputs are judged by. `gradients.bpda` judges the defence itself;
        for `gradients.eot`, or when another xi is to be fooled, judge what is returned with `judge_images`.
    confidence: >= 0; margin from which an image is attacked no further (Carlini and Wagner 2017), for a minimum-norm
        attack the distance inside the budget. Infinity spends every step on every image, as an attack that has to
        transfer should, and one that measures minimum perturbations.

    What the attack returns, its best by its own view, is put inside the budget and judged again by a forward pass
    alone: `broken_at` is -1 unless that input is really misclassified. Arrays are NumPy, with images along the first
    axis.
    """
    if isinstance(attack, iterative.Iterative):
        raise TypeError("expected the constructor of an attack, which takes eps, got an attack; give pm.pgd or "
                        "partial(pm.pgd, steps=40), and eps to the search")
    settings = attack(0.0)
    if not confidence >= 0:
        raise ValueError(f"confidence is a margin >= 0, got {confidence}; 0 leaves an image once it is broken")
    images = check_images(images)
    labels = check_labels(labels, len(images), check_classifier(classifier, images[:2]))
    check_budget(eps, settings.norm.largest(images.shape[1:]))
    check_keys(keys, len(images))
    check_shape(purifier, images[0], keys[0])
    images = np.asarray(images, np.float32)
    budgets = np.broadcast_to(np.asarray(eps, np.float32), len(images))
    rows = (images, labels, keys, budgets)

    def apply(function, which, *more, shared=()):
        return over_images(function, shared, *rows, *more, which=which, size=size, name="attack")

    def judge(which, candidates):
        return judged(view, classifier, purifier, candidates, labels, keys, size, which)

    def attacked():
        return np.flatnonzero(search.merit < confidence)

    everyone = np.arange(len(images))
    search = apply(partial(_unbroken, attack), everyone, judge(everyone, images))
    total, done = settings.restarts * settings.steps, 0
    for restart in range(settings.restarts):
        which = attacked()
        if len(which):
            _put(search, which, apply(partial(_restart, attack), which, search, np.full(len(images), restart)))
        step = 0
        while step < settings.steps:
            which = attacked()
            length = min(max(SEGMENT, step // GROWTH), settings.steps - step)
            if len(which):
                segment = partial(_segment, attack, view, criterion)
                _put(search, which, apply(segment, which, search, shared=(np.int32(length), classifier, purifier)))
            step, done = step + length, done + length
            on_segment(done / total, len(which))
        which = attacked()
        if len(which):
            last = np.zeros((len(images), search.ranking.shape[1]), np.float32)
            last[which] = judge(which, search.iterate)
            _put(search, which, apply(partial(_last, attack), which, search, last))
    best = apply(partial(_inside, attack), everyone, search.best)
    return apply(partial(_result, attack), everyone, search, best, judge(everyone, best).max(1))


def judge_images(
    classifier: Classifier, purifier: Purifier, images, labels, keys, size: int | None = None
) -> Float[np.ndarray, "n"]:
    """Margin of "classifier after purifier" at each image under its own xi; >= 0 is misclassified.

    images: [n, height, width, channel] in [0, 1]; labels: [n]; keys: [n]. With the images that an attack found and
    keys of another base seed, xi_attack != xi_test: a transfer attack (compression_paper App. C, Table S4).

    >>> import purimetry as pm
    >>> images, keys = np.array([0.75, 0.5], np.float32).reshape(1, 1, 2, 1), pm.configurations(1, np.arange(1))
    >>> judge_images(lambda x: x.reshape(-1), pm.identity, images, np.array([0]), keys).tolist()
    [-0.25]
    """
    images = check_images(images)
    labels = check_labels(labels, len(images), check_classifier(classifier, images[:2]))
    check_keys(keys, len(images))
    check_shape(purifier, images[0], keys[0])
    return judged(defended, classifier, purifier, images, labels, keys, size).max(1)


def judged(
    view: View, classifier: Classifier, purifier: Purifier, candidates, labels, keys, size: int | None, which=None
) -> Float[np.ndarray, "n classes"]:
    """All margins of one input an image, by a forward pass; one program for all attacks that share a view.

    The true class's is the lowest finite number, so that what is not finite is an error.
    """
    return over_images(partial(_margins, view), (classifier, purifier), candidates, labels, keys, which=which,
                       size=size, name="attack")


def _put(search, which, part):
    for whole, new in zip(jax.tree.leaves(search), jax.tree.leaves(part), strict=True):
        whole[which] = new


def _margins(view, classifier, purifier, x, label, key):
    return jnp.maximum(view(classifier, purifier, label, margin)(x, key).margins, jnp.finfo(x.dtype).min)


def _unbroken(attack, x, label, key, eps, margins):
    return iterative.unbroken(attack(eps), x, key, margins)


def _restart(attack, x, label, key, eps, search, restart):
    return iterative.begin(attack(eps), search, x, key, restart)


def _segment(attack, view, criterion, length, classifier, purifier, x, label, key, eps, search):
    """Any number of steps is one program, since `length` is traced."""
    loss = view(classifier, purifier, label, criterion)
    return jax.lax.fori_loop(0, length, lambda _, s: iterative.advance(attack(eps), loss, s, x, key), search)


def _last(attack, x, label, key, eps, search, margins):
    return iterative.judge(attack(eps), search, x, search.iterate, margins)


def _inside(attack, x, label, key, eps, best):
    return attack(eps).norm.project(best, x, eps)


def _result(attack, x, label, key, eps, search, best, margin):
    return iterative.result(attack(eps), search, best, margin)
