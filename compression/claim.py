"""A robustness number in the making, and what checks of it have in common."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .attacks.iterative import Iterative
from .attacks.pgd import converged_pgd
from .attacks.search import attack_images, judged
from .attacks.square import square
from .batches import over_images, shard_size
from .losses import Criterion, View, defended, margin
from .purifiers.identity import identity
from .randomness import PROBE, step_key
from .types import AttackResult, Classifier, Purifier

HUGE = 0.5
"""l_inf budget that lets every image become the same grey."""


def check_settings(settings: Iterable[str]) -> None:
    """Raise unless these are names of fields of `Claim` after eps."""
    names = [field.name for field in fields(Claim)]
    known = names[names.index("eps") + 1:]
    if wrong := [name for name in settings if name not in known]:
        raise TypeError(f"there is no setting {', '.join(wrong)}, expected some of {', '.join(known)}; what an attack "
                        "takes goes to its constructor, attack=partial(pm.pgd, steps=40)")


class Probe(NamedTuple):
    """What a gradient says and what comes of it.

    finite: loss and gradient are. reach: first-order gain of the whole budget. rounding: of the loss, in float32.
    promised, gained: half the difference of the losses at -eps/8 and +eps/8 along the gradient's sign, inside
    [0, 1], to first order and really.
    """

    finite: Bool[np.ndarray, "n"]
    reach: Float[np.ndarray, "n"]
    rounding: Float[np.ndarray, "n"]
    promised: Float[np.ndarray, "n"]
    gained: Float[np.ndarray, "n"]


@dataclass(frozen=True, eq=False)
class Claim:
    """A robustness number in the making: defence, images, budget, and the attack that is to measure it.

    classifier, purifier, images, labels, keys: the defence, and the images with their labels and xi.
    eps: budget in pixel units. attack: constructor of an `Iterative` from it. criterion: what it ascends.
    seen: the purifier whose gradient the attack follows; the defence's own unless told, otherwise for example
        `pm.straight_through(purifier)`.
    view: how the defence decides, and what is attacked and judged.
    gradient_free: constructor of an attack without gradients, which is expected to be the weaker one.
    clean_accuracy: the one you know the defence to have (0 to 1), from elsewhere.
    """

    classifier: Classifier
    purifier: Purifier
    images: np.ndarray
    labels: np.ndarray
    keys: jax.Array
    eps: float
    attack: Callable[..., Iterative] = converged_pgd
    criterion: Criterion = margin
    seen: Purifier | None = None
    view: View = defended
    gradient_free: Callable[..., Iterative] = partial(square, queries=300, horizon=300)
    clean_accuracy: float | None = None

    @property
    def followed(self) -> Purifier:
        """The purifier whose gradient the attack follows."""
        return self.purifier if self.seen is None else self.seen

    def margins(self, images) -> Float[np.ndarray, "n"]:
        """The defence's own margin at each image, with that image's xi; >= 0 is misclassified."""
        return self._judged(self.view, self.purifier, images)

    def _judged(self, view: View, purifier: Purifier, images) -> Float[np.ndarray, "n"]:
        return judged(view, self.classifier, purifier, images, self.labels, self.keys, self._size).max(1)

    @property
    def _size(self) -> int:
        """Images in one compiled call."""
        return min(shard_size(self.images), len(self.images))

    def attacked(self, eps: float, attack: Callable | None = None, **other) -> AttackResult:
        """Every image attacked to the last step, by the attack in question and on what it sees unless told others."""
        given = {"classifier": self.classifier, "purifier": self.followed, "images": self.images, "labels": self.labels,
                 "keys": self.keys, "criterion": self.criterion, "view": self.view} | other
        return attack_images(attack or self.attack, eps=eps, confidence=np.inf, size=self._size, **given)

    @cached_property
    def clean(self) -> Bool[np.ndarray, "n"]:
        """Whether each image is right without an attack."""
        return self.margins(self.images) < 0

    @cached_property
    def bare(self) -> Bool[np.ndarray, "n"]:
        """Whether the classifier alone is right on each image."""
        return self._judged(defended, identity, self.images) < 0

    @cached_property
    def rise(self) -> dict[float, Float[np.ndarray, "n"]]:
        """Margins of the defence by budget: without an attack, at eps and at HUGE."""
        attacked = {eps: self.margins(self.attacked(eps).x) for eps in sorted({self.eps, max(self.eps, HUGE)})}
        return {0.0: self.margins(self.images)} | attacked

    @cached_property
    def broken(self) -> Bool[np.ndarray, "n"]:
        """Whether the attack broke each image at eps."""
        return ~self.clean | (self.rise[self.eps] >= 0)

    @cached_property
    def probe(self) -> Probe:
        """Gradients and small steps along them, at a random point of each image's budget."""
        return over_images(partial(_probe, self.view, self.criterion), (self.classifier, self.followed),
                           self.images, self.labels, self.keys, np.full(len(self.images), self.eps, np.float32))


def _probe(view, criterion, classifier, purifier, x, label, key, eps):
    loss = view(classifier, purifier, label, criterion)
    shift = jax.random.uniform(step_key(key, PROBE, 0), x.shape, minval=-eps, maxval=eps)
    point = jnp.clip(x + shift, 0, 1)
    (value, margins), gradient = jax.value_and_grad(lambda x: tuple(loss(x, key)), has_aux=True)(point)
    finite = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    gradient = jnp.nan_to_num(gradient, posinf=0, neginf=0)
    ahead, behind = (jnp.clip(point + h * jnp.sign(gradient), 0, 1) for h in (eps / 8, -eps / 8))
    ends = jnp.stack([ahead, behind])
    higher, lower = jax.lax.map(lambda x: loss(x, key).ascent, ends)  # one copy of the defence, which compiles faster
    size = jnp.abs(jnp.where(jnp.isfinite(margins), margins, 0)).max()
    half = jnp.vdot(gradient, ahead - behind) / 2
    gained = jnp.nan_to_num((higher - lower) / 2, posinf=0, neginf=0)
    return Probe(finite, eps * jnp.abs(gradient).sum(), jnp.finfo(x.dtype).eps * jnp.maximum(size, 1), half, gained)


def view_margin(view, classifier, purifier, x, label, key):
    """The margin of one image by a view; >= 0 is misclassified."""
    return view(classifier, purifier, label, margin)(x, key).margin
