"""The data sets that a run can be told to measure on, which of their images, and how their files come to be there."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..compression.data.arrays import npz
from ..compression.data.cifar import cifar10, cifar100
from ..compression.data.dataset import DataMissing, Dataset
from ..compression.data.digits import digits
from ..compression.data.download import download
from ..compression.data.image_folder import image_folder
from ..compression.records import RecordError
from .progress import bar

DATASETS = {"digits": lambda folder: digits(), "cifar10": cifar10, "cifar100": cifar100}
"""Each reads a folder."""


def read(name: str, folder: Path, size: int) -> Dataset:
    """A data set of DATASETS from the folder, or one's own from its path, images of files in squares of `size` pixels.

    Raises DataError for what cannot be read, ValueError for what is not there.
    """
    path = Path(name)
    if name in DATASETS:
        return DATASETS[name](folder)
    if path.suffix == ".npz":
        return npz(path)
    if path.is_dir():
        return image_folder(path, size)
    raise ValueError(f"--dataset {name}: expected {', '.join(DATASETS)}, a folder of images or an .npz file of images "
                     "and labels; there is no such folder")


def read_images(path: Path) -> dict:
    """What an images.json says: data set, split, and the images' numbers; RecordError where it says none."""
    try:
        found = json.loads(path.read_text())
        return {**found, "indices": [int(index) for index in found["indices"]], "dataset": found["dataset"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} does not say which images a run measured; take that of a run which has begun, of "
                          "this version") from error


def chosen(told: Sequence[str], dataset: str, available: int) -> np.ndarray:
    """The images that --indices names: numbers, ranges, and files images.json of runs on the data set.

    Raises ValueError for what is none of them, for images that are not there, or that are named twice.

    >>> chosen(["7", "0:3"], "digits", available=500).tolist()
    [7, 0, 1, 2]
    """
    found = [index for word in told for index in _numbers(word, dataset)]
    if beyond := [index for index in found if not 0 <= index < available]:
        raise ValueError(f"--indices: there are {available} test images, numbered from 0, got {beyond[0]}")
    if twice := [index for index, count in Counter(found).items() if count > 1]:
        raise ValueError(f"--indices names image {twice[0]} twice; name each once")
    if len(found) < 2:
        raise ValueError(f"--indices names {len(found)} of the images; standard errors need at least 2")
    return np.array(found)


def _numbers(word: str, dataset: str) -> Sequence[int]:
    part = re.fullmatch(r"(\d+):(\d+)", word)
    if part and int(part[1]) < int(part[2]):
        return range(int(part[1]), int(part[2]))
    if word.isdecimal():
        return [int(word)]
    if not word.endswith(".json"):
        raise ValueError(f"--indices {word}: expected a number such as 7, a range such as 0:48 or a file images.json")
    found = read_images(Path(word))
    if found["dataset"] != dataset:
        raise ValueError(f"--indices {word}: its images are of {found['dataset']}, and this run's of {dataset}")
    return found["indices"]


def class_folders(name: str) -> int | None:
    """How many folders number the classes of one's own images; None where labels come otherwise."""
    path = Path(name)
    if name in DATASETS or not path.is_dir() or (path / "labels.csv").is_file():
        return None
    return sum(home.is_dir() for home in path.iterdir())


def obtain(name: str, folder: Path) -> str:
    """Read a data set that lies in a folder, after its download where it does not; say what there is."""
    try:
        dataset = DATASETS[name](folder)
    except DataMissing:
        with bar(f"download {name}") as show:
            dataset = DATASETS[name](download(name, folder, show))
    train, test = len(dataset.train_images), len(dataset.test_images)
    return f"{name}: {train:,} training and {test:,} test images in {folder}, SHA-256 {dataset.fingerprint}"
