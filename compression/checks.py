"""Checks of what comes in, before anything is compiled: what was expected, what came, what to do."""

import sys
from contextlib import contextmanager
from traceback import walk_tb

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from . import torch_models
from .callables import as_pytree
from .types import Classifier, Purifier


def check_images(images) -> Float[np.ndarray, "n height width channel"]:
    """Raise unless `images` is a non-empty, finite, floating [n, height, width, channel] in [0, 1]; return an array."""
    images = np.asarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}; divide integer pixels by 255")
    if images.ndim != 4:
        raise ValueError(f"images must be [n, height, width, channel], got shape {images.shape}; for one, use x[None]")
    if images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        raise ValueError(f"images must be [n, height, width, channel], got shape {images.shape}, channels first; use "
                         "images.transpose(0, 2, 3, 1)")
    if len(images) == 0:
        raise ValueError(f"images must hold at least one image, got shape {images.shape}; check the subset")
    bad = ~np.isfinite(images).reshape(len(images), -1).all(1)
    if bad.any():
        raise ValueError(f"images must be finite, image {int(bad.argmax())} is not; remove or repair it")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"images must lie in [0, 1], got [{low:g}, {high:g}]; rescale them (pixels / 255, or (x + 1) / 2)"
        )
    return images


def check_image(x) -> None:
    """Raise unless x has the axes of one image; its shape alone is looked at, so it may be traced."""
    if np.ndim(x) != 3:
        raise ValueError(f"expected one image, [height, width, channel], got shape {np.shape(x)}; for many, map the "
                         "function by pm.over_images or jax.vmap")


def check_labels(labels, n: int, classes: int | None = None) -> Int[np.ndarray, "n"]:
    """Raise unless `labels` are n whole numbers in 0..classes-1; return them as an array."""
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}; use class indices")
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), one an image, got {labels.shape}")
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        top = "" if classes is None else f"..{classes - 1}"
        raise ValueError(f"labels must lie in 0{top}, got {labels.min()}..{labels.max()}; check their numbering")
    return labels.astype(np.int32)


def check_budget(eps, largest: float = 1.0) -> None:
    """Raise unless eps, in pixel units, one number or one an image, is in (0, largest]; 1 is l_inf's."""
    if not ((np.asarray(eps) > 0) & (np.asarray(eps) <= largest)).all():
        raise ValueError(f"eps is a budget in pixel units in (0, {largest:g}], got {eps}; 8/255 is 0.0314")


def check_positive(eps) -> None:
    """Raise unless eps is finite and above 0, one number or one an image, in a norm that is not told."""
    if not ((np.asarray(eps) > 0) & np.isfinite(eps)).all():
        raise ValueError(f"eps is a budget above 0, in the units of the distances, got {eps}; 8/255 is 0.0314")


def check_norm(norm) -> None:
    """Raise unless `norm` is a module of a ball, `pm.linf` or `pm.l2`."""
    if not hasattr(norm, "project"):
        raise TypeError(f"norm is pm.linf or pm.l2, itself and not its name, got {norm!r}")


def check_classifier(classifier: Classifier, images) -> int:
    """Raise unless the classifier gives finite logits, not probabilities, twice the same; return their number."""
    _not_of_torch(classifier, "torch_classifier")
    images = check_images(images)
    with _called_with("a classifier is called with one image, [height, width, channel]", "torch_classifier"):
        logits, again = (np.asarray(_logits(as_pytree(classifier), images)) for _ in range(2))
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"a classifier maps one image to a vector of logits, got shape {logits.shape[1:]} an image")
    if not np.isfinite(logits).all():
        raise FloatingPointError("the classifier gives non-finite logits; check its weights and normalisation")
    if not np.allclose(logits, again, rtol=1e-3, atol=1e-3 * np.abs(logits).max()):  # beyond any order of sums
        raise ValueError("the classifier gives other logits for the same images when it is called again; put it into "
                         "evaluation (module.eval() in PyTorch), or fix its randomness")
    if (logits >= 0).all() and np.allclose(logits.sum(1), 1, atol=1e-4):
        raise ValueError(
            "the classifier returns probabilities (non-negative, summing to 1), expected logits; "
            "remove its softmax, for attacks' gradients vanish behind it"
        )
    return logits.shape[1]


