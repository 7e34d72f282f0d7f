"""What an attack ascends: the views of a defended classifier that attacks are given."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

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
