"""Gradients of random purifiers, and of those without usable gradients: EOT and BPDA as compositions (App. C)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from .attacks.l2 import steepest
from .batches import over_draws
from .callables import as_pytree
from .checks import check_image
from .losses import Criterion, View, defended, margin
from .purifiers.identity import identity
from .randomness import redraws
from .types import Classifier, Image, Key, Label, Loss, Objective, Purifier, Scalar


def expectation_over_randomness(loss: Loss, draws: int) -> Loss:
    """The mean of a loss over `draws` >= 1 configurations that its key determines (EOT, Eq. 22).

    The ascent is the mean of the losses, as in Eq. 22, so its gradient is the mean gradient. The margins are means
    too, class by class, which makes them exactly the margins of the mean logits: the ensemble's, not a draw's. Their
    maximum is at most the mean of the draws' largest margins.

    >>> noisy = lambda x, key: Objective(x.sum() + jax.random.normal(key), jnp.zeros(2))
    >>> mean = expectation_over_randomness(noisy, 10_000)(jnp.ones((1, 2, 1)), jax.random.key(0))
    >>> round(float(mean.ascent), 1)
    2.0
    """
    if draws < 1:
        raise ValueError(f"an expectation needs at least 1 draw, got {draws}; raise draws")

    def mean(x: Image, key: Key) -> Objective:
        objectives = over_draws(lambda xi: loss(x, xi), redraws(key, draws), x)
        return jax.tree.map(lambda values: values.mean(0), objectives)

    return mean


def straight_through(purifier: Purifier, through: Purifier = identity) -> Purifier:
    """The same purifier, bit for bit, with the Jacobian of another one: the identity's is BPDA (Athalye et al. 2018).

    through: for example `diffusion.fewer_steps(purifier, steps)`, whose gradient costs less.

    >>> import jax, jax.numpy as jnp
    >>> halve = straight_through(lambda x, key: x / 2)
    >>> value, slope = jax.jvp(lambda x: halve(x, jax.random.key(0)), (jnp.ones((1, 1, 1)),), (jnp.ones((1, 1, 1)),))
    >>> value.item(), slope.item()
    (0.5, 1.0)
    """
    return Partial(_straight_through, as_pytree(purifier), as_pytree(through))


def _straight_through(purifier, through, x: Image, key: Key) -> Image:
    seen = through(x, key)
    hidden = purifier(jax.lax.stop_gradient(x), key)  # which may have no derivative at all
    return jax.lax.stop_gradient(hidden) + (seen - jax.lax.stop_gradient(seen))


def eot(
    classifier: Classifier, purifier: Purifier, label: Label, criterion: Criterion = margin, *, draws: int = 15,
    view: View = defended,
) -> Loss:
    """The view of an EOT attack: the expectation of another view over `draws` configurations (Table S6: 15).

    `partial(eot, view=bpda)` is BPDA-EOT. An attack that holds its key ascends the mean over one set of draws;
    `iterative.redrawn` draws a new set for every gradient. All draws of an image are purified at once, so give
    `attack_images` a smaller `size`.

    >>> import purimetry as pm
    >>> noisy = lambda x, key: x + jax.random.normal(key, x.shape)
    >>> loss = eot(lambda x: x.reshape(-1), noisy, jnp.int32(0), draws=10_000)
    >>> round(float(loss(jnp.array([0.75, 0.25]).reshape(1, 2, 1), pm.configuration(0, 0)).margin), 1)
    -0.5
    """
    return expectation_over_randomness(view(classifier, purifier, label, criterion), draws)


def bpda(
    classifier: Classifier, purifier: Purifier, label: Label, criterion: Criterion = margin, *, view: View = defended
) -> Loss:
    """The view of a BPDA attack: the true objective with the classifier's gradient at the purified image.

    >>> import purimetry as pm
    >>> loss = bpda(lambda x: x.reshape(-1), lambda x, key: jnp.round(x), jnp.int32(0))
    >>> jax.grad(lambda x: loss(x, pm.configuration(0, 0)).ascent)(jnp.full((1, 2, 1), 0.75)).ravel().tolist()
    [-1.0, 1.0]
    """
    return view(classifier, straight_through(purifier), label, criterion)


def cosine(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Scalar:
    """Cosine of the angle between two gradients or perturbations; 0 where one of them vanishes.

    >>> float(cosine(jnp.array([1.0, 0.0]), jnp.array([2.0, 0.0])))
    1.0
    """
    return jnp.vdot(steepest(a), steepest(b))


def gradient(
    classifier: Classifier, purifier: Purifier, x: Image, label: Label, key: Key, *, criterion: Criterion = margin,
    view: View = defended,
) -> Image:
    """The gradient of the criterion in the image: J^T g for the full one of f_xi, the adversarial direction.

    >>> import purimetry as pm
    >>> x = jnp.full((1, 2, 1), 0.5)
    >>> gradient(lambda x: x.reshape(-1), pm.identity, x, jnp.int32(0), pm.configuration(0, 0)).ravel().tolist()
    [-1.0, 1.0]
    """
    check_image(x)
    loss = view(classifier, purifier, label, criterion)
    return jax.grad(lambda x: loss(x, key).ascent)(x)


class Agreement(NamedTuple):
    """Cosines of the mean gradient over k configurations, for each k asked for.

    fixed: mean cosine with the gradients of other, single configurations, which an attack with xi_attack = xi_test
        would follow; at k = 1 the agreement of two configurations (Table S5).
    reference: cosine with the mean over all those others, which stands for the expectation.
    """

    fixed: Float[Array, "sizes"]
    reference: Float[Array, "sizes"]


def gradient_agreement(
    classifier: Classifier, purifier: Purifier, x: Image, label: Label, key: Key, *,
    sizes: tuple[int, ...] = (1, 2, 4, 8, 15), others: int = 64, criterion: Criterion = margin, view: View = defended,
) -> Agreement:
    """How well EOT gradients agree with those of fixed configurations and with the expectation (App. C, Table S5).

    sizes: numbers k of configurations in an EOT gradient, each using the first k of max(sizes) draws.
    others: configurations of the reference, none of which is among those draws.

    If one gradient is m + n, m its expectation and E|n|^2 = s^2, then for many dimensions fixed is about
    |m|^2 / sqrt((|m|^2 + s^2 / k) (|m|^2 + s^2)), and reference the same with s^2 / others in the second factor.
    """
    if min(sizes) < 1 or others < 1:
        raise ValueError(f"numbers of configurations must be at least 1, got sizes {sizes} and others {others}")
    at = lambda xi: gradient(classifier, purifier, x, label, xi, criterion=criterion, view=view).ravel()
    rows = jax.lax.map(at, redraws(key, max(sizes) + others))
    drawn, rest = rows[: max(sizes)], rows[max(sizes):]
    means = (jnp.cumsum(drawn, 0) / jnp.arange(1, max(sizes) + 1)[:, None])[jnp.array(sizes) - 1]
    against = jax.vmap(cosine, (None, 0))
    return Agreement(jax.vmap(lambda m: against(m, rest).mean())(means), against(rest.mean(0), means))
