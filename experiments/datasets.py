"""The data sets that a run can be told to measure on, and how their files come to be there."""

from pathlib import Path

from ..compression.data.arrays import npz
from ..compression.data.cifar import cifar10, cifar100
from ..compression.data.dataset import DataMissing, Dataset
from ..compression.data.digits import digits
from ..compression.data.download import download
from ..compression.data.image_folder import image_folder
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
        return image_folder(path, size, resize=size)
    raise ValueError(f"--dataset {name}: expected {', '.join(DATASETS)}, a folder of images or an .npz file of images "
                     "and labels; there is no such folder")


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
