"""From one image to many: the one place where `vmap`, sharding and padding are decided.

Every measurement is a function of one image. `over_images` compiles it once for a shard of fixed size and
feeds it shard by shard, padding the last, so that neither the number of images nor their grouping changes
the compiled program, and with it the result. Where a process has several devices, each of them runs that same
program on a shard of its own at the same time, so their number does not change results either.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .callables import as_pytree

SHARD, VALUES = 64, 49_152
"""Images that a device is given in one compiled call: at most SHARD, and no more than VALUES numbers of them in all (16
CIFAR images), for what a gradient keeps of a large image is large."""

CIFAR = 3_072
"""Numbers of a CIFAR image. The sizes that measurements ask for were chosen at images of so many, or fewer."""

BYTES = 98_304
"""Memory for each of those numbers where the device says how much it has (accelerators do). A gradient through Ho et
al.'s UNet holds 21 kB, through up to 16 steps at most 72; a rate holds several draws."""

_told: ContextVar[int | None] = ContextVar("told", default=None)


@contextmanager
def calls_of(images: int | None) -> Iterator[None]:
    """Give a device so many images in one compiled call, whatever is measured within; None leaves it to `shard_size`.

    Fewer for a network whose gradients would not fit the device's memory (`OutOfMemory` says what does), more for a
    device that they do not keep busy. A measurement's own `size` counts where it is smaller. Results differ from those
    of other sizes by rounding only: the compiler may order sums differently.

    >>> with calls_of(2):
    ...     over_images(lambda x: 2 * x, (), jnp.arange(3.0)).tolist()
    [0.0, 2.0, 4.0]
    """
    if images is not None and images < 1:
        raise ValueError(f"a compiled call takes at least 1 image, got {images}")
    token = _told.set(images)
    try:
        yield
    finally:
        _told.reset(token)


def over_images(
    function: Callable, shared: tuple, *rows: Any, which: Any = None, size: int | None = None, name: str = "result"
) -> Any:
    """Apply `function(*shared, *row)` to each image's row and stack the results as NumPy arrays.

    function: of one image, pure. `functools.partial` of a module-level function is recognised when it is made
        anew, so it may be written in place.
    shared: pytrees that are the same for all images (purifier, classifier); inputs of the program, not constants.
    rows: pytrees of arrays or keys with the images along the first axis, all of one length n >= 1.
    which: numbers of the rows to take, in order; all unless told.
    size: rows that a device is given in one compiled call, or fewer where `calls_of` says so; `call_size` of the rows
        unless told. More than that of large images may not fit the memory.

    Raises NonFinite, a FloatingPointError, with the index of the first image whose result is not finite, and
    OutOfMemory, a MemoryError, with the size that fits the device.

    >>> over_images(lambda scale, x: scale * x, (2.0,), jnp.arange(3.0)).tolist()
    [0.0, 2.0, 4.0]
    """
    for leaf in jax.tree.leaves(rows):
        if np.ndim(leaf) == 0:
            raise TypeError(f"rows are arrays with the images along the first axis, got {leaf!r}; for the same of all "
                            "images np.full(n, value), for a list np.asarray(list)")
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(rows)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"rows must share one length >= 1, got lengths {sorted(lengths)}; pass at least one image")
    which = np.arange(*lengths) if which is None else np.asarray(which)
    shared = tuple(as_pytree(argument) if callable(argument) else argument for argument in shared)
    rows = jax.tree.map(_on_host, rows)
    size = call_size(rows) if size is None else min(size, _told.get() or size)
    mesh, together = _mesh(), size * len(jax.local_devices())
    if mesh is not None:
        shared = jax.device_put(shared, NamedSharding(mesh, PartitionSpec()))

    call = partial(_call, function, shared, rows, which, mesh)
    results = []
    for start in range(0, len(which), together):
        try:
            shard = call(start, together)
        except jax.errors.JaxRuntimeError as error:
            if not _is_full(error):
                raise
            fits = _fitting(lambda size: call(start, size * len(jax.local_devices())), size // 2)
            raise OutOfMemory(name, size, fits) from error
        results.append(jax.tree.map(lambda leaf: np.array(leaf[: len(which) - start]), shard))
    result = jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)
    require_finite(result, name, which)
    return result


