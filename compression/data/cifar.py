"""CIFAR-10 and CIFAR-100 as their authors publish them: https://www.cs.toronto.edu/~kriz/cifar.html.

Both come as a "binary version" (records of label bytes and 3,072 bytes of pixels, channel by channel) and a "python
version" (pickles, read without running any code of theirs), each an archive that may lie packed or unpacked.
"""

import gzip
import os
import reprlib
import tarfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer, UInt8

from .dataset import Bytes, DataError, DataMissing, Dataset
from .restricted_pickle import read_pickle

PIXELS = 3 * 32 * 32
"""Bytes of one image."""

Batch = tuple[UInt8[np.ndarray, "n 3 32 32"], Integer[np.ndarray, "n"]]


class Version(NamedTuple):
    """One published version: names of its folder, archive and files, and how the bytes of a file are read."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    read: Callable[[bytes], Batch]


def cifar10(folder: Path | str | None = None) -> Dataset:
    """CIFAR-10: 50,000 training and 10,000 test images (32x32, colour) of 10 classes, kept as bytes (184 MB).

    folder: holds `cifar-10-batches-bin`, `cifar-10-batches-py` or an archive of one of them, or is one of these; that
        of the environment variable PURIMETRY_DATA unless told. All give the same data, and the same fingerprint.

    Raises DataMissing if there is none of them, DataError for one that is damaged or holds something else.

    >>> cifar10("nowhere")
    Traceback (most recent call last):
    purimetry.compression.data.dataset.DataMissing: no cifar10 in nowhere: expected cifar-10-batches-bin, \
