"""`digits`: 1,797 handwritten digits, 8x8, that come with scikit-learn (UCI optical recognition test set)."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .image_data import Loaded

if TYPE_CHECKING:
    from .dataset import Dataset

CLASSES = tuple("0123456789")
BRIGHTEST = 16
TEST_EVERY = 5


def files(dataset: "Dataset", split: str) -> dict[str, Path]:
    """None: the package brings the images."""
    return {}


def read(dataset: "Dataset", split: str) -> Loaded:
    """Every fifth image of a class is a test image: 80/20, stratified, with no random number in it."""
    images, labels = _digits()
    in_test = _rank_in_class(labels) % TEST_EVERY == TEST_EVERY - 1
    chosen = in_test if split == "test" else ~in_test
    return Loaded("digits", images[chosen], labels[chosen], CLASSES)


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    scaled = np.rint(images.reshape(-1, 8, 8) * (255 / BRIGHTEST)).astype(np.uint8)
    return scaled, labels.astype(np.int64)


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    """How many of the same class come before each image."""
    ranks = np.empty_like(labels)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = np.arange(len(members))
    return ranks