def _call(function, shared, rows, which, mesh, start: int, together: int):
    """The results of the next `together` rows, the last one again where there are fewer."""
    kept = which[np.minimum(np.arange(start, start + together), len(which) - 1)]
    shard = jax.tree.map(partial(_picked, kept), rows)
    if mesh is not None:
        shard = jax.device_put(shard, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
    return jax.device_get(_over_shard(_static(function), shared, shard, mesh))


def call_size(rows: Any) -> int:
    """Rows that a device is given in one compiled call where a measurement does not say: `calls_of`, or `shard_size`.

    >>> with calls_of(100):
    ...     call_size(np.zeros((9, 256, 256, 3)))
    100
    """
    return _told.get() or shard_size(rows)


def at_most(size: int, images: Any) -> int:
    """Images that a measurement gives a device in one compiled call: `size`, of large ones no more than `call_size`.

    More may not fit the memory, and a CPU does not say that it is full: it ends the process.

    >>> at_most(32, np.zeros((500, 32, 32, 3))), at_most(32, np.zeros((9, 64, 64, 3)))
    (32, 4)
    """
    return size if _largest(images) <= CIFAR else min(size, call_size(images))


def over_draws(function: Callable, draws: Any, image: Any) -> Any:
    """`vmap` of a function over what is drawn for one image; of a large image in turns, each of `shard_size` draws.

    A gradient recomputes each turn, for else it would keep what all of them hold. `calls_of` has no say here, for it is
    not heard where the program is compiled already.

    draws: a pytree with the draws along the first axis. image: one as large as what the function works on.

    >>> over_draws(lambda draw: 2 * draw, jnp.arange(3.0), np.zeros((256, 256, 3))).tolist()
    [0.0, 2.0, 4.0]
    """
    together = _fit(image.size)
    if image.size <= CIFAR or together >= len(jax.tree.leaves(draws)[0]):
        return jax.vmap(function)(draws)
    return jax.lax.map(jax.checkpoint(function), draws, batch_size=together)


def shard_size(rows: Any) -> int:
    """Rows of a pytree of arrays that make one compiled call, a power of two.

    >>> shard_size(np.zeros((500, 8, 8, 1))), shard_size(np.zeros((500, 32, 32, 3))), shard_size(np.zeros((9, 5000)))
    (64, 16, 8)
    """
    return _fit(_largest(rows))


def _fit(size: int) -> int:
    """Rows of so many numbers each that make one compiled call."""
    memory = _memory()
    values = VALUES if memory is None else memory // BYTES
    return min(SHARD, 1 << (max(1, values // size).bit_length() - 1))


def _largest(rows: Any) -> int:
    """Numbers of a row, in the array that has most of them."""
    return max(leaf.size // len(leaf) for leaf in jax.tree.leaves(rows))


@cache
def _memory() -> int | None:
    """Bytes of one device's memory that JAX may use; None where that is not told, as on a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


@cache
def _mesh() -> Mesh | None:
    """This process's devices in a row, along which images are laid; None where there is only one."""
    devices = jax.local_devices()
    return Mesh(np.array(devices), ("images",)) if len(devices) > 1 else None


def _fitting(call: Callable[[int], Any], size: int) -> int:
    """The largest of size, size / 2, ... that is no longer too large, 0 where even one image is."""
    while size > 0:
        try:
            call(size)
            return size
        except jax.errors.JaxRuntimeError as error:
            if not _is_full(error):
                raise
            size //= 2
    return 0


def _is_full(error: jax.errors.JaxRuntimeError) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error)


class OutOfMemory(MemoryError):
    """A compiled call that does not fit the device's memory; `fits` is the number of images that does."""

    def __init__(self, name: str, size: int, fits: int):
        super().__init__(name, size, fits)
        self.fits = fits

    def __str__(self) -> str:
        name, size, fits = self.args
        remedy = (
            f"{fits} fit{'s' if fits == 1 else ''}: run again with --batch {fits}, in a script "
            f"`with pm.calls_of({fits})`" if fits else
            "not even one does; take a smaller network, --precision bfloat16, or a device with more memory"
        )
        device = jax.local_devices()[0].device_kind
        return f"{name}: {size} images in one compiled call do not fit the memory of {device}; {remedy}"


def _on_host(leaf):
    return leaf if _is_key(leaf) else np.asarray(leaf)


def _picked(kept, leaf):
    """Rows, of keys too, picked by NumPy, which compiles nothing."""
    if not _is_key(leaf):
        return leaf[kept]
    return jax.random.wrap_key_data(np.asarray(jax.random.key_data(leaf))[kept], impl=jax.random.key_impl(leaf))


def _is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


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


@partial(jax.jit, static_argnames=("function", "mesh"))
def _over_shard(function, shared, rows, mesh=None):
    def shard(shared, rows):
        apply = _dynamic(function)
        return jax.vmap(lambda row: apply(*shared, *row))(rows)

    if mesh is None:
        return shard(shared, rows)
    images = PartitionSpec(mesh.axis_names)
    each = jax.shard_map(shard, mesh=mesh, in_specs=(PartitionSpec(), images), out_specs=images, check_vma=False)
    return each(shared, rows)