@jax.jit
def _logits(classifier, images):
    return jax.vmap(classifier)(images)


def check_keys(keys, n: int) -> None:
    """Raise unless there is one key of xi an image, so that no two share their noise by accident."""
    dtype = getattr(keys, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        found = "legacy ones of uint32" if dtype == np.uint32 else dtype or type(keys).__name__
        raise TypeError(f"keys must be of jax.random.key, got {found}; use pm.configurations(seed, range(n))")
    if np.shape(keys) != (n,):
        raise ValueError(f"keys must be one an image, {n}, got shape {np.shape(keys)}; use "
                         "pm.configurations(seed, range(n))")


def check_shape(purifier: Purifier, x, key) -> None:
    """Raise unless the purifier keeps the shape and the type of one image; nothing is computed."""
    _not_of_torch(purifier, "torch_purifier")
    with _called_with("a purifier is called with one image, [height, width, channel], and a key", "torch_purifier"):
        found = jax.eval_shape(purifier, np.asarray(x), key)
    own = jax.dtypes.canonicalize_dtype(np.asarray(x).dtype)
    if not isinstance(found, jax.ShapeDtypeStruct):
        raise TypeError(f"a purifier must return one image, got {type(found).__name__}; return the image alone")
    if found.shape != np.shape(x):
        raise ValueError(f"a purifier must keep the image's shape {np.shape(x)}, got {found.shape}; resize its output")
    if found.dtype != own:
        raise TypeError(f"a purifier must return pixels of the image's type {own}, got {found.dtype}; cast its output")


@contextmanager
def _called_with(what, wrapper):
    """What the user's own function raises keeps its type and its place, and says how it was called.

    But for one that is wrapped already: JAX does not trace it, nor is it called with one image.
    """
    try:
        yield
    except Exception as error:
        if all(frame.f_code.co_filename != torch_models.__file__ for frame, _ in walk_tb(error.__traceback__)):
            error.add_note(f"{what}, which JAX traces; code in PyTorch, or in NumPy from within, goes through "
                           f"pm.{wrapper}")
        raise


def _not_of_torch(function, wrapper):
    """A module of PyTorch is callable, and fails far inside."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(function, torch.nn.Module):
        raise TypeError(f"expected a function of one JAX image, got a PyTorch module; give pm.{wrapper}(module)")


def check_purifier(purifier: Purifier, images, keys) -> None:
    """Raise unless the purifier keeps shape and range, and gives the same output twice at the same key."""
    images = check_images(images)
    check_keys(keys, len(images))
    check_shape(purifier, images[0], keys[0])
    once, twice = map(np.asarray, _twice(as_pytree(purifier), images, keys))
    if not np.array_equal(once, twice, equal_nan=True):
        raise ValueError(
            "the purifier is random although its key is fixed; draw all its noise from the key it is given"
        )
    if not np.isfinite(once).all():
        raise FloatingPointError("the purifier gives non-finite pixels; check its weights, schedule and t*")
    check_range(once)


def check_range(purified: Float[np.ndarray, "n height width channel"]) -> None:
    """Raise unless these purified images lie in [0, 1]."""
    low, high = purified.min(), purified.max()
    if low < 0 or high > 1:
        raise ValueError(f"a purifier must return pixels in [0, 1], got [{low:g}, {high:g}]; clip them")


@jax.jit
def _twice(purifier, images, keys):
    return traced_twice(lambda x, key: purifier(x, key), images, keys)


def traced_twice(function, *rows):
    """Results over rows of two traces, so that noise which is drawn while tracing differs between them.

    Each below an axis of its own: JAX keeps the trace of a jitted function for later calls below the same axes.
    """
    return tuple(jax.vmap(function, axis_name=axis)(*rows) for axis in ("once", "twice"))
