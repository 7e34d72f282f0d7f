"""Trees of arrays (weights, training states) as safetensors files, checked when they are read."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .records import RecordError, digest, write_atomic


def save_tree(path: Path, tree: Any) -> str:
    """Write the leaves of a pytree, in order, atomically and with their SHA-256; return it."""
    leaves = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    sha = digest(leaves)
    write_atomic(Path(path), save(leaves, metadata={"sha256": sha}))
    return sha


def load_tree(path: Path, like: Any) -> tuple[Any, str]:
    """Read a pytree of the structure, shapes and dtypes of `like`, and its SHA-256.

    Raises RecordError if the file is truncated or damaged, or holds another structure.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            stored = {name: file.get_tensor(name) for name in sorted(file.keys())}
            expected = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        raise RecordError(f"{path} is truncated or damaged ({error}); it can be rebuilt") from error
    if digest(stored) != expected:
        raise RecordError(f"{path} is damaged: it does not match its checksum; it can be rebuilt")
    leaves, structure = jax.tree.flatten(like)
    signature = lambda arrays: [(np.shape(a), np.asarray(a).dtype) for a in arrays]
    if signature(stored.values()) != signature(leaves):
        raise RecordError(f"{path} holds {len(stored)} arrays of another architecture; it can be rebuilt")
    return jax.tree.unflatten(structure, [jax.numpy.asarray(array) for array in stored.values()]), expected


def fingerprint(*determinants: Any) -> str:
    """A short hash of everything that determines a cached result, each printable as JSON.

    >>> fingerprint({"steps": 10}) == fingerprint({"steps": 11})
    False
    """
    return hashlib.sha256(json.dumps(determinants, sort_keys=True, default=str).encode()).hexdigest()[:16]