cifar-10-binary.tar.gz, cifar-10-batches-py or cifar-10-python.tar.gz, there is no such folder; get it by \
`purimetry data cifar10`, or name the folder that has it
    """
    names = tuple(f"data_batch_{number}" for number in range(1, 6))
    binary = Version("cifar-10-batches-bin", "cifar-10-binary.tar.gz", tuple(f"{name}.bin" for name in names),
                     "test_batch.bin", partial(records, label_bytes=1))
    python = Version("cifar-10-batches-py", "cifar-10-python.tar.gz", names, "test_batch",
                     partial(pickled, labels="labels"))
    return _read("cifar10", 10, _folder("cifar10", folder), (binary, python))


def cifar100(folder: Path | str | None = None) -> Dataset:
    """CIFAR-100 with its 100 fine classes: 50,000 training and 10,000 test images, as `cifar10` has them.

    folder: holds `cifar-100-binary`, `cifar-100-python` or an archive of one of them, or is one of these; that of
        PURIMETRY_DATA unless told.
    """
    binary = Version("cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), "test.bin",
                     partial(records, label_bytes=2))
    python = Version("cifar-100-python", "cifar-100-python.tar.gz", ("train",), "test",
                     partial(pickled, labels="fine_labels"))
    return _read("cifar100", 100, _folder("cifar100", folder), (binary, python))


def records(content: bytes, label_bytes: int) -> Batch:
    """Images and labels of a file of the binary version; the last of the label bytes is the (fine) label.

    >>> images, labels = records(bytes([7]) + bytes(3072), label_bytes=1)
    >>> images.shape, labels.tolist()
    ((1, 3, 32, 32), [7])
    """
    size = label_bytes + PIXELS
    if len(content) % size or not content:
        raise DataError(f"expected records of {size} bytes, got {len(content)} bytes in all")
    found = np.frombuffer(content, np.uint8).reshape(-1, size)
    return found[:, label_bytes:].reshape(-1, 3, 32, 32), found[:, label_bytes - 1]


def pickled(content: bytes, labels: str) -> Batch:
    """Images and labels of a file of the python version, a dict of `data` and of what `labels` names."""
    found = read_pickle(content)
    if not isinstance(found, dict) or not {"data", labels} <= found.keys():
        keys = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise DataError(f"expected a dict with 'data' and '{labels}', got {keys}")
    images, numbers = found["data"], _whole(found[labels], labels)
    if not (isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape == (len(numbers), PIXELS)):
        raise DataError(f"expected data of {len(numbers)} x {PIXELS} bytes, got {getattr(images, 'shape', images)}")
    return images.reshape(-1, 3, 32, 32), numbers


def _whole(found: Any, name: str) -> Integer[np.ndarray, "n"]:
    """The numbers of a list or an array, of whichever integer type holds them all; at least one."""
    try:
        numbers = np.asarray(found)
    except ValueError:  # lists of several lengths
        numbers = np.empty(0)
    if numbers.ndim != 1 or not len(numbers) or not np.issubdtype(numbers.dtype, np.integer):
        raise DataError(f"expected '{name}' to be a list of class numbers, got {reprlib.repr(found)}")
    return numbers


def _folder(name: str, told: Path | str | None) -> Path:
    if told is None and not (told := os.environ.get("PURIMETRY_DATA")):
        raise DataMissing(f"no folder of {name} is told, and PURIMETRY_DATA is not set; give the folder that "
                          f"`purimetry data {name}` says, pm.{name}(folder), or set PURIMETRY_DATA to it")
    return Path(told)


def _read(name: str, classes: int, folder: Path, versions: tuple[Version, ...]) -> Dataset:
    place, version = _find(name, folder, versions)
    contents, found = _unpacked(place, version) if place.is_dir() else _packed(place, version)
    if missing := [file for file in _files(version) if file not in contents]:
        raise DataError(
            f"{place} lacks {', '.join(missing)} of {version.folder}, it holds {_some(found)}; get {name} again"
        )
    batches = []
    for file in _files(version):
        try:
            images, labels = version.read(contents.pop(file))
            if labels.min() < 0 or labels.max() >= classes:
                raise DataError(f"expected labels 0..{classes - 1}, got {labels.min()}..{labels.max()}")
        except DataError as error:
            raise DataError(f"{place}, {file}: {error}; it is damaged or not of {name}, get it again") from error
        batches.append((images, labels.astype(np.int32)))
    return Dataset(name, *_joined(batches[:-1]), *_joined(batches[-1:]))


def _files(version: Version) -> tuple[str, ...]:
    return *version.train, version.test


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:10]) or "nothing"


def _find(name: str, folder: Path, versions: tuple[Version, ...]) -> tuple[Path, Version]:
    """Where one of the versions lies, unpacked rather than packed."""
    for version in versions:
        for place in (version.folder, version.archive):
            if folder.absolute().name == place and folder.exists():
                return folder, version
            if (folder / place).exists():
                return folder / place, version
    expected = [place for version in versions for place in (version.folder, version.archive)]
    held = f"it holds {_some(path.name for path in folder.iterdir())}" if folder.is_dir() else "there is no such folder"
    raise DataMissing(
        f"no {name} in {folder}: expected {', '.join(expected[:-1])} or {expected[-1]}, {held}; "
        f"get it by `purimetry data {name}`, or name the folder that has it"
    )


def _unpacked(folder: Path, version: Version) -> tuple[dict[str, bytes], list[str]]:
    """The version's files by name, and the names of all that the folder holds."""
    found = [path.name for path in folder.iterdir()]
    return {file: (folder / file).read_bytes() for file in _files(version) if file in found}, found


def _packed(archive: Path, version: Version) -> tuple[dict[str, bytes], list[str]]:
    """The same of an archive, in one pass and in memory, so that no path of the archive's is ever written to."""
    wanted, contents, found = {f"{version.folder}/{file}": file for file in _files(version)}, {}, []
    try:
        with gzip.open(archive) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as members:
            for member in members:
                found.append(name := member.name.removeprefix("./"))
                if name in wanted and member.isreg():
                    contents[wanted[name]] = members.extractfile(member).read()
            while unpacked.read(1 << 20):
                pass  # to the end, where gzip compares its checksum
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is truncated or damaged ({error}); delete it and get it again") from error
    return contents, found


def _joined(batches: list[Batch]) -> tuple[Bytes, Int[np.ndarray, "all"]]:
    labels = np.concatenate([labels for _, labels in batches])
    images = np.empty((len(labels), 32, 32, 3), np.uint8)
    return Bytes(np.concatenate([images.transpose(0, 2, 3, 1) for images, _ in batches], out=images)), labels
