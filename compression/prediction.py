"""Robust accuracy predicted from compression, without the attack (compression_paper Sec. 5.3), and our own predictors.

Each predictor says per image whether "classifier after f_xi" withstands a budget eps, or, for the paper's two,
what fraction of images does. They are listed from the cheapest to the dearest.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .attacks import linf
from .losses import defended, margin
from .survival import Survival
from .types import Budget, Classifier, Image, Key, Label, Purifier, Scalar

STEP_SIZES = (1.0, 1.0, 0.5, 0.25)
"""Steps of the short attack relative to eps: to a corner of the budget, then across it and back."""


def by_survival(curve: Survival, rates: Float[np.ndarray, "n"], eps: Budget) -> float:
    """The paper's prediction S(CR eps): CR the mean rate, S the bare classifier's survival curve (Table 3)."""
    return float(curve(np.mean(rates) * eps))


def image_wise(distance: Float[np.ndarray, "n"], rates: Float[np.ndarray, "n"], eps: Budget) -> Bool[np.ndarray, "n"]:
    """Image i withstands eps if d_i > rate_i eps, d_i the minimum perturbation at its own anchor.

    With `rates.adversarial_rate` in place of the expected rate, the direction that matters is compared.

    >>> image_wise(np.array([0.1, 0.0]), np.array([0.5, 0.5]), 0.15).tolist()
    [True, False]
    """
    return np.asarray(distance) > np.asarray(rates) * eps


def first_order_margin(
    classifier: Classifier, purifier: Purifier, x: Image, label: Label, key: Key, eps: Budget
) -> Scalar:
    """The largest margin within eps and [0, 1] of the defence linearised at x: one gradient; < 0 withstands."""
    value, gradient = jax.value_and_grad(lambda x: margin(classifier(purifier(x, key)), label))(x)
    return value + linear_gain(gradient, x, x, eps)


def linear_gain(gradient: Image, at: Image, x: Image, eps: Budget) -> Scalar:
    """How much a linear function with this gradient can still rise from `at`, within eps of x and [0, 1]."""
    best = linf.project(x + 2 * eps * jnp.sign(gradient), x, eps)
    return jnp.sum(gradient * (best - at))


def nearest_rivals(classifier: Classifier, x: Image, label: Label) -> Int[Array, "classes"]:
    """Classes by first-order l_inf distance of their decision boundary from x, nearest first, the label last."""
    to_true = lambda x: classifier(x)[label] - classifier(x)
    gap, slopes = to_true(x), jax.jacrev(to_true)(x)
    distance = gap / jnp.maximum(jnp.abs(slopes).sum((1, 2, 3)), jnp.finfo(x.dtype).tiny)
    return jnp.argsort(jnp.where(jnp.arange(gap.shape[0]) == label, jnp.inf, distance))


class ShortAttack(NamedTuple):
    """A few targeted gradient steps: what they reached, and what linearity promised.

    margins: [rivals, steps + 1], the margin (over all classes) at each visited input, the clean one first.
    promised: [rivals], gain of the rival's margin at the first corner if the defence were linear.
    gained: [rivals], gain that the first corner really gave.
    """

    margins: Float[Array, "rivals visited"]
    promised: Float[Array, "rivals"]
    gained: Float[Array, "rivals"]


def short_attack(
    classifier: Classifier, purifier: Purifier, x: Image, label: Label, key: Key, eps: Budget,
    rivals: Int[Array, "rivals"], *, step_sizes: tuple[float, ...] = STEP_SIZES,
) -> ShortAttack:
    """Relinearise a few times along the path towards each of a few rival classes.

    Costs len(rivals) * len(step_sizes) gradients and one forward pass a rival.
    """
    loss = defended(classifier, purifier, label)

    def towards(rival):
        def ascent(v):
            objective = loss(v, key)
            return objective.margins[rival], objective.margin

        def step(v, size):
            (height, reached), gradient = jax.value_and_grad(ascent, has_aux=True)(v)
            moved = linf.project(v + size * eps * jnp.sign(gradient), x, eps)
            return moved, (height, reached, linear_gain(gradient, v, x, eps))

        last, (heights, reached, gains) = jax.lax.scan(step, x, jnp.asarray(step_sizes, x.dtype))
        return jnp.append(reached, ascent(last)[1]), gains[0], heights[1] - heights[0]

    return ShortAttack(*jax.vmap(towards)(rivals))


def extrapolated_margin(margins: Float[np.ndarray | Array, "*images rivals visited"]) -> np.ndarray:
    """Where a full attack is predicted to end: the short attack's second half gains as much again (ours).

    Of the best margin so far over all rivals, m_0..m_K, this is m_K + (m_K - m_{K/2}): the limit of a geometric
    approach that halves what is left every K/2 steps. The image withstands where it, and the clean margin, are < 0.

    >>> extrapolated_margin(np.array([[-4.0, -3.0, -2.0, -1.75, -1.5]])).tolist()
    -1.0
    """
    best = np.maximum.accumulate(np.asarray(margins).max(-2), axis=-1)
    half = (best.shape[-1] - 1) // 2
    return np.asarray(2 * best[..., -1] - best[..., half])


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
