"""What other runs have measured of single images, so that a run of more images, samplers or t* starts from there."""

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..compression.records import Arrays, RecordError, load_arrays, read_manifest

FREE = ("images", "subset_seed", "indices_sha256", "samplers", "t_stars", "eps", "eps_factors", "seeds", "bootstrap",
        "note", "purifiers", "velocity")
"""Settings in which a run may differ from one that it takes from: what they change has another name, or is computed
from all images anew. Of seeds the first must agree, and the velocity and a purifier of one name where both have one."""


class Taken(NamedTuple):
    """Rows of a shard that other runs have: those of this run's images `rows`, in this order, and which are `missing`.

    arrays: None where no image is known.
    """

    arrays: Arrays | None
    rows: np.ndarray
    missing: np.ndarray


class Source:
    """A run from which rows are taken. Raises RecordError, with what differs, where its settings are others."""

    def __init__(self, folder: Path, determinants: dict):
        self.folder = Path(folder)
        theirs, ours = read_manifest(self.folder)["configuration"], json.loads(json.dumps(determinants))
        if changed := sorted(_changed(theirs, ours)):
            raise RecordError(f"--reuse {folder}: that run has other settings ({', '.join(changed)}), so it measured "
                              "something else; give this run the same, or leave it out")
        self.row = {index: row for row, index in enumerate(read_indices(self.folder / "images.json"))}

    def read(self, experiment: str, name: str) -> Arrays | None:
        """A shard of it; None where it has none, or a damaged one."""
        path = self.folder / experiment / "shards" / f"{name}.npz"
        if not path.exists():
            return None
        try:
            return load_arrays(path)
        except RecordError as error:
            warnings.warn(f"--reuse: {error}", stacklevel=2)
            return None


def _changed(theirs: dict, ours: dict) -> Iterator[str]:
    """Settings that two runs do not share although they determine what is measured of an image."""
    yield from (key for key in theirs.keys() | ours.keys() if key not in FREE and theirs.get(key) != ours.get(key))
    if theirs["seeds"][0] != ours["seeds"][0]:
        yield "the first of seeds"
    if "velocity" in theirs and "velocity" in ours and theirs["velocity"] != ours["velocity"]:
        yield "velocity"
    purifiers = dict(theirs.get("purifiers", ()))
    yield from (name for name, sha256 in ours.get("purifiers", ()) if purifiers.get(name, sha256) != sha256)


def read_indices(path: Path) -> list[int]:
    """The numbers of a run's images, from its images.json; RecordError where it holds none."""
    try:
        return [int(index) for index in json.loads(path.read_text())["indices"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} does not say which images a run measured; give the images.json of one") from error


def chosen(told: Sequence[str], available: int) -> np.ndarray:
    """The images that --indices names: numbers, ranges, and files images.json.

    Raises ValueError for what is none of them, for images that are not there, or that are named twice.

    >>> chosen(["7", "0:3"], available=10).tolist()
    [7, 0, 1, 2]
    """
    found = [index for word in told for index in _read(word)]
    if beyond := [index for index in found if not 0 <= index < available]:
        raise ValueError(f"--indices: there are {available} test images, numbered from 0, got {beyond[0]}")
    if len(set(found)) < len(found):
        twice = next(index for index in found if found.count(index) > 1)
        raise ValueError(f"--indices names image {twice} twice; name each once")
    if len(found) < 2:
        raise ValueError(f"--indices names {len(found)} of the images; standard errors need at least 2")
    return np.array(found)


def _read(word: str) -> Sequence[int]:
    if part := re.fullmatch(r"(\d+):(\d+)", word):
        return range(int(part[1]), int(part[2]))
    if word.isdecimal():
        return [int(word)]
    if word.endswith(".json"):
        return read_indices(Path(word))
    raise ValueError(f"--indices {word}: expected a number such as 7, a range such as 0:48 or a file images.json")


def take(sources: Sequence[Source], experiment: str, name: str, indices: np.ndarray) -> Taken:
    """The rows of a shard for the images `indices`, each from the first source that has it."""
    rows, parts, left = [], [], dict(enumerate(indices.tolist()))
    for source in sources:
        held = [row for row, index in left.items() if index in source.row]
        arrays = source.read(experiment, name) if held else None
        if arrays is None:
            continue
        chosen = [source.row[left.pop(row)] for row in held]
        parts.append({key: array[chosen] for key, array in arrays.items()})
        rows += held
    return Taken(join(parts) if parts else None, np.array(rows, int), np.array(list(left), int))


def join(parts: Sequence[Arrays]) -> Arrays:
    """Arrays of some images after those of others."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
