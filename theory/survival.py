"""From compression to robustness: survival curves, and minimum perturbations behind an affine purifier.

(compression_paper Sec. 5.2, 5.3, App. B.) The paper's prediction S(CR eps) says that a budget eps at the input is one
of CR eps at the anchor. For a linear classifier behind an affine purifier this is exact with the rate along the
direction that matters, ||J^T g|| / ||g|| in the dual norm, g the gradient of the margin.

Of any other pair it is the first order; it is a lower bound where ||J^T g|| is the largest within that distance.

Distances here are over all of R^d: they are those of images as long as the box [0, 1] does not bind.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float
from scipy.special import expit, ndtr

Vectors = Float[np.ndarray | Array, "*rivals d"]


def survival(eps, zero: float, mean: float, std: float):
    """S(eps) = P(minimum perturbation > eps) of a zero-inflated Gaussian (Fig. 3b): (1 - zero) Phi((mean - eps) / std).

    eps: budgets >= 0, of any shape. zero: the mass at 0, misclassified as it is. mean, std: of the rest, not truncated
    at 0 as in the paper, so that S(0) is (1 - zero) Phi(mean / std), a little less than the clean accuracy 1 - zero.

    >>> survival(np.array([0.0, 0.01, 1.0]), 0.05, 0.01, 0.002).round(3).tolist()
    [0.95, 0.475, 0.0]
    """
    return (1 - zero) * ndtr((mean - np.asarray(eps)) / std)


def robust_accuracy(rate, eps, zero: float, mean: float, std: float):
    """S(CR eps): robust accuracy against the compression rate, Fig. 3a's curve; at rate 0 the clean accuracy.

    >>> robust_accuracy(np.array([0.0, 0.25]), 0.04, 0.05, 0.01, 0.002).round(3).tolist()
    [0.95, 0.475]
    """
    return survival(np.asarray(rate) * eps, zero, mean, std)


class Logistic(NamedTuple):
    """rate -> plateau / (1 + exp((rate - center) / width)), as Fig. 3a is fitted."""

    plateau: float
    center: float
    width: float

    def __call__(self, rate):
        """Robust accuracy at one or many rates; at 0 the accuracy that the curve extrapolates to."""
        return self.plateau * expit((self.center - np.asarray(rate)) / self.width)


def logistic(eps: float, zero: float, mean: float, std: float) -> Logistic:
    """The sigmoid in the rate that a zero-inflated Gaussian implies at a budget (Sec. 5.2).

    It has the value and the slope of `robust_accuracy` at its midpoint, center = mean / eps, and its limit 1 - zero
    for rates far below: width = std sqrt(2 pi) / (4 eps). Elsewhere the two differ by at most 0.018 (1 - zero), most
    at 1.7 std from the mean, as the logistic has the heavier tails. So its value at rate 0 is a little below the
    clean accuracy, for mean / std = 4 by 0.002 (1 - zero).

    >>> logistic(0.04, 0.05, 0.01, 0.002).center
    0.25
    """
    return Logistic(1 - zero, mean / eps, std * np.sqrt(2 * np.pi) / (4 * eps))


def dual_norm(vectors: Vectors, order: int | float):
    """Norm of gradients [..., d] dual to perturbations in l_order, by Hoelder: l_1 for l_inf, l_2 for l_2.

    >>> float(dual_norm(np.array([3.0, -4.0]), np.inf)), float(dual_norm(np.array([3.0, -4.0]), 2))
    (7.0, 5.0)
    """
    if not order >= 1:
        raise ValueError(f"a norm has order >= 1, got {order}; 2 or numpy.inf")
    dual = 1 / (1 - 1 / order) if order > 1 else np.inf
    return np.linalg.norm(np.asarray(vectors, np.float64), dual, axis=-1)


def first_order_distance(margin, gradient: Vectors, order: int | float):
    """|margin| / ||gradient||_dual: the minimum perturbation of a linear function, to first order of any other.

    margin: logit of a rival minus the true one, [...]; 0 where it is >= 0. gradient: its gradient, [..., d].

    Infinite where the gradient vanishes.

    >>> float(first_order_distance(-1.75, np.array([3.0, -4.0]), np.inf))
    0.25
    """
    return _quotient(np.maximum(-np.asarray(margin), 0), dual_norm(gradient, order))


def directional_rate(gradient: Vectors, pulled: Vectors, order: int | float):
    """CR_adv = ||J^T g||_dual / ||g||_dual, the rate at which a budget at the input becomes one at the anchor.

    gradient: g at the anchor, [..., d]. pulled: J^T g, [..., d], one vector-Jacobian product each.

    In l_2, if g has no preferred direction, E CR_adv^2 = ||J||_F^2 / d: the rms rate over isotropic perturbations.
    The prediction S(CR eps) holds in so far as classifiers' gradients are like that.

    >>> float(directional_rate(np.array([1.0, 1.0]), np.array([0.5, 0.0]), np.inf))
    0.25
    """
    return dual_norm(pulled, order) / dual_norm(gradient, order)


class ComposedDistance(NamedTuple):
    """Minimum perturbation of "classifier after purifier", and what is known of it from the anchor.

    exact: min over rivals of their anchor distance / their rate. Exact for a linear classifier behind an affine
        purifier, otherwise of both linearised at the anchor and the input.
    lower: the anchor's own distance / the largest rate of any rival.
    upper: the anchor's own distance / the rate of its nearest rival, which is what `rates.adversarial_rate` measures
        in l_inf (it takes the rival with the largest margin, nearest when gradients are of equal norm).

    exact = upper if the nearest rival at the anchor is still the nearest at the input, and lower = exact if that
    rival also has the largest rate; with two classes all three are one.
    """

    lower: Float[np.ndarray, "..."]
    exact: Float[np.ndarray, "..."]
    upper: Float[np.ndarray, "..."]


def composed_distance(
    margins: Float[np.ndarray | Array, "*images rivals"], gradients: Vectors, pulled: Vectors, order: int | float
) -> ComposedDistance:
    """d = |m| / ||J^T g||_dual = d_anchor / CR_adv for each rival, and its minimum (Eq. 8 to first order).

    margins: at the anchor, of every rival class, [..., rivals]. gradients: theirs, [..., rivals, d].
    pulled: J^T of each, [..., rivals, d]. order: of the perturbation's norm, inf or 2.

    >>> halved = composed_distance(np.array([-1.0]), np.array([[1.0, 1.0]]), np.array([[0.5, 0.5]]), np.inf)
    >>> float(halved.lower), float(halved.exact), float(halved.upper)  # half of the rate, twice the distance
    (1.0, 1.0, 1.0)
    """
    anchor = first_order_distance(margins, gradients, order)
    with np.errstate(invalid="ignore"):
        rates = np.where(np.isinf(anchor), 0, directional_rate(gradients, pulled, order))  # no budget leads there
    nearest = anchor.argmin(-1, keepdims=True)
    own, its_rate = (np.take_along_axis(values, nearest, -1)[..., 0] for values in (anchor, rates))
    return ComposedDistance(
        _quotient(own, rates.max(-1)), _quotient(anchor, rates).min(-1), _quotient(own, its_rate)
    )


def _quotient(distance, by):
    """0 where the distance is, also by 0: what is misclassified needs no perturbation, however much it is shrunk."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / by)


