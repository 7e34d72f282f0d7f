"""Compression rates: how much a purifier with fixed randomness shrinks a perturbation (compression_paper Sec. 5.1)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .batches import over_draws, over_images
from .checks import check_budget, check_image, check_images, check_keys, check_shape
from .losses import margin
from .randomness import PROBE, step_key
from .types import Budget, Classifier, Image, Key, Keys, Label, Purifier, Scalar


class Estimate(NamedTuple):
    """A Monte Carlo mean with its standard error."""

    mean: Float[Array, "..."]
    se: Float[Array, "..."]


def root(square: Estimate) -> Estimate:
    """The root of an estimate, its standard error carried over to first order; 0 of 0.

    >>> import jax.numpy as jnp
    >>> [float(part) for part in root(Estimate(jnp.float32(4), jnp.float32(1)))]
    [2.0, 0.25]
    """
    mean = jnp.sqrt(square.mean)
    return Estimate(mean, square.se / (2 * jnp.maximum(mean, jnp.finfo(mean.dtype).tiny)))


class Rates(NamedTuple):
    """Expected compression rates of an image: in l2, as in the paper, and l_inf to l_inf, the attack's norm."""

    l2: Estimate
    linf: Estimate


def compression_rate(purifier: Purifier, x: Image, perturbation: Image, key: Key, order: float = 2) -> Scalar:
    """||f_xi(x + eta) - f_xi(x)|| / ||eta|| for one perturbation eta, in the l_order norm (Eq. 9).

    >>> import jax, jax.numpy as jnp
    >>> halve = lambda x, key: x / 2
    >>> float(compression_rate(halve, jnp.ones((2, 2, 1)), jnp.full((2, 2, 1), 0.1), jax.random.key(0)).round(4))
    0.5
    """
    check_image(x)
    size = lambda v: jnp.linalg.norm(v.ravel(), order)
    return size(purifier(x + perturbation, key) - purifier(x, key)) / size(perturbation)


def uniform_perturbations(x: Image, eps: Budget, key: Key, draws: int) -> Float[Array, "draws height width channel"]:
    """Noise of the attack's size, uniform in [-eps, eps] in every pixel (App. D), apart from the purifier's own."""
    return jax.random.uniform(step_key(key, PROBE, 0), (draws, *x.shape), x.dtype, -eps, eps)


def expected_rates(purifier: Purifier, x: Image, key: Key, eps: Budget, *, draws: int = 32) -> Rates:
    """Mean compression rate over `draws` >= 2 uniform perturbations of size eps (Eq. 10 as App. D estimates it).

    x + eta may leave [0, 1] by at most eps: the rate is a local property of f_xi at x.

    >>> import jax, jax.numpy as jnp
    >>> rates = expected_rates(lambda x, key: x / 2, jnp.ones((2, 2, 1)), jax.random.key(0), 0.1)
    >>> round(float(rates.l2.mean), 4), float(rates.l2.se) < 1e-6
    (0.5, True)
    """
    check_image(x)
    if draws < 2:
        raise ValueError(f"a standard error needs at least 2 draws, got {draws}; raise draws")
    perturbations = uniform_perturbations(x, eps, key, draws)
    moved = (over_draws(lambda eta: purifier(x + eta, key), perturbations, x) - purifier(x, key)).reshape(draws, -1)
    original = perturbations.reshape(draws, -1)
    return Rates(*(_estimate(_norms(moved, order) / _norms(original, order)) for order in (2, jnp.inf)))


def rate_images(purifier: Purifier, images, keys: Keys, eps, *, draws: int = 32) -> Rates:
    """`expected_rates` of each image, with NumPy arrays [n] in place of numbers.

    images: [n, height, width, channel] in [0, 1]; keys: [n]; eps: in pixel units, one number or one an image.

    >>> import purimetry as pm
    >>> rates = rate_images(lambda x, key: x / 2, np.ones((3, 2, 2, 1)), pm.configurations(0, range(3)), eps=0.1)
    >>> rates.l2.mean.round(4).tolist()
    [0.5, 0.5, 0.5]
    """
    images = check_images(images)
    check_keys(keys, len(images))
    check_budget(eps)
    check_shape(purifier, images[0], keys[0])
    budgets = np.broadcast_to(np.asarray(eps, np.float32), len(images))
    return over_images(partial(expected_rates, draws=draws), (purifier,), images, keys, budgets, name="rate")


def adversarial_rate(classifier: Classifier, purifier: Purifier, x: Image, label: Label, key: Key) -> Scalar:
    """The rate along the direction that matters: ||J_f^T g||_1 / ||g||_1 (ours).

    g is the gradient of the classifier's margin at the anchor f_xi(x). Under an l_inf budget eps at the input,
    the margin moves by eps ||J_f^T g||_1 to first order, and by eps' ||g||_1 under a budget eps' at the anchor,
    so this ratio is the rate at which f_xi turns one budget into the other. One vector-Jacobian product.
    """
    check_image(x)
    return pulled_back(classifier, purifier, x, label, key).rate


class PulledBack(NamedTuple):
    """The margin, its gradient g at the anchor, and J_f^T g, its gradient at the image."""

    margin: Scalar
    at_anchor: Image
    at_image: Image

    @property
    def rate(self) -> Scalar:
        """||J_f^T g||_1 / ||g||_1."""
        return jnp.abs(self.at_image).sum() / jnp.abs(self.at_anchor).sum()


def pulled_back(classifier: Classifier, purifier: Purifier, x: Image, label: Label, key: Key) -> PulledBack:
    """The gradient of the margin at the anchor f_xi(x), pulled back to x: one vector-Jacobian product.

    >>> found = pulled_back(lambda x: x.ravel(), lambda x, key: x / 2, jnp.ones((1, 2, 1)), jnp.int32(0),
    ...                     jax.random.key(0))
    >>> found.at_anchor.ravel().tolist(), found.at_image.ravel().tolist()
    ([-1.0, 1.0], [-0.5, 0.5])
    """
    anchor, pull = jax.vjp(lambda x: purifier(x, key), x)
    value, gradient = jax.value_and_grad(lambda a: margin(classifier(a), label))(anchor)
    return PulledBack(value, gradient, pull(gradient)[0])


def _norms(rows, order):
    return jnp.linalg.norm(rows, order, axis=1)


def _estimate(values: Float[Array, "draws"]) -> Estimate:
    return Estimate(values.mean(), values.std(ddof=1) / values.shape[0] ** 0.5)
