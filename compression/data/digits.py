"""Real handwritten digits that come with scikit-learn: nothing to download."""

import numpy as np

from .dataset import Dataset

TEST = 500
"""Images of the test set."""


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
    train, test = train_test_split(np.arange(len(labels)), test_size=TEST, stratify=labels, random_state=0)
    return Dataset("digits", images[train], labels[train], images[test], labels[test])
