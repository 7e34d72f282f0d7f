"""Robust accuracy predicted from compression, without the attack (compression_paper Sec. 5.3), and our own predictors.

Each predictor says per image whether "classifier after f_xi" withstands a budget eps, or, for the paper's two,
what fraction of images does. They are listed from the cheapest to the dearest.
"""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .attacks import linf
from .batches import over_draws, over_images
from .checks import (
    check_budget, check_classifier, check_image, check_images, check_keys, check_labels, check_positive, check_shape,
)
from .losses import defended, margins
from .purifiers.identity import identity
from .purifiers.purify import purify
from .rates import PulledBack, pulled_back, rate_images
from .survival import Survival
from .types import Budget, Classifier, Image, Key, Label, Purifier, Scalar

STEP_SIZES = (1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125)
"""Steps of the short attack relative to eps: to a corner of the budget, across it, and back."""

SEGMENT = 2
"""Steps between which broken images leave it."""

RIVALS, CANDIDATES = 3, 5
"""Classes that the short attack tries, and classes of which `likely_rivals` chooses them."""

PACE, REACH = 8.0, 0.9
"""When an image is out of reach: from half a path on it is left when even PACE times the gain of the last segment would
not break the image, and the image when all paths so far promise, extrapolated, to leave more than REACH of its clean
margin. These and the sizes above were chosen on digits 128 to 255 of the test split, behind eight of the diffusion
purifiers."""


def by_survival(curve: Survival, rates: Float[np.ndarray, "n"], eps: Budget) -> float:
    """The paper's prediction S(CR eps): CR the mean rate, S the bare classifier's survival curve (Table 3).

    Warns where S was not searched as far. eps: above 0, in the units of the curve's distances.

    >>> from purimetry import kaplan_meier
    >>> by_survival(kaplan_meier(np.array([0.0, 0.1, 0.2, 0.3]), np.zeros(4, bool)), np.array([0.4, 0.6]), 0.3)
    0.5
    """
    check_positive(eps)
    compressed = _numbers(rates, "rates").mean() * eps
    predicted = float(curve(compressed))
    if compressed > curve.searched and predicted > 0:
        warnings.warn(f"the compressed budget {compressed:g} is larger than any that was tried, {curve.searched:g}; "
                      "the prediction is an upper bound; search minimum perturbations up to it (eps_max)", stacklevel=2)
    return predicted


def image_wise(
    distance: Float[np.ndarray, "n"], censored: Bool[np.ndarray, "n"], rates: Float[np.ndarray, "n"], eps: Budget
) -> Bool[np.ndarray, "n"]:
    """Image i withstands eps if d_i > rate_i eps, d_i the minimum perturbation at its own anchor.

    censored: never broken in the search for d_i. Such an image withstands any budget, as a survival curve has it.
    eps: above 0, in the units of the distances.
    With `rates.adversarial_rate` in place of the expected rate, the direction that matters is compared.

    >>> image_wise(np.array([0.1, 0.0]), np.zeros(2, bool), np.array([0.5, 0.5]), 0.15).tolist()
    [True, False]
    """
    check_positive(eps)
    return np.asarray(censored) | (_numbers(distance, "distances") > _numbers(rates, "rates") * eps)


def _numbers(values, name):
    """As a vector; nan would pass for a prediction, that of an image which nothing withstands."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"{name} are a vector, one number an image, got shape {values.shape}; of Rates take l2.mean")
    if np.isnan(values).any():
        raise ValueError(f"{name} hold nan, first in row {np.argwhere(np.isnan(values))[0, 0]}; leave such images out")
    return values


def first_order_margin(
    classifier: Classifier, purifier: Purifier, x: Image, label: Label, key: Key, eps: Budget
) -> Scalar:
    """The largest margin within eps and [0, 1] of the defence linearised at x: one gradient; < 0 withstands."""
    check_image(x)
    return linear_margin(pulled_back(classifier, purifier, x, label, key), x, eps)


def linear_margin(found: PulledBack, x: Image, eps: Budget) -> Scalar:
    """The largest margin that a defence of this margin and gradient at x, were it linear, has within eps and [0, 1]."""
    return found.margin + linear_gain(found.at_image, x, x, eps)


def linear_gain(gradient: Image, at: Image, x: Image, eps: Budget) -> Scalar:
    """How much a linear function with this gradient can still rise from `at`, within eps of x and [0, 1]."""
    best = linf.project(x + 2 * eps * jnp.sign(gradient), x, eps)
    return jnp.sum(gradient * (best - at))


class Path(NamedTuple):
    """Some gradient steps from an input towards a rival class.

    last: the input that they end at. margins, heights: at each visited input, the first one included, the margin over
    all classes and that of the rival. promised, gained: of height by the first step, if the defence were linear, and
    really.
    """

    last: Image
    margins: Float[Array, "visited"]
    heights: Float[Array, "visited"]
    promised: Scalar
    gained: Scalar


def path(
    step_sizes: Float[Array, "steps"], classifier: Classifier, purifier: Purifier, x: Image, label: Label, key: Key,
    eps: Budget, rival: Int[Array, ""], start: Image,
) -> Path:
    """Steps of these sizes, relative to eps, along the sign of the gradient of the rival's margin, within eps of x."""
    loss = defended(classifier, purifier, label)

    def ascent(v):
        objective = loss(v, key)
        return objective.margins[rival], objective.margin

    def step(v, size):
        (height, reached), gradient = jax.value_and_grad(ascent, has_aux=True)(v)
        moved = linf.project(v + size * eps * jnp.sign(gradient), x, eps)
        return moved, (height, reached, jnp.sum(gradient * (moved - v)))

    last, (heights, reached, promised) = jax.lax.scan(step, start, step_sizes.astype(x.dtype))
    height, reached_last = ascent(last)
    heights = jnp.append(heights, height)
    return Path(last, jnp.append(reached, reached_last), heights, promised[0], heights[1] - heights[0])


