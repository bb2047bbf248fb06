"""What a two-class problem is once it lies in memory, and what a network is trained and tested on."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import MT19937, RandomState
from torch import Tensor

from tasks.data import ImageData
from tasks.data import Split as ImageSplit

from .encoding import Encoder

SMALL_SEED = 1 << 32


class BinarySplit(NamedTuple):
    """Float32 tensors on the CPU, contiguous."""

    train_x: Tensor
    """(N, features) or (N, C, H, W)."""
    train_y: Tensor
    """(N,), -1 or +1."""
    test_x: Tensor
    test_y: Tensor


class BinaryData(ABC):
    """A checked two-class problem. It is shared by all who load it: do not write to its arrays."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """Rows of a table; training and test images together."""

    @property
    @abstractmethod
    def positive_rate(self) -> float:
        """Fraction of rows of the class +1."""

    @property
    @abstractmethod
    def columns(self) -> int:
        """Features before categories are encoded; numbers that an image holds."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(C, H, W), or (features,) after categories are encoded: the same for every split."""

    @property
    def is_images(self) -> bool:
        return len(self.shape) == 3

    @abstractmethod
    def split(self, seed: int, test_share: float) -> BinarySplit:
        """Training and test rows, encoded and scaled by what the training rows alone tell."""


@dataclass(frozen=True, eq=False)
class TableData(BinaryData):
    """A table of numbers and categories."""

    source: str
    """File or name that messages give."""
    numbers: np.ndarray
    """float64 (N, numeric columns), NaN where missing."""
    categories: np.ndarray
    """int32 (N, categorical columns): a number for each value of a column, missing being one of them."""
    sizes: tuple[int, ...]
    """Number of values of each categorical column, in the whole table."""
    labels: np.ndarray
    """float32 (N,), -1 or +1."""

    @property
    def rows(self) -> int:
        return len(self.labels)

    @property
    def positive_rate(self) -> float:
        return float((self.labels > 0).mean())

    @property
    def columns(self) -> int:
        return int(self.numbers.shape[1] + self.categories.shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.numbers.shape[1] + sum(self.sizes),)

    def taken(self, rows: np.ndarray) -> "TableData":
        """The table of these rows."""
        return replace(
            self, numbers=self.numbers[rows], categories=self.categories[rows], labels=self.labels[rows]
        )

    def split(self, seed: int, test_share: float) -> BinarySplit:
        """A plain random split, not stratified, as the authors of EnsLoss draw it (0.3 of the rows for testing).

        For a seed below 2**32 it is that of scikit-learn's `train_test_split(random_state=seed)`. Raises
        ValueError where the training rows are of one class only.
        """
        from sklearn.model_selection import train_test_split

        state = seed if seed < SMALL_SEED else RandomState(MT19937(seed))
        chosen = train_test_split(np.arange(self.rows), test_size=test_share, random_state=state)
        train, test = (self.taken(rows) for rows in chosen)
        if len(np.unique(train.labels)) < 2:
            raise ValueError(
                f"{self.source}: the {train.rows} training rows of split {seed} are of one class only; expected "
                "both: give more rows, or a smaller share for testing"
            )
        encoder = Encoder.fitted(train.numbers, train.categories, self.sizes)
        sides = [(encoder.apply(part.numbers, part.categories), part.labels) for part in (train, test)]
        return BinarySplit(*(torch.from_numpy(array) for side in sides for array in side))


@dataclass(frozen=True, eq=False)
class ImagePair(BinaryData):
    """The images of two classes with the split that the images came with."""

    images: ImageData
    """Of two classes; label 1 is the class +1."""

    @property
    def rows(self) -> int:
        return len(self.images.train) + len(self.images.test)

    @property
    def positive_rate(self) -> float:
        return float(self.images.train.labels.sum() + self.images.test.labels.sum()) / self.rows

    @property
    def columns(self) -> int:
        return int(np.prod(self.images.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images.shape

    def split(self, seed: int, test_share: float) -> BinarySplit:
        """The images' own split, pixels from 0 to 1 normalised by mean 0.5 and standard deviation 0.5; no
        augmentation. `seed` and `test_share` are not read."""
        return BinarySplit(*_normalised(self.images.train), *_normalised(self.images.test))


def _normalised(split: ImageSplit) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(split.images).float().div_(255).sub_(0.5).div_(0.5)
    return pixels, torch.from_numpy(split.labels).float() * 2 - 1
