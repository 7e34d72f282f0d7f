"""The data sets that a run can be told to measure on, and how their files come to be there."""

from pathlib import Path

from ..compression.data.cifar import cifar10, cifar100
from ..compression.data.dataset import DataMissing
from ..compression.data.digits import digits
from ..compression.data.download import download
from .progress import bar

DATASETS = {"digits": lambda folder: digits(), "cifar10": cifar10, "cifar100": cifar100}
"""Each reads a folder."""


def obtain(name: str, folder: Path) -> str:
    """Read a data set that lies in a folder, after its download where it does not; say what there is."""
    try:
        dataset = DATASETS[name](folder)
    except DataMissing:
        with bar(f"download {name}") as show:
            dataset = DATASETS[name](download(name, folder, show))
    train, test = len(dataset.train_images), len(dataset.test_images)
    return f"{name}: {train:,} training and {test:,} test images in {folder}, SHA-256 {dataset.fingerprint}"
