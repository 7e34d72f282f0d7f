"""Minimum perturbations of a classifier and their survival curve (compression_paper Sec. 5.2, App. B)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from .attacks.iterative import Iterative
from .attacks.search import attack_images
from .batches import over_images
from .checks import check_budget, check_classifier, check_images, check_keys, check_labels
from .losses import margins
from .purifiers.identity import identity
from .randomness import configurations
from .types import Classifier


class MinimumPerturbations(NamedTuple):
    """Smallest budgets that break each image, in the attack's norm.

    distance: [n]; 0 where the image is misclassified as it is; the search's limit where it was never broken.
    censored: [n]; not broken with the limit as budget, so the true distance is taken to lie beyond it.
    rival: [n]; the other class at the smallest perturbation found, -1 where there is none.
    """

    distance: Float[np.ndarray, "n"]
    censored: Bool[np.ndarray, "n"]
    rival: Int[np.ndarray, "n"]


def minimum_perturbations(
    attack: Callable[..., Iterative],
    classifier: Classifier,
    images,
    labels,
    keys=None,
    *,
    eps_max: float = 0.5,
    halvings: int = 9,
    on_step: Callable[[float], None] = lambda done: None,
) -> MinimumPerturbations:
    """Bisect the budget of every image at once, each its own, with an attack of the bare classifier inside.

    attack: constructor of an `Iterative` from eps, run at full strength for every budget tried.
    keys: [n], each image's, for an attack that starts at random; those of seed 0 unless told.
    eps_max: limit of the search in pixel units of the attack's norm. The result is resolved to eps_max / 2^halvings,
        and better where an attack stays inside its budget: the distance it really used is the new upper end.
    Raises ValueError for a limit beyond the attack's norm, or fewer halvings than none.
    """
    images = np.asarray(check_images(images), np.float32)
    n = len(images)
    labels = check_labels(labels, n, check_classifier(classifier, images[:2]))
    keys = configurations(0, np.arange(n)) if keys is None else keys
    check_keys(keys, n)
    norm = attack(0.0).norm
    check_budget(eps_max, norm.largest(images.shape[1:]))
    if halvings < 0:
        raise ValueError(f"halvings of the search's limit are 0 or more, got {halvings}")
    low, high = np.zeros(n, np.float32), np.full(n, eps_max, np.float32)
    adversaries, which = images.copy(), np.arange(n)
    for step in range(halvings + 1):
        if len(which):
            tried = high[which] if step == 0 else (low[which] + high[which]) / 2
            tried = np.maximum(tried, 1e-6)  # an image that is misclassified as it is stays at 0, a budget is positive
            result = attack_images(attack, classifier, identity, images[which], labels[which], keys[which], tried)
            unbroken, broken = result.broken_at < 0, which[result.broken_at >= 0]
            low[which[unbroken]] = tried[unbroken]
            if len(broken):
                adversaries[broken] = result.x[~unbroken]
                used = over_images(norm.length, (), adversaries[broken] - images[broken])
                high[broken] = np.minimum(high[broken], used)
                low[broken] = np.minimum(low[broken], high[broken])
            if step == 0:
                which = broken  # what withstands the limit is censored
        on_step((step + 1) / (halvings + 1))
    rival = np.full(n, -1)
    if len(which):
        rival[which] = over_images(_rival, (classifier,), adversaries, labels, which=which)
    return MinimumPerturbations(high, ~np.isin(np.arange(n), which), rival)


def _rival(classifier, x, label):
    return jnp.argmax(margins(classifier(x), label))


class Survival(NamedTuple):
    """A survival curve S(eps) = P(minimum perturbation > eps), right-continuous steps.

    at: [k] where it falls, ascending. value: [k] from there on; S is 1 before at[0].
    lower, upper: [k] pointwise 95 % band; where S is 0, its upper end is that of the fall before, 1 if there was none.
    searched: the largest distance, of a fall or censored, beyond which nothing is known of S but that it falls.
    """

    at: Float[np.ndarray, "k"]
    value: Float[np.ndarray, "k"]
    lower: Float[np.ndarray, "k"]
    upper: Float[np.ndarray, "k"]
    searched: float

    def __call__(self, eps):
        """S at one or many budgets; its last value, an upper bound, beyond the last distance that was searched."""
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
    distance, censored = _distances(distance, censored)
    at, events = np.unique(distance[~censored], return_counts=True)
    at_risk = len(distance) - np.searchsorted(np.sort(distance), at)
    value = np.cumprod(1 - events / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(np.cumsum(events / (at_risk * (at_risk - events)))) / np.log(value)
        lower, upper = value ** np.exp(-z * spread), value ** np.exp(z * spread)
    above_zero = value > 0  # at all but the last fall at most, where Greenwood's variance is not defined
    before = np.concatenate([[1.0], upper])[: len(value)]
    return Survival(at, value, np.where(above_zero, lower, 0), np.where(above_zero, upper, before),
                    float(distance.max()))


def _distances(distance, censored):
    distance, censored = np.asarray(distance, np.float64), np.asarray(censored, bool)
    if distance.ndim != 1 or distance.shape != censored.shape or len(distance) == 0:
        raise ValueError(f"expected two vectors of one length >= 1, got shapes {distance.shape}, {censored.shape}")
    if not (distance >= 0).all():
        raise ValueError(f"distances are >= 0, got {distance[~(distance >= 0)][0]}; leave such images out")
    return distance, censored


class ZeroInflatedGaussian(NamedTuple):
    """Point mass `zero` at 0 and a Gaussian for the rest (Fig. 3b); se: standard errors of the three."""

    zero: float
    mean: float
    std: float
    se: tuple[float, float, float]


FEWEST = 3
"""Different uncensored positive distances that a Gaussian is fitted to, at least."""


def fit_zero_inflated_gaussian(distance, censored) -> ZeroInflatedGaussian:
    """Maximum-likelihood fit: the mass at 0 by counting, the Gaussian with right-censored terms.

    The Gaussian is not truncated at 0, as in the paper. Needs FEWEST different uncensored positive distances.
    """
    from scipy.optimize import minimize
    from scipy.special import log_ndtr

    distance, censored = _distances(distance, censored)
    n, positive = len(distance), distance > 0
    seen, beyond = distance[positive & ~censored], distance[positive & censored]
    if len(np.unique(seen)) < FEWEST:
        raise ValueError(f"a Gaussian needs at least {FEWEST} different uncensored positive distances, got "
                         f"{len(np.unique(seen))}; use more images")
    center, unit = seen.mean(), seen.std()

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
