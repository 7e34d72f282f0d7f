"""Image data sets as arrays of pixels in [0, 1], with the fingerprint that records carry."""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DIGITS_TEST = 500


class Dataset(NamedTuple):
    """A named data set with its fixed split.

    train_images, test_images: float32 [n, height, width, channel] in [0, 1].
    train_labels, test_labels: int32 [n], 0..classes-1.
    """

    name: str
    train_images: Float[np.ndarray, "train height width channel"]
    train_labels: Int[np.ndarray, "train"]
    test_images: Float[np.ndarray, "test height width channel"]
    test_labels: Int[np.ndarray, "test"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[height, width, channel] of one image."""
        return self.test_images.shape[1:]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(max(self.train_labels.max(), self.test_labels.max())) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all arrays, with their shapes."""
        digest = hashlib.sha256()
        for array in self[1:]:
            digest.update(repr((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def digits() -> Dataset:
    """scikit-learn's 1,797 real handwritten digits (8x8, grey), 500 of them a stratified, fixed test set.

    >>> digits().test_images.shape
    (500, 8, 8, 1)
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[..., None]
    labels = bunch.target.astype(np.int32)
    train, test = train_test_split(np.arange(len(labels)), test_size=DIGITS_TEST, stratify=labels, random_state=0)
    return Dataset("digits", images[train], labels[train], images[test], labels[test])
