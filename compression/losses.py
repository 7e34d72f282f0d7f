"""What an attack ascends: the views of a defended classifier that attacks are given."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .types import Classifier, Image, Key, Label, Logits, Loss, Objective, Purifier, Scalar

Criterion = Callable[[Logits, Label], Scalar]

View = Callable[[Classifier, Purifier, Label, Criterion], Loss]
"""How an attack sees "classifier after purifier": `defended`, or what `gradients` composes from it."""


def cross_entropy(logits: Logits, label: Label) -> Scalar:
    """-log p(label). Its gradient vanishes in float32 where p(label) rounds to 1.

    >>> round(float(cross_entropy(jnp.zeros(10), jnp.int32(0))), 3)
    2.303
    """
    return jax.nn.logsumexp(logits) - logits[label]


def margins(logits: Logits, label: Label) -> Logits:
    """Each class's logit minus the true one's, -inf for the true class itself.

    >>> margins(jnp.array([3.0, 1.0, 2.0]), jnp.int32(0)).tolist()
    [-inf, -2.0, -1.0]
    """
    return jnp.where(jnp.arange(logits.shape[0]) == label, -jnp.inf, logits - logits[label])


def margin(logits: Logits, label: Label) -> Scalar:
    """Largest wrong logit minus the true one (Carlini and Wagner 2017); >= 0 is misclassified.

    >>> float(margin(jnp.array([3.0, 1.0, 2.0]), jnp.int32(0)))
    -1.0
    """
    return margins(logits, label).max()


def log_odds(logits: Logits, label: Label) -> Scalar:
    """log((1 - p) / p) of p = p(label): cross-entropy's ascent, without its saturation.

    Cross-entropy is softplus of it, so both have the same directions of steepest ascent and order inputs alike, but
    this one's gradient vanishes nowhere.

    >>> round(float(log_odds(jnp.array([100.0, 0.0, 0.0]), jnp.int32(0))), 3)
    -99.307
    """
    return jax.nn.logsumexp(margins(logits, label))


def dlr(logits: Logits, label: Label) -> Scalar:
    """Difference of logits ratio (Croce and Hein 2020, Eq. 6): the margin over the gap of first and third logit.

    Invariant under shifting and scaling of the logits. At least 3 classes.

    >>> round(float(dlr(jnp.array([3.0, 1.0, 2.0]), jnp.int32(0))), 3)
    -0.5
    """
    _enough("the DLR loss", logits, 3)
    first, _, third = jax.lax.top_k(logits, 3)[0]
    return margin(logits, label) / (first - third + 1e-12)


def targeted_dlr(objective: Objective, rival: Int[Array, ""]) -> Scalar:
    """Targeted difference of logits ratio (Croce and Hein 2020, Eq. 7), as an attack's ascent towards a rival class.

    It is the rival's margin over the gap of the first logit and the mean of third and fourth. Margins determine it.
    At least 4 classes.
    """
    _enough("the targeted DLR loss", objective.margins, 4)
    shifted = jnp.where(jnp.isneginf(objective.margins), 0, objective.margins)  # the true class's own is 0
    first, _, third, fourth = jax.lax.top_k(shifted, 4)[0]
    return objective.margins[rival] / (first - (third + fourth) / 2 + 1e-12)


def _enough(name: str, logits: Logits, classes: int) -> None:
    if len(logits) < classes:
        raise ValueError(f"{name} needs at least {classes} classes, got {len(logits)}; use the margin")


def defended(classifier: Classifier, purifier: Purifier, label: Label, criterion: Criterion = margin) -> Loss:
    """The loss of "classifier after purifier" at one label, with the full gradient through both (Eq. 2).

    >>> import purimetry as pm
    >>> loss = defended(lambda x: x.reshape(-1), pm.identity, jnp.int32(0))
    >>> float(loss(jnp.array([0.75, 0.25]).reshape(1, 2, 1), jax.random.key(0)).margin)
    -0.5
    """

    def loss(x: Image, key: Key) -> Objective:
        logits = classifier(purifier(x, key))
        return Objective(criterion(logits, label), margins(logits, label))

    return loss