def likely_rivals(classifier: Classifier, anchor: Image, label: Label, eps: Budget) -> Int[Array, "rivals"]:
    """The RIVALS classes to which the bare classifier is driven furthest within eps of an anchor, furthest first.

    Of the CANDIDATES with the highest logits there; fewer where there are fewer classes.
    eps: the compressed budget, rate times eps of the defence.

    >>> likely_rivals(lambda x: x.reshape(-1), jnp.array([[[0.9], [0.2], [0.5]]]), jnp.int32(0), 0.1).tolist()
    [2, 1]
    """
    there, sizes, unused = margins(classifier(anchor), label), jnp.asarray(STEP_SIZES), jax.random.key(0)
    candidates = jnp.argsort(-there)[: min(CANDIDATES, there.shape[0] - 1)]
    towards = lambda rival: path(sizes, classifier, identity, anchor, label, unused, eps, rival, anchor)
    return candidates[jnp.argsort(-over_draws(towards, candidates, anchor).heights.max(1))][:RIVALS]


class ShortAttack(NamedTuple):
    """A few targeted gradient steps: what they reached, and what linearity promised.

    margins: over all classes, at each input that a path towards a rival visits, the clean one first; that of the clean
        image again for steps that were not taken. gradients: taken in all.
    promised, gained: by the very first step, as of a `Path`.
    """

    margins: Float[np.ndarray, "images rivals visited"]
    gradients: Int[np.ndarray, "images"]
    promised: Float[np.ndarray, "images"]
    gained: Float[np.ndarray, "images"]


def short_attack(
    classifier: Classifier, purifier: Purifier, images, labels, keys, eps, rivals, size: int | None = None
) -> ShortAttack:
    """Relinearise a few times along the path towards one rival class after another (ours).

    An image leaves once it is broken or out of reach (PACE, REACH). So it costs at most k * len(STEP_SIZES) gradients,
    and a forward pass for every SEGMENT of them.

    images: [n, height, width, channel] in [0, 1]; labels, keys: [n]. eps: one number or one an image.
    rivals: [n, k >= 1] classes other than the label, likeliest first, such as those of `likely_rivals`.
    size: images in one compiled call.

    >>> import purimetry as pm
    >>> images = np.array([0.75, 0.5, 0.25], np.float32).reshape(1, 3, 1, 1)
    >>> classifier, xi = lambda x: x.reshape(-1), pm.configurations(0, np.arange(1))
    >>> found = short_attack(classifier, pm.identity, images, np.array([0]), xi, 0.1, np.array([[1, 2]]))
    >>> np.round(found.margins[0, 0, :2].astype(float), 2).tolist(), found.gradients.tolist()
    ([-0.25, -0.05], [8])
    """
    images, rivals = check_images(images), np.asarray(rivals)
    n = len(images)
    classes = check_classifier(classifier, images[:2])
    labels = check_labels(labels, n, classes)
    check_budget(eps)
    check_keys(keys, n)
    check_shape(purifier, images[0], keys[0])
    if rivals.ndim != 2 or len(rivals) != n or not rivals.size:
        raise ValueError(f"rivals have the shape [{n} images, at least 1], got shape {rivals.shape}; "
                         "take those of likely_rivals")
    if ((rivals < 0) | (rivals >= classes) | (rivals == labels[:, None])).any():
        raise ValueError(f"rivals are classes from 0 to {classes - 1} other than the label, got labels or other "
                         "numbers among them; take those of likely_rivals")
    budgets, gradients, left = np.broadcast_to(np.asarray(eps, np.float32), n), np.zeros(n, int), np.zeros(n, bool)
    for number, rival in enumerate(rivals.T):
        at, path_left = np.array(images, np.float32), left.copy()
        for done in range(0, len(STEP_SIZES), SEGMENT):
            which = np.flatnonzero(~path_left)
            if not len(which):
                break
            sizes = np.asarray(STEP_SIZES[done : done + SEGMENT], np.float32)
            found = over_images(path, (sizes, classifier, purifier), images, labels, keys, budgets, rival, at,
                                which=which, size=size, name="short attack")
            if number == done == 0:
                first, clean = found, found.margins[:, 0]
                reached = np.tile(clean[:, None, None], (1, rivals.shape[1], len(STEP_SIZES) + 1))
            reached[which, number, done : done + SEGMENT + 1] = found.margins
            at[which] = found.last
            gradients[which] += SEGMENT
            left[which] = found.margins.max(1) >= 0
            path_left |= left
            if done + SEGMENT >= len(STEP_SIZES) // 2:
                path_left |= _out_of_reach(reached[:, number, : done + SEGMENT + 1])
        left |= extrapolated_margin(reached).max(1) < REACH * clean
    return ShortAttack(reached, gradients, first.promised, first.gained)


