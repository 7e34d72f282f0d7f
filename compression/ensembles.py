"""Defences that pool many draws of their randomness into one decision, as functions that an attack differentiates."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .batches import over_draws
from .losses import Criterion, margin, margins
from .randomness import redraws
from .types import Classifier, Image, Key, Label, Logits, Loss, Objective, Purifier

Combine = Callable[[Float[Array, "draws classes"]], Logits]
"""The logits of all draws to those of the ensemble."""


def mean_of_softmax(logits: Float[Array, "draws classes"]) -> Logits:
    """Logarithms of the mean probabilities (alp Eq. 3), which are logits of the ensemble.

    >>> import numpy as np
    >>> np.exp(jax.jit(mean_of_softmax)(np.log([[0.5, 0.5], [1.0, 1e-9]]))).round(2).tolist()
    [0.75, 0.25]
    """
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), 0) - jnp.log(len(logits))


def mean_of_logits(logits: Float[Array, "draws classes"]) -> Logits:
    """The mean logits, which a single confident draw can outweigh."""
    return logits.mean(0)


def majority_vote(logits: Float[Array, "draws classes"]) -> Logits:
    """Votes by class, with the gradient of the expected votes if draws voted by their probabilities.

    A tie has margin 0, which counts as misclassified.

    >>> jax.jit(majority_vote)(jnp.array([[3.0, 1.0], [2.0, 0.0], [0.0, 9.0]])).tolist()
    [2.0, 1.0]
    """
    expected = jax.nn.softmax(logits).sum(0)
    votes = jax.nn.one_hot(logits.argmax(1), logits.shape[1], dtype=logits.dtype).sum(0)
    return jax.lax.stop_gradient(votes) + (expected - jax.lax.stop_gradient(expected))


def ensemble_classifier(
    classifier: Classifier, purifier: Purifier, draws: int, combine: Combine = mean_of_softmax
) -> Callable[[Image, Key], Logits]:
    """The logits of "classifier after purifier" over `draws` >= 1 configurations that its key determines.

    >>> import purimetry as pm
    >>> noisy = lambda x, key: x + jax.random.normal(key, x.shape)
    >>> decide = jax.jit(ensemble_classifier(lambda x: 9 * x.reshape(-1), noisy, 1000))
    >>> int(decide(jnp.array([[[0.75], [0.25]]]), pm.configuration(0, 0)).argmax())
    0
    """
    if draws < 1:
        raise ValueError(f"an ensemble needs at least 1 draw, got {draws}; raise draws")

    def decide(x: Image, key: Key) -> Logits:
        return combine(over_draws(lambda xi: classifier(purifier(x, xi)), redraws(key, draws), x))

    return decide


class Pooled(NamedTuple):
    """The view of a defence that is an ensemble of its own draws: what it is attacked and judged by.

    With a held key its draws are fixed and the attack ascends through all of them; equal ones share programs.

    >>> import numpy as np, purimetry as pm
    >>> images, keys = np.array([0.75, 0.5], np.float32).reshape(1, 1, 2, 1), pm.configurations(0, np.arange(1))
    >>> noisy = lambda x, key: x + 0.1 * jax.random.normal(key, x.shape)
    >>> attacked = pm.attack_images(pm.pgd, lambda x: 9 * x.reshape(-1), noisy, images, np.array([0]), keys, 0.2,
    ...                             view=Pooled(20))
    >>> attacked.broken_at.item() > 0
    True
    """

    draws: int
    combine: Combine = mean_of_softmax

    def __call__(
        self, classifier: Classifier, purifier: Purifier, label: Label, criterion: Criterion = margin
    ) -> Loss:
        decide = ensemble_classifier(classifier, purifier, self.draws, self.combine)

        def loss(x: Image, key: Key) -> Objective:
            logits = decide(x, key)
            return Objective(criterion(logits, label), margins(logits, label))

        return loss
