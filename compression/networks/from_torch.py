"""Published PyTorch weights put into modules whose attributes carry the same names."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .pure import Network, blueprint

NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
"""Flax's names of a layer's arrays that PyTorch names otherwise."""

SHOWN = 20
"""Differences that an error names; of more it gives the number."""


def from_torch(
    build: Callable[..., nnx.Module], arrays: Mapping[str, np.ndarray], ignored: Sequence[str] = ()
) -> Network:
    """The network that `build(rngs=...)` describes, with its weights from a PyTorch state dict; strict.

    build: its modules are named as in PyTorch, its layers are Flax's; nothing of it is computed.
    arrays: all weights; kernels are turned from PyTorch's [out, in, ...] to Flax's [..., in, out].
    ignored: patterns of names that may be there and are not used.

    Raises ValueError that names what is missing, unexpected, of another shape or not finite.

    >>> build = lambda rngs: nnx.Dict(readout=nnx.Linear(2, 3, rngs=rngs))
    >>> arrays = {"readout.weight": np.ones((3, 2)), "readout.bias": np.zeros(3), "steps": np.array(7)}
    >>> network = from_torch(build, arrays, ignored=["step*"])
    >>> nnx.merge(network.graph, network.state)["readout"](jnp.ones(2)).tolist()
    [2.0, 2.0, 2.0]
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(f"expected a state dict, names with their arrays, got {type(arrays).__name__}; read a file by "
                        "pm.load_published(path)")
    graph, state = nnx.split(blueprint(build))
    structure = jax.tree.structure(state)
    axes, shapes = _described(state)
    used = {name: array for name, array in arrays.items() if not any(fnmatchcase(name, p) for p in ignored)}
    common = [name for name in shapes if name in used]
    wrong = [
        *(f"missing {name}" for name in shapes if name not in used),
        *(f"unexpected {name}" for name in used if name not in shapes),
        *(f"{n} {used[n].shape} instead of {shapes[n]}" for n in common if used[n].shape != shapes[n]),
        *(f"{name} not finite" for name in common if not np.isfinite(used[name]).all()),
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(
            f"the weights are not of this network: {'; '.join(wrong[:SHOWN])}{more}; give the file published for it"
        )
    weights = [jnp.asarray(used[name].transpose(np.argsort(axes[name])), jnp.float32) for name in shapes]
    return Network(graph, jax.tree.unflatten(structure, weights))


def shapes_of(build: Callable[..., nnx.Module]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the PyTorch state dict that `from_torch` takes for `build`; nothing is computed.

    >>> shapes_of(lambda rngs: nnx.Dict(readout=nnx.Linear(2, 3, rngs=rngs)))
    {'readout.bias': (3,), 'readout.weight': (3, 2)}
    """
    return _described(nnx.state(blueprint(build)))[1]


def _described(state) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """By PyTorch's name: Flax's axes in PyTorch's order, and the shape there."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    axes = {_name(path): _axes(path, leaf.ndim) for path, leaf in leaves}
    shapes = {_name(path): tuple(leaf.shape[axis] for axis in axes[_name(path)]) for path, leaf in leaves}
    return axes, shapes


def _keys(path) -> list[str]:
    return [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]


def _name(path) -> str:
    *modules, array = _keys(path)
    return ".".join([*modules, NAMES.get(array, array)])


def _axes(path, ndim: int) -> tuple[int, ...]:
    """Of Flax's array, in PyTorch's order."""
    return (ndim - 1, ndim - 2, *range(ndim - 2)) if _keys(path)[-1] == "kernel" else tuple(range(ndim))