def extrapolated_margin(margins: Float[np.ndarray | Array, "*images visited"]) -> np.ndarray:
    """Where a full attack along a path is predicted to end: what the second half gained is gained again (ours).

    Of the path's best margin so far, m_0..m_K, this is m_K + (m_K - m_{K/2}): the limit of a geometric approach that
    halves what is left every K/2 steps. An image withstands where it is < 0 for every path, and the clean margin is.
    Steps that were not taken, of a path that was left as out of reach, count as if they gained nothing.

    >>> extrapolated_margin(np.array([-4.0, -3.0, -2.0, -1.75, -1.5])).tolist()
    -1.0
    """
    best = np.maximum.accumulate(np.asarray(margins), axis=-1)
    half = (best.shape[-1] - 1) // 2
    return np.asarray(2 * best[..., -1] - best[..., half])


class Prediction(NamedTuple):
    """What our predictor says of each image.

    withstands: [n]. gradients: [n], spent through the purifier.
    """

    withstands: Bool[np.ndarray, "n"]
    gradients: Int[np.ndarray, "n"]


def predict_images(
    classifier: Classifier, purifier: Purifier, images, labels, keys, eps, *, draws: int = 16, size: int | None = None
) -> Prediction:
    """Which images "classifier after purifier" withstands eps at, by the short attack, extrapolated (ours).

    `short_attack` towards the `likely_rivals` at each image's anchor, which are looked for within the budget that its
    own compression rate leaves, read by `extrapolated_margin`; an image that is wrong as it is withstands nothing.

    images: [n, height, width, channel] in [0, 1]; labels, keys: [n]. eps: one number or one an image.
    draws: of the compression rate. size: images in one compiled call.

    >>> import purimetry as pm
    >>> images = np.array([[0.9, 0.1], [0.55, 0.45]], np.float32).reshape(2, 2, 1, 1)
    >>> classifier, xi = lambda x: 4 * x.reshape(-1), pm.configurations(0, np.arange(2))
    >>> predict_images(classifier, pm.identity, images, np.array([0, 0]), xi, 0.1).withstands.tolist()
    [True, False]
    """
    images = check_images(images)
    labels = check_labels(labels, len(images), check_classifier(classifier, images[:2]))
    rate = rate_images(purifier, images, keys, eps, draws=draws).l2.mean
    anchors = purify(purifier, images, keys)
    rivals = over_images(likely_rivals, (classifier,), anchors, labels, np.asarray(rate * eps, np.float32))
    found = short_attack(classifier, purifier, images, labels, keys, eps, rivals, size)
    clean = found.margins[:, 0, 0] < 0
    return Prediction(clean & (extrapolated_margin(found.margins).max(1) < 0), found.gradients)


def _out_of_reach(margins):
    """Whether PACE times what the last segment gained would not break an image."""
    before, best = (margins[..., :visited].max(-1) for visited in (-SEGMENT, None))
    return best + PACE * (best - before) < 0


class Sigmoid(NamedTuple):
    """accuracy = plateau / (1 + exp((rate - center) / width)); intercept is its value at rate 0 (Fig. 3a)."""

    plateau: float
    center: float
    width: float

    def __call__(self, rate):
        """The accuracy at one or many rates."""
        return self.plateau / (1 + np.exp(np.clip((rate - self.center) / self.width, -50, 50)))

    @property
    def intercept(self) -> float:
        """The accuracy that the curve extrapolates to at complete compression."""
        return float(self(0.0))


def fit_sigmoid(rates: Float[np.ndarray, "cells"], accuracies: Float[np.ndarray, "cells"]) -> Sigmoid:
    """Least-squares sigmoid of robust accuracy (%) against compression rate over at least 4 cells."""
    from scipy.optimize import least_squares

    rates, accuracies = np.asarray(rates, np.float64), np.asarray(accuracies, np.float64)
    if rates.shape != accuracies.shape or len(rates) < 4:
        raise ValueError(f"a sigmoid needs at least 4 cells, got {len(rates)} rates and {len(accuracies)} accuracies")

    def residuals(p):
        return Sigmoid(*p)(rates) - accuracies

    start = [max(accuracies.max(), 1.0), float(np.median(rates)), 0.1]
    fit = least_squares(residuals, start, bounds=([0, -1, 1e-3], [100, 3, 3]))
    return Sigmoid(*(float(p) for p in fit.x))
