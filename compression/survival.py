"""Minimum perturbations of a classifier and their survival curve (compression_paper Sec. 5.2, App. B)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from .attacks.iterative import Iterative
from .attacks.search import attack_images
from .batches import over_images
from .purifiers.identity import identity
from .types import Classifier


class MinimumPerturbations(NamedTuple):
    """Smallest l_inf budgets that break each image.

    distance: [n]; 0 where the image is misclassified as it is; the search's limit where it was never broken.
    censored: [n]; never broken up to the limit, so the true distance lies beyond it.
    rival: [n]; the class at the smallest perturbation found, -1 where there is none.
    """

    distance: Float[np.ndarray, "n"]
    censored: Bool[np.ndarray, "n"]
    rival: Int[np.ndarray, "n"]


def minimum_perturbations(
    attack: Callable[..., Iterative],
    classifier: Classifier,
    images,
    labels,
    *,
    eps_max: float = 0.5,
    halvings: int = 9,
    on_step: Callable[[float], None] = lambda done: None,
) -> MinimumPerturbations:
    """Bisect the budget of every image at once, each its own, with an attack of the bare classifier inside.

    attack: constructor of an `Iterative` from eps, run at full strength for every budget tried.
    eps_max: limit of the search in pixel units. The result is resolved to eps_max / 2^halvings, and better
        where an attack stays inside its budget: the distance it really used is the new upper end.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    n = len(images)
    keys = jax.random.split(jax.random.key(0), n)
    low, high = np.zeros(n, np.float32), np.full(n, eps_max, np.float32)
    censored, adversaries = np.zeros(n, bool), images.copy()
    for step in range(halvings + 1):
        tried = high if step == 0 else (low + high) / 2
        tried = np.maximum(tried, 1e-6)  # an image that is misclassified as it is stays at 0, and a budget is positive
        result = attack_images(attack, classifier, identity, images, labels, keys, tried)
        broken = result.broken_at >= 0
        used = np.abs(result.x - images).reshape(n, -1).max(1)
        if step == 0:
            censored = ~broken
        adversaries[broken] = result.x[broken]
        high = np.where(broken, np.minimum(high, used), high)
        low = np.where(broken, np.minimum(low, high), tried)
        on_step((step + 1) / (halvings + 1))
    reached = over_images(_predicted, (classifier,), adversaries)
    return MinimumPerturbations(high, censored, np.where(censored, -1, reached))


def _predicted(classifier, x):
    return jnp.argmax(classifier(x))


class Survival(NamedTuple):
    """A survival curve S(eps) = P(minimum perturbation > eps), right-continuous steps.

    at: [k] where it falls, ascending. value: [k] from there on; S is 1 before at[0].
    lower, upper: [k] pointwise 95 % band.
    """

    at: Float[np.ndarray, "k"]
    value: Float[np.ndarray, "k"]
    lower: Float[np.ndarray, "k"]
    upper: Float[np.ndarray, "k"]

    def __call__(self, eps):
        """S at one or many budgets."""
        return np.concatenate([[1.0], self.value])[np.searchsorted(self.at, eps, side="right")]

    @property
    def clean(self) -> float:
        """S(0): the accuracy at the unperturbed points, one minus the zero-inflated mass."""
        return float(self(0.0))


def kaplan_meier(distance, censored, z: float = 1.959964) -> Survival:
    """Kaplan-Meier survival curve of right-censored minimum perturbations, with Greenwood's log-log band.

    distance: [n] >= 0; censored: [n], True where the event lies beyond `distance`.
    z: normal quantile of the band.

    >>> curve = kaplan_meier(np.array([0.0, 0.1, 0.2, 0.5]), np.array([False, False, False, True]))
    >>> curve.clean, float(curve(0.15)), float(curve(0.4))
    (0.75, 0.5, 0.25)
    """
    distance, censored = np.asarray(distance, np.float64), np.asarray(censored, bool)
    if distance.ndim != 1 or distance.shape != censored.shape or len(distance) == 0:
        raise ValueError(f"expected two vectors of one length >= 1, got shapes {distance.shape}, {censored.shape}")
    at = np.unique(distance[~censored])
    at_risk = (distance[None] >= at[:, None]).sum(1)
    events = ((distance[None] == at[:, None]) & ~censored[None]).sum(1)
    value = np.cumprod(1 - events / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(np.cumsum(events / (at_risk * (at_risk - events)))) / np.log(value)
        lower, upper = value ** np.exp(-z * spread), value ** np.exp(z * spread)
    inside = (value > 0) & (value < 1)
    return Survival(at, value, np.where(inside, lower, value), np.where(inside, upper, value))


class ZeroInflatedGaussian(NamedTuple):
    """Point mass `zero` at 0 and a Gaussian for the rest (Fig. 3b); se: standard errors of the three."""

    zero: float
    mean: float
    std: float
    se: tuple[float, float, float]


FEWEST = 3
"""Uncensored positive distances that a Gaussian is fitted to, at least."""


def fit_zero_inflated_gaussian(distance, censored) -> ZeroInflatedGaussian:
    """Maximum-likelihood fit: the mass at 0 by counting, the Gaussian with right-censored terms.

    The Gaussian is not truncated at 0, as in the paper. Needs FEWEST uncensored positive distances.
    """
    from scipy.optimize import minimize
    from scipy.special import log_ndtr

    distance, censored = np.asarray(distance, np.float64), np.asarray(censored, bool)
    n, positive = len(distance), distance > 0
    seen, beyond = distance[positive & ~censored], distance[positive & censored]
    if len(seen) < FEWEST:
        raise ValueError(f"a Gaussian needs at least {FEWEST} uncensored positive distances, got {len(seen)}; use more "
                         "images")
    center, unit = seen.mean(), seen.std() + 1e-12

    def negative_log_likelihood(parameters):
        """In units of the distances' own spread, so that small budgets are fitted like large ones."""
        mean, log_std = parameters
        deviation = lambda values: np.exp(-log_std) * ((values - center) / unit - mean)
        return (0.5 * deviation(seen) ** 2 + log_std).sum() - log_ndtr(-deviation(beyond)).sum()

    found = minimize(negative_log_likelihood, np.zeros(2), method="BFGS").x
    covariance = np.linalg.inv(_hessian(negative_log_likelihood, found))
    mean, std = center + unit * found[0], unit * np.exp(found[1])
    zero = 1 - positive.mean()
    se = np.sqrt(zero * (1 - zero) / n), unit * np.sqrt(covariance[0, 0]), std * np.sqrt(covariance[1, 1])
    return ZeroInflatedGaussian(float(zero), float(mean), float(std), tuple(float(s) for s in se))


def _hessian(function, x: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """By central differences; of numbers of order 1 their error is about step^2."""
    e = step * np.eye(len(x))
    second = lambda a, b: (function(x + a + b) - function(x + a - b) - function(x - a + b) + function(x - a - b)) / 4
    return np.array([[second(a, b) for b in e] for a in e]) / step**2
