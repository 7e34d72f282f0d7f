"""Images and labels of one's own, from a NumPy file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..checks import check_images, check_labels
from .dataset import Bytes, DataError, Dataset, only_test


def npz(path: Path | str) -> Dataset:
    """Test images of an `.npz` file, named as the file is.

    path: its `images` are [n, height, width, channel], uint8 0..255 or floating in [0, 1]; its `labels` n class
        numbers from 0. Written by `np.savez(path, images=images, labels=labels)`.

    Raises DataError for a file without these, or that cannot be read.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]
    except KeyError as error:
        raise DataError(f"{path} lacks images or labels: {error.args[0]}; write it by np.savez(path, images=images, "
                        "labels=labels)") from error
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as .npz of numbers ({error}); write it by np.savez") from error
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise DataError(f"{path}: expected images [n, height, width, 1 or 3], got {images.shape}; transpose them")
    try:
        check_images(images[:1] / np.float32(255) if images.dtype == np.uint8 else images)
        check_labels(labels, len(images))
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    return only_test(path.stem, Bytes(images) if images.dtype == np.uint8 else images.astype(np.float32), labels)
