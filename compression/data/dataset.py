"""A set of images as every other file sees it: pixels in [0, 1], labels, and the fingerprint that records carry."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8


class DataError(ValueError):
    """Files of images that cannot be used as they are."""


class DataMissing(DataError):
    """A folder without the images that were asked for."""


class Images(ABC):
    """Images kept in less memory than their pixels take: an array [n, height, width, channel] made part by part.

    Indexed along the first axis by whatever indexes an array, it gives float32 pixels in [0, 1];
    `np.asarray` gives them all.
    """

    dtype = np.dtype(np.float32)
    shape: tuple[int, int, int, int]

    @property
    @abstractmethod
    def identity(self) -> np.ndarray:
        """An array that tells these images from others, as their fingerprint does."""

    @abstractmethod
    def pixels(self, indices: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k height width channel"]:
        """The images of these numbers, 0..n-1."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Float[np.ndarray, "..."]:
        indices = np.arange(len(self))[index]
        return self.pixels(indices.reshape(-1)).reshape(*indices.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


class Bytes(Images):
    """Images of whole numbers 0..255, kept as such.

    >>> Bytes(np.full((5, 2, 2, 1), 51, np.uint8))[[3, 1]].mean()
    np.float32(0.2)
    """

    def __init__(self, stored: UInt8[np.ndarray, "n height width channel"]):
        self.stored, self.shape = stored, stored.shape

    @property
    def identity(self) -> UInt8[np.ndarray, "n height width channel"]:
        """The bytes themselves."""
        return self.stored

    def pixels(self, indices: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k height width channel"]:
        """The images of these numbers, divided by 255."""
        return self.stored[indices] / np.float32(255)


class Dataset(NamedTuple):
    """A named data set with its fixed split.

    train_images, test_images: float32 [n, height, width, channel] in [0, 1], as an array or made part by part.
    train_labels, test_labels: int32 [n], 0..classes-1.
    """

    name: str
    train_images: Float[np.ndarray, "train height width channel"] | Images
    train_labels: Int[np.ndarray, "train"]
    test_images: Float[np.ndarray, "test height width channel"] | Images
    test_labels: Int[np.ndarray, "test"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[height, width, channel] of one image."""
        return self.test_images.shape[1:]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(np.concatenate([self.train_labels, self.test_labels]).max()) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all arrays, with their shapes."""
        digest = hashlib.sha256()
        for array in self[1:]:
            array = array.identity if isinstance(array, Images) else array
            digest.update(repr((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).reshape(-1))
        return digest.hexdigest()

    def subset(self, n: int, seed: int | None = None) -> Int[np.ndarray, "n"]:
        """Numbers of n test images: the first, or under a seed random ones, of which a larger n keeps all.

        Raises ValueError if there are not as many.
        """
        available = len(self.test_images)
        if not 1 <= n <= available:
            raise ValueError(f"{self.name} has {available} test images, got {n}; ask for 1 to as many (--images)")
        order = np.arange(available) if seed is None else np.random.default_rng(seed).permutation(available)
        return order[:n]


def only_test(name: str, images: Float[np.ndarray, "n height width channel"] | Images, labels: Any) -> Dataset:
    """A data set without images to train on.

    >>> only_test("grey", np.full((2, 4, 4, 1), 0.5, np.float32), [0, 1]).train_images.shape
    (0, 4, 4, 1)
    """
    none = np.zeros((0, *images.shape[1:]), np.float32)
    return Dataset(name, none, np.zeros(0, np.int32), images, np.asarray(labels, np.int32))