class Rivals(NamedTuple):
    """Margins [classes - 1] of a linear classifier at one point against its label, and their gradients [.., d]."""

    margins: Float[np.ndarray, "rivals"]
    gradients: Float[np.ndarray, "rivals d"]


def linear_rivals(weights: np.ndarray | Array, bias: np.ndarray | Array, x: np.ndarray | Array, label: int) -> Rivals:
    """What the classifier x -> weights x + bias has against `label` at x; weights [classes, d], x any shape of size d.

    Raises ValueError for other shapes.

    >>> linear_rivals(np.eye(2), np.zeros(2), np.array([1.0, 0.25]), 0).margins.tolist()
    [-0.75]
    """
    weights, bias, x = (np.asarray(value, np.float64) for value in (weights, bias, x))
    if weights.ndim != 2 or bias.shape != weights.shape[:1] or x.size != weights.shape[1]:
        raise ValueError(f"expected weights [classes, d], bias [classes], x of size d, got shapes "
                         f"{weights.shape}, {bias.shape}, {x.shape}")
    logits = weights @ x.ravel() + bias
    others = np.arange(len(bias)) != label
    return Rivals((logits - logits[label])[others], (weights - weights[label])[others])


def linear_distance(
    weights: np.ndarray | Array, bias: np.ndarray | Array, x: np.ndarray | Array, label: int, order: int | float
) -> float:
    """Exact minimum perturbation in l_order of a linear classifier: the nearest of its boundaries, 0 if misclassified.

    >>> linear_distance(np.eye(2), np.zeros(2), np.array([1.0, 0.25]), 0, np.inf)
    0.375
    """
    return float(first_order_distance(*linear_rivals(weights, bias, x, label), order).min())
