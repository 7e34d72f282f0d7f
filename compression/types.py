"""The contracts of the toolkit: what an image, a key, a purifier, a classifier and an attack are."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from jaxtyping import Key as TypedKey

Image = Float[Array, "height width channel"]
"""One image, pixels in [0, 1] at every public boundary."""

Key = PRNGKeyArray
"""One typed key of `jax.random.key`; as a purifier's argument it is the randomness configuration xi."""

Keys = TypedKey[Array, "n"]
"""One key an image."""

Scalar = Float[Array, ""]
Label = Int[Array, ""]
Logits = Float[Array, "classes"]
Budget = float | np.floating | Scalar
"""eps in pixel units; may be traced, and differ by image."""


@runtime_checkable
class Purifier(Protocol):
    """Maps an image to a purified image; pure: the same (x, key) gives the same output, bit for bit."""

    def __call__(self, x: Image, key: Key) -> Image: ...


@runtime_checkable
class NoisePredictor(Protocol):
    """Predicts the noise in x_t, with x_t in the diffusion's own range [-1, 1] and t the network's time."""

    def __call__(self, x_t: Image, t: Scalar) -> Image: ...


@runtime_checkable
class Classifier(Protocol):
    """Gives logits, never probabilities, from pixels in [0, 1]; normalises inside."""

    def __call__(self, x: Image) -> Logits: ...


class Objective(NamedTuple):
    """What an attack sees of a defence at one input, all of it from one evaluation.

    ascent: what the attack increases by default (cross-entropy, margin, an expectation of either).
    margins: each class's logit minus the true one's, -inf for the true class itself; a targeted restart
        ascends one of them, and every iterate of any attack is judged by their maximum at no cost.
    """

    ascent: Scalar
    margins: Float[Array, "classes"]

    @property
    def margin(self) -> Scalar:
        """The largest margin; the input is misclassified where it is >= 0."""
        return self.margins.max()


@runtime_checkable
class Loss(Protocol):
    """The whole view an attack has of a defence, so EOT, BPDA and transfer are compositions of losses."""

    def __call__(self, x: Image, key: Key) -> Objective: ...


class AttackResult(NamedTuple):
    """The strongest input an attack found for one image.

    x: the input with the largest margin, for a minimum-norm attack the closest one, inside the budget and [0, 1].
    margin: its margin; >= 0 means that the image was broken.
    broken_at: number of the first judged input that was misclassified (0 is the clean image, -1 is none).
    gradients: gradients of the loss spent on this image.
    evaluations: evaluations of the loss spent on it, those of gradients included. Where the loss is an expectation
        over k configurations, each is k evaluations of the model.
    """

    x: Image
    margin: Scalar
    broken_at: Int[Array, ""]
    gradients: Int[Array, ""]
    evaluations: Int[Array, ""]

    @property
    def robust(self):
        """Whether the attack failed; its mean over images is the robust accuracy."""
        return self.broken_at < 0


@runtime_checkable
class Attack(Protocol):
    """Searches the budget around x for an input of large loss."""

    def __call__(self, loss: Loss, x: Image, key: Key) -> AttackResult: ...
