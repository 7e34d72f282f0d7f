"""What other runs have measured of single images, so that a run of more images, samplers or t* starts from there."""

import json
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..compression.records import Arrays, RecordError, load_arrays, read_manifest, read_records
from .datasets import read_images
from .purifiers import OF_VELOCITY

FREE = ("images", "subset_seed", "indices_sha256", "samplers", "t_stars", "eps", "eps_factors", "eps_max", "seeds",
        "bootstrap", "note", "purifiers", "velocity")
"""Settings in which a run may differ from one that it takes from: what they change has another name, is computed from
all images anew, or is looked at by `Source`."""

OLDER = "it was made by an older version; leave it out"


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
        self.row = {index: row for row, index in enumerate(read_images(self.folder / "images.json")["indices"])}
        self._other_limit = theirs["eps_max"] != ours["eps_max"]
        self._theirs, self._ours = (dict(run.get("purifiers", ())) for run in (theirs, ours))

    def check_weights(self, trained: dict[str, str]) -> None:
        """Raise RecordError unless networks that runs train themselves are the same, by the SHA-256 of their weights.

        Of one configuration they are on one kind of machine only.
        """
        found = next(iter(read_records(self.folder)), None)
        if found is None and trained:
            raise RecordError(f"--reuse {self.folder}: it has no records yet, which say by what weights it measured; "
                              "let one of its experiments end")
        made = found.run if found else {}
        theirs = made.get("weights_sha256", {})
        if others := sorted(name for name in trained if theirs.get(name, trained[name]) != trained[name]):
            raise RecordError(f"--reuse {self.folder}: it trained another {' and '.join(others)}, on another machine "
                              "perhaps; give both runs one --cache, or leave it out")
        if made and made["versions"]["purimetry"] != version("purimetry"):
            raise RecordError(f"--reuse {self.folder}: {OLDER}")

    def read(self, experiment: str, sampler: str, name: str) -> Arrays | None:
        """A shard of it about a sampler or a purifier; None where it has none, or a damaged one."""
        path = self.folder / experiment / "shards" / f"{name}.npz"
        searched_further = experiment == "minimum_perturbation" and self._other_limit
        another = self._theirs.get(sampler) != self._ours.get(sampler)  # of a name that is one's own in one run alone
        if searched_further or another or not path.exists():
            return None
        try:
            arrays = load_arrays(path)
        except RecordError as error:
            warnings.warn(f"--reuse: {error}", stacklevel=2)
            return None
        if any(array.shape[:1] != (len(self.row),) for array in arrays.values()):
            raise RecordError(f"--reuse: {path} has not a row for each of its run's {len(self.row)} images; {OLDER}")
        return arrays


def _changed(theirs: dict, ours: dict) -> Iterator[str]:
    """Settings that two runs do not share although they determine what is measured of an image."""
    yield from (key for key in theirs.keys() | ours.keys() if key not in FREE and theirs.get(key) != ours.get(key))
    if theirs["seeds"][0] != ours["seeds"][0]:
        yield "the first of seeds"
    if any(a != b and f"{a:g}" == f"{b:g}" for a in theirs["eps"] for b in ours["eps"]):  # they name shards
        yield "eps, in the seventh digit"
    if {*OF_VELOCITY} & {*theirs["samplers"]} & {*ours["samplers"]} and theirs.get("velocity") != ours.get("velocity"):
        yield "velocity"
    purifiers = dict(theirs.get("purifiers", ()))
    yield from (name for name, sha256 in ours.get("purifiers", ()) if purifiers.get(name, sha256) != sha256)


def take(sources: Sequence[Source], experiment: str, sampler: str, name: str, indices: np.ndarray) -> Taken:
    """The rows of a shard for the images `indices`, each from the first source that has it."""
    rows, parts, left = [], [], dict(enumerate(indices.tolist()))
    for source in sources:
        held = [row for row, index in left.items() if index in source.row]
        arrays = source.read(experiment, sampler, name) if held else None
        if arrays is None:
            continue
        chosen = [source.row[left.pop(row)] for row in held]
        parts.append({key: array[chosen] for key, array in arrays.items()})
        rows += held
    return Taken(join(parts) if parts else None, np.array(rows, int), np.array(list(left), int))


def join(parts: Sequence[Arrays]) -> Arrays:
    """Arrays of some images after those of others; RecordError where they are not of one kind."""
    kinds = [{key: array.shape[1:] for key, array in part.items()} for part in parts]
    if any(kind != kinds[0] for kind in kinds):
        raise RecordError(f"--reuse: runs hold different arrays of their images, {kinds[0]} and others; one of them "
                          "was made by an older version; leave it out")
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
