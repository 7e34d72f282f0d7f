"""Records: what a run leaves on disk, written so that a killed run loses at most the shard in progress.

An output folder belongs to one configuration (`run.json`). Each experiment has a folder with

    shards/NAME.npz   arrays of one finished piece of work, with their SHA-256 inside
    records.jsonl     one `Measurement` a line

and beside them lies `cost.jsonl`, the seconds each shard took. All files but the last are written to a
temporary file, flushed and renamed, and depend only on the configuration: a resumed run ends with the same bytes.
"""

import hashlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

VERSION = 1
"""Version of the record format; raised when a reader of the old one would misread the new one."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measurement:
    """One measured number with its uncertainty and everything that determines it.

    experiment, quantity, unit: what was measured. value: the number; n: images (or draws) behind it.
    se: standard error, None only for a number that is not an estimate.
    at: coordinates, such as {"sampler": "ddpm", "t_star": 10, "eps": 0.1}.
    run: configuration, seed, versions, device, data fingerprint and weights' SHA-256.
    """

    experiment: str
    quantity: str
    value: float
    se: float | None
    n: int
    unit: str
    at: dict = field(default_factory=dict)
    run: dict = field(default_factory=dict)


class RecordError(ValueError):
    """A folder or file of records that cannot be used as it is."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it has either its old content or the whole new one, whenever the process dies.

    Raises RecordError, with what to do, when the folder cannot be written or the disk is full.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def _writing(path):
    try:
        yield path
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror}; make room or choose a writable folder and run the same "
            "command again, finished shards are kept"
        ) from error


def _foreign(path):
    """Whether a file is not what a process leaves that was killed while it wrote a folder's first one."""
    return not path.name.startswith(".run.json.")


def digest(arrays: Arrays) -> str:
    """SHA-256 over named arrays with their dtypes and shapes."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(repr((name, array.dtype.str, array.shape)).encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays as .npz with their SHA-256 inside, atomically."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    buffer = io.BytesIO()
    np.savez(buffer, sha256=np.array(digest(arrays)), **arrays)
    write_atomic(path, buffer.getvalue())


def load_arrays(path: Path) -> Arrays:
    """Read arrays written by `save_arrays`; RecordError if the file does not parse or match its SHA-256."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        expected = str(arrays.pop("sha256"))
    except Exception as error:  # zipfile, NumPy and zlib each raise their own kinds on damaged bytes
        raise RecordError(f"{path} is truncated or damaged ({type(error).__name__}); it can be recomputed") from error
    if digest(arrays) != expected:
        raise RecordError(f"{path} does not match its checksum; it can be recomputed")
    return arrays


