"""From one image to many: the one place where `vmap`, sharding and padding are decided.

Every measurement is a function of one image. `over_images` compiles it once for a shard of fixed size and
feeds it shard by shard, padding the last, so that neither the number of images nor their grouping changes
the compiled program, and with it the result.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .callables import as_pytree

SHARD, VALUES = 64, 49_152
"""Images in one compiled call: at most SHARD, and no more than VALUES numbers of them in all (16 CIFAR images), for
what a gradient keeps of a large image is large."""


def over_images(
    function: Callable, shared: tuple, *rows: Any, which: Any = None, size: int | None = None, name: str = "result"
) -> Any:
    """Apply `function(*shared, *row)` to each image's row and stack the results as NumPy arrays.

    function: of one image, pure. `functools.partial` of a module-level function is recognised when it is made
        anew, so it may be written in place.
    shared: pytrees that are the same for all images (purifier, classifier); inputs of the program, not constants.
    rows: pytrees of arrays or keys with the images along the first axis, all of one length n >= 1.
    which: numbers of the rows to take, in order; all unless told.
    size: rows in one compiled call; SHARD, or fewer of large images, unless told.

    Raises NonFinite, a FloatingPointError, with the index of the first image whose result is not finite.

    >>> over_images(lambda scale, x: scale * x, (2.0,), jnp.arange(3.0)).tolist()
    [0.0, 2.0, 4.0]
    """
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(rows)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"rows must share one length >= 1, got lengths {sorted(lengths)}; pass at least one image")
    which = np.arange(*lengths) if which is None else np.asarray(which)
    shared = tuple(as_pytree(argument) if callable(argument) else argument for argument in shared)
    rows = jax.tree.map(_on_host, rows)
    size = size or shard_size(rows)
    results = []
    for start in range(0, len(which), size):
        kept = which[np.minimum(np.arange(start, start + size), len(which) - 1)]
        shard = _over_shard(_static(function), shared, jax.tree.map(lambda leaf: leaf[kept], rows))
        results.append(jax.tree.map(lambda leaf: np.array(leaf[: len(which) - start]), jax.device_get(shard)))
    result = jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)
    require_finite(result, name, which)
    return result


def shard_size(rows: Any) -> int:
    """Rows of a pytree of arrays that make one compiled call, a power of two.

    >>> shard_size(np.zeros((500, 8, 8, 1))), shard_size(np.zeros((500, 32, 32, 3))), shard_size(np.zeros((9, 5000)))
    (64, 16, 8)
    """
    largest = max(leaf.size // len(leaf) for leaf in jax.tree.leaves(rows))
    return min(SHARD, 1 << (max(1, VALUES // largest).bit_length() - 1))


def _on_host(leaf):
    """NumPy picks rows without compiling anything; keys have to stay JAX's."""
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)


class NonFinite(FloatingPointError):
    """A result that is not finite; `image` is the index of the first image concerned."""

    def __init__(self, message: str, image: int):
        super().__init__(message, image)
        self.image = image

    def __str__(self) -> str:
        return self.args[0]


def require_finite(result: Any, name: str = "result", images: Any = None) -> None:
    """Raise NonFinite unless all of a batched result is finite; it names the first of `images`, or counts from 0."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(result):
        if not np.issubdtype(np.asarray(leaf).dtype, np.floating):
            continue
        bad = ~np.isfinite(np.asarray(leaf)).reshape(len(leaf), -1).all(1)
        if bad.any():
            first = int(np.arange(len(leaf))[bad.argmax()] if images is None else images[bad.argmax()])
            raise NonFinite(
                f"{name}{jax.tree_util.keystr(path)} is not finite for image {first} "
                f"({int(bad.sum())} of {len(leaf)} images); check the purifier at this image and its weights",
                first,
            )


class _Static(NamedTuple):
    function: Callable
    positional: tuple
    keywords: tuple


def _static(function: Any) -> Any:
    """A partial as a hashable value, at every depth, so that an equal one finds the compiled program."""
    if not isinstance(function, partial):
        return function
    keywords = tuple(sorted((name, _static(value)) for name, value in function.keywords.items()))
    return _Static(_static(function.func), tuple(map(_static, function.args)), keywords)


def _dynamic(function: Any) -> Any:
    if not isinstance(function, _Static):
        return function
    keywords = {name: _dynamic(value) for name, value in function.keywords}
    return partial(_dynamic(function.function), *map(_dynamic, function.positional), **keywords)


@partial(jax.jit, static_argnames="function")
def _over_shard(function, shared, rows):
    apply = _dynamic(function)
    return jax.vmap(lambda row: apply(*shared, *row))(rows)
