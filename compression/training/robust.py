"""Adversarial training: losses of one image whose adversary is found anew at every step, for `training.loop.fit`.

The weights' moving average that `fit` returns is the weight averaging of both methods.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..attacks import linf
from ..callables import as_pytree
from ..losses import cross_entropy
from ..types import Classifier, Image, Key, Label, Logits, Scalar
from .loop import ImageLoss
from .losses import shifted

VERSION = 1
"""Raise it when a change makes the same recipe train another network."""

Augment = Callable[[Image, Key], Image]


def ascended(
    objective: Callable[[Image], Scalar], x: Image, start: Image, eps: float, steps: int, step_size: float
) -> Image:
    """The last iterate of PGD in the l_inf ball around x, as training uses it: nothing is judged on the way.

    step_size: relative to eps.
    """

    def step(iterate, _):
        moved = iterate + step_size * eps * linf.steepest(jax.grad(objective)(iterate))
        return linf.project(moved, x, eps), None

    return jax.lax.scan(step, start, length=steps)[0]


def adversarial(eps: float, *, steps: int = 10, step_size: float = 0.25, augment: Augment = shifted) -> ImageLoss:
    """PGD adversarial training (Madry et al. 2017): cross-entropy at the adversary that PGD finds for it.

    eps: l_inf budget in pixel units. steps, step_size: of PGD from a uniform start; sizes are relative to eps.

    >>> import jax
    >>> loss = adversarial(0.1, augment=lambda x, key: x)
    >>> network = lambda x: jnp.stack([0.0, 9 * (x.mean() - 0.5)])
    >>> x, label = jnp.full((2, 2, 1), 0.25), jnp.int32(0)
    >>> round(float(loss(network, x, label, jax.random.key(0)) - cross_entropy(network(x + 0.1), label)), 6)
    0.0
    """
    _check(eps, steps)

    def loss(network: Classifier, x: Image, label: Label, key: Key) -> Scalar:
        key_augment, key_start = jax.random.split(key)
        x = augment(x, key_augment)
        frozen, start = _frozen(network), linf.uniform_start(x, eps, key_start)
        adversary = ascended(lambda iterate: cross_entropy(frozen(iterate), label), x, start, eps, steps, step_size)
        return cross_entropy(network(adversary), label)

    return loss


def trades(
    eps: float, *, beta: float = 6.0, steps: int = 10, step_size: float = 0.25, augment: Augment = shifted
) -> ImageLoss:
    """TRADES (Zhang et al. 2019): cross-entropy at the image plus beta times how far its adversary moves the softmax.

    beta: weight of robustness; 6 is the method's own, the DRA document takes 5. eps, steps, step_size: of PGD on the
    divergence, from a normal start of standard deviation 0.001.
    """
    _check(eps, steps)

    def loss(network: Classifier, x: Image, label: Label, key: Key) -> Scalar:
        key_augment, key_start = jax.random.split(key)
        x = augment(x, key_augment)
        frozen, start = _frozen(network), jnp.clip(x + 1e-3 * jax.random.normal(key_start, x.shape), 0, 1)
        still = frozen(x)
        adversary = ascended(lambda iterate: divergence(still, frozen(iterate)), x, start, eps, steps, step_size)
        clean = network(x)
        return cross_entropy(clean, label) + beta * divergence(clean, network(adversary))

    return loss


def divergence(clean: Logits, attacked: Logits) -> Float[Array, ""]:
    """Kullback-Leibler divergence of the softmax of `attacked` from that of `clean`, in nats.

    >>> float(divergence(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0])))
    0.0
    """
    before, after = jax.nn.log_softmax(clean), jax.nn.log_softmax(attacked)
    return jnp.sum(jnp.exp(before) * (before - after))


def _frozen(network: Classifier) -> Classifier:
    """The network as a constant, so that no derivative of its weights is carried through the adversary's steps."""
    return jax.lax.stop_gradient(as_pytree(network))


def _check(eps: float, steps: int) -> None:
    if not 0 < eps <= 1:
        raise ValueError(f"eps is a budget in pixel units in (0, 1], got {eps}; 8/255 is 0.0314")
    if steps < 1:
        raise ValueError(f"an adversary needs at least 1 step, got {steps}; raise steps")