class Folder:
    """An output folder that belongs to one configuration.

    path: created if missing. configuration: JSON-like; the same one resumes, another one is refused.
    claim: False only looks whether it could be this configuration's, and writes nothing.

    Raises RecordError if the folder holds files of something else, records of another version or another
    configuration, or cannot be written.
    """

    def __init__(self, path: Path, configuration: dict, claim: bool = True):
        self.path = Path(path)
        content = json.dumps({"version": VERSION, "configuration": configuration}, indent=1, sort_keys=True)
        manifest = self.path / "run.json"
        if manifest.exists():
            found = read_manifest(self.path)["configuration"]
            wanted = json.loads(content)["configuration"]
            if found != wanted:
                changed = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
                raise RecordError(
                    f"{self.path} holds a run with other settings ({', '.join(changed)}); "
                    "choose another folder with --out, or remove this one; --reuse takes over what fits"
                )
        elif self.path.exists() and (not self.path.is_dir() or any(map(_foreign, self.path.iterdir()))):
            raise RecordError(f"{self.path} exists and is not a run of purimetry; choose another folder with --out")
        elif claim:
            write_atomic(manifest, content.encode())

    def shard(self, experiment: str, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """The arrays of one piece of work: read if it is finished, else computed and written.

        A shard that is damaged is computed again, with a warning.
        """
        path = self.path / experiment / "shards" / f"{name}.npz"
        if path.exists():
            try:
                return load_arrays(path)
            except RecordError as error:
                warnings.warn(f"{error}: computing it again", stacklevel=2)
        start = time.perf_counter()
        arrays = {key: np.asarray(array) for key, array in compute().items()}
        seconds = time.perf_counter() - start
        save_arrays(path, arrays)
        cost = json.dumps({"experiment": experiment, "shard": name, "seconds": round(seconds, 2)})
        with _writing(self.path / "cost.jsonl") as path:
            torn = path.exists() and not path.read_bytes().endswith(b"\n")  # the last line, by a process that ended
            with open(path, "a") as file:
                file.write("\n" * torn + cost + "\n")
        return arrays

    def write(self, experiment: str, measurements: Iterable[Measurement]) -> list[Measurement]:
        """Write an experiment's records and return them."""
        measurements = list(measurements)
        lines = [json.dumps({"version": VERSION, **asdict(m)}, sort_keys=True) for m in measurements]
        write_atomic(self.path / experiment / "records.jsonl", ("\n".join(lines) + "\n").encode())
        return measurements


def read_manifest(folder: Path | str) -> dict:
    """The version and configuration of a run; RecordError unless `folder` holds one of this version."""
    try:
        manifest = json.loads((Path(folder) / "run.json").read_text())
        version = manifest["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(
            f"{folder} is not a run of purimetry (no readable run.json); give the folder of a run"
        ) from error
    if version != VERSION:
        raise RecordError(
            f"{folder} has records of version {version}, this purimetry reads version {VERSION}; "
            "use the purimetry that wrote them, or run again into another folder"
        )
    return manifest


def read_records(folder: Path | str, experiment: str | None = None) -> list[Measurement]:
    """All measurements of a run, or those of one experiment.

    Raises RecordError for a folder without a run, an experiment without records in it, records of another version, or a
    line that does not parse.
    """
    read_manifest(folder)
    found = {path.parent.name: path for path in sorted(Path(folder).glob("*/records.jsonl"))}
    if experiment is not None:
        found = {experiment: _told(folder, experiment, found, "records")}
    measurements = []
    for path in found.values():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
                version = row.pop("version")
                measurement = Measurement(**row)
            except (ValueError, KeyError, TypeError) as error:
                raise RecordError(f"{path} line {number} is not a record; run the experiment again") from error
            if version != VERSION:
                raise RecordError(f"{path} line {number} is of version {version}, expected {VERSION}; run it again")
            measurements.append(measurement)
    return measurements


def read_shards(folder: Path | str, experiment: str) -> dict[str, Arrays]:
    """The arrays of every finished shard of an experiment, by the shard's name, such as "ddpm-t5".

    Arrays of images have a row for each, in the order of `indices` in the folder's images.json, so rows of one folder
    belong together whatever shard they are of. Empty where of an experiment only its records were kept.

    Raises RecordError for a folder without a run, an experiment that is not in it, or a damaged shard.

    >>> import tempfile
    >>> folder = Folder(Path(tempfile.mkdtemp()), {})
    >>> shard = folder.shard("rates", "ddpm-t5", lambda: {"l2": np.array([0.25, 0.5])})
    >>> read_shards(folder.path, "rates")["ddpm-t5"]["l2"].tolist()
    [0.25, 0.5]
    """
    read_manifest(folder)
    places = sorted({path.parent for pattern in ("*/shards", "*/records.jsonl") for path in Path(folder).glob(pattern)})
    place = _told(folder, experiment, {path.name: path for path in places}, "shards")
    return {path.stem: load_arrays(path) for path in sorted(place.glob("shards/*.npz"))}


def _told(folder: Path | str, experiment: str, found: dict[str, Path], what: str) -> Path:
    """What is found of an experiment that is told by its name."""
    if experiment not in found:
        raise RecordError(f"{folder} has no {what} of {experiment!r}, it has those of {', '.join(found) or 'none'}; "
                          "name one of them, or run it first")
    return found[experiment]


def read_costs(folder: Path) -> dict[str, float]:
    """Seconds of computation by experiment, over all sittings of a run."""
    costs: dict[str, float] = {}
    path = Path(folder) / "cost.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(ValueError):  # torn
            row = json.loads(line)
            costs[row["experiment"]] = costs.get(row["experiment"], 0.0) + row["seconds"]
    return costs
