"""Archives of published data sets, fetched from their authors and checked."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .dataset import DataError


class Archive(NamedTuple):
    """Where a file is published, and its SHA-256."""

    url: str
    sha256: str


CIFAR = "https://www.cs.toronto.edu/~kriz"

ARCHIVES = {
    "cifar10": Archive(
        f"{CIFAR}/cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    ),
    "cifar100": Archive(
        f"{CIFAR}/cifar-100-binary.tar.gz", "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
    ),
}
"""What can be downloaded, by the name of its reader."""


def download(name: str, folder: Path | str, on_progress: Callable[[float], None] = lambda done: None) -> Path:
    """The archive of a published data set in `folder`, fetched unless it is there; `pm.cifar10(folder)` reads it.

    name: "cifar10" or "cifar100" (170 MB each). on_progress: called with the fraction that has come, 0 to 1.

    Raises DataError, which says what to do, when the right file cannot be had.
    """
    if name not in ARCHIVES:
        raise ValueError(f"there is no data set {name!r} to download; choose one of {', '.join(ARCHIVES)}")
    return fetch(ARCHIVES[name], Path(folder), on_progress)


def fetch(archive: Archive, folder: Path, on_progress: Callable[[float], None] = lambda done: None) -> Path:
    """One published file in `folder`. It gets its name only when it is whole and has its SHA-256."""
    import pooch
    from requests import HTTPError, RequestException

    pooch.get_logger().setLevel("WARNING")  # what a caller wants to say of a download is the caller's
    name = archive.url.rsplit("/", 1)[-1]

    def download(url: str, path: str, _) -> None:
        pooch.HTTPDownloader(progressbar=_Progress(on_progress), chunk_size=1 << 16)(url, path, None)
        os.chmod(path, 0o644)  # of a temporary file, which only its owner could read
        if pooch.file_hash(path) != archive.sha256:
            raise DataError(_unexpected(Path(path)))

    by_hand = f"or put {name} with SHA-256 {archive.sha256} into {folder} by hand"
    try:
        return Path(pooch.retrieve(archive.url, archive.sha256, name, folder, downloader=download))
    except DataError as error:
        raise DataError(f"{archive.url} gave {error}; try again on another network, {by_hand}") from error
    except HTTPError as error:
        raise DataError(f"{archive.url} answers {error.response.status_code}; try again later, {by_hand}") from error
    except RequestException as error:
        raise DataError(f"{archive.url} did not arrive whole ({error}); run the same again, {by_hand}") from error


def _unexpected(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(60)
    if b"<html" in start.lower() or b"<!doctype" in start.lower():
        return f"a web page, {start!r}, which is perhaps a proxy's or a login's"
    return f"{path.stat().st_size} bytes that are not the published file"


class _Progress:
    """What pooch tells of its progress, as fractions."""

    def __init__(self, on_progress: Callable[[float], None]):
        self.on_progress, self.total, self.done = on_progress, 0, 0

    def update(self, size: int) -> None:
        self.done += size
        if self.total:
            self.on_progress(min(1.0, self.done / self.total))

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass
