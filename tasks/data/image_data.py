"""What a dataset is once it lies in memory."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Loaded:
    """One split as a reader hands it over, before it has been checked."""

    source: str
    """File or folder that messages name."""
    images: np.ndarray
    """(N, H, W) or (N, H, W, C)."""
    labels: np.ndarray
    """(N,)."""
    classes: tuple[str, ...] | None = None
    """Class names in label order, where the files tell them."""


@dataclass(frozen=True, eq=False)
class Split:
    """Checked images with their labels. The arrays are shared by all who load them: do not write to them."""

    images: np.ndarray
    """uint8 (N, C, H, W), contiguous."""
    labels: np.ndarray
    """int64 (N,), every whole number from 0 to classes - 1."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageData:
    """A checked training and test set of the same shape and classes."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    """Class names in label order."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of training images of each class."""
        return tuple(np.bincount(self.train.labels, minlength=len(self.classes)).tolist())
