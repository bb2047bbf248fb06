"""Checks on a distilled set and on pixel statistics that others have made. One clear line for what is wrong."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from orchestrator.task import Settings
from tasks.data import Transform
from tasks.data.transform import ZCA_EPSILON
from tasks.dataset_distillation.foreign import DataFile, Tensors

Shape = tuple[int, int, int]
SUM_TOLERANCE = 1e-3
SYMMETRY_TOLERANCE = 1e-3


class ChannelStatistics(Settings):
    """Of the pixels in [0, 1], one number a channel."""

    mean: tuple[float, ...]
    """Subtracted."""
    std: tuple[float, ...]
    """Divided by."""


@dataclass(frozen=True)
class ForeignSet:
    """Images (n,C,H,W) float or uint8, labels (n,) int64 or probabilities (n,classes), a scalar step size."""

    images: Tensor
    labels: Tensor
    learning_rate: Tensor

    @property
    def soft(self) -> bool:
        return self.labels.is_floating_point()

    def class_by_class(self) -> "ForeignSet":
        """Sorted by hard label; soft labels name no class for sure, so those keep their order."""
        if self.soft:
            return self
        order = self.labels.argsort(stable=True)
        return ForeignSet(self.images[order], self.labels[order], self.learning_rate)


def channels_first(images: Tensor, shape: Shape, where: str) -> Tensor:
    """(n,C,H,W) from (n,C,H,W), (n,H,W,C) or, of one channel, (n,H,W); finite, float or uint8."""
    channels, height, width = shape
    found = tuple(images.shape)
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"{where}: images are {_name(images)}; expected floats, or uint8 pixels")
    if found[1:] == (height, width) and channels == 1:
        images = images[:, None]
    elif found[1:] == (height, width, channels) and found[1:] != shape:
        images = images.permute(0, 3, 1, 2)
    elif found[1:] != shape:
        raise ValueError(
            f"{where}: images have the shape {found}; expected (n, {channels}, {height}, {width}) as in the dataset"
        )
    if not images.isfinite().all():
        raise ValueError(
            f"{where}: {_not_finite(images)} of {images.numel()} pixels are not finite; expected none"
        )
    return images


def check_labels(labels: Tensor, images: int, classes: int, where: str) -> Tensor:
    """Hard labels (n,) as int64, each class equally often, or probabilities (n,classes) as float32."""
    if len(labels.shape) not in (1, 2) or len(labels) != images:
        raise ValueError(
            f"{where}: labels have the shape {tuple(labels.shape)}; expected ({images},), one an image"
        )
    if images == 0 or images % classes:
        raise ValueError(
            f"{where}: found {images} images of {classes} classes; expected equally many of each"
        )
    return (
        _probabilities(labels, classes, where) if labels.ndim == 2 else _class_numbers(labels, classes, where)
    )


def _class_numbers(labels: Tensor, classes: int, where: str) -> Tensor:
    numbers = labels.to(torch.int64)
    if labels.dtype.is_complex or not torch.equal(numbers.to(labels.dtype), labels):
        raise ValueError(f"{where}: labels are not whole numbers; expected 0 to {classes - 1}")
    if numbers.min() < 0 or numbers.max() >= classes:
        odd = int(numbers.min() if numbers.min() < 0 else numbers.max())
        raise ValueError(
            f"{where}: found the label {odd}; expected 0 to {classes - 1}, the dataset's classes"
        )
    counts = numbers.bincount(minlength=classes)
    if counts.min() != counts.max():
        few, many = int(counts.argmin()), int(counts.argmax())
        raise ValueError(
            f"{where}: class {few} has {counts[few]} images and class {many} has {counts[many]}; "
            "expected equally many of each"
        )
    return numbers


def _probabilities(labels: Tensor, classes: int, where: str) -> Tensor:
    if labels.shape[1] != classes:
        raise ValueError(f"{where}: labels have {labels.shape[1]} columns; expected {classes}, one a class")
    rows = labels.float()
    sums = rows.sum(1)
    # Negated, so that NaN is refused too.
    if not (rows.min() >= 0 and (sums - 1).abs().max() <= SUM_TOLERANCE):
        raise ValueError(
            f"{where}: rows of soft labels are no probabilities (smallest value {float(rows.min()):.3g}, sums from "
            f"{float(sums.min()):.3g} to {float(sums.max()):.3g}); expected sums of 1: apply softmax to logits"
        )
    return rows


def check_learning_rate(value: Tensor, where: str) -> Tensor:
    """A positive step size as a float32 scalar."""
    if value.numel() != 1:
        raise ValueError(f"{where}: learning_rate has the shape {tuple(value.shape)}; expected one number")
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{where}: learning_rate is {number}; expected a step size above 0")
    return torch.tensor(number, dtype=torch.float32)


def foreign_transform(
    statistics: DataFile | ChannelStatistics, kind: Literal["normalize", "zca"], shape: Shape
) -> Transform:
    """The space that others' statistics span. ValueError where they do not fit the kind or the images."""
    if isinstance(statistics, ChannelStatistics):
        found: Tensors = {"mean": torch.tensor(statistics.mean), "std": torch.tensor(statistics.std)}
        return _channels(found, kind, shape, "statistics")
    found = statistics.read()
    if kind == "normalize":
        return _channels(found, kind, shape, statistics.path)
    return _whitening(found, shape, statistics.path)


def _channels(found: Tensors, kind: str, shape: Shape, where: str) -> Transform:
    if kind != "normalize":
        raise ValueError(f"{where}: found the statistics of channels; expected a file with those of {kind}")
    mean, std = (_statistic(found, name, (shape[0],), where) for name in ("mean", "std"))
    if std.min() <= 0:
        raise ValueError(f"{where}: found a std of {float(std.min()):.3g}; expected numbers above 0")
    return Transform.from_tensors({"mean": mean, "std": std})


def _whitening(found: Tensors, shape: Shape, where: str) -> Transform:
    """From x -> (x - mean) matrix, with matrix = U diag(1/sqrt(s + 0.1)) U', back to s and U."""
    size = math.prod(shape)
    mean, matrix = _statistic(found, "mean", (size,), where), _statistic(found, "matrix", (size, size), where)
    if (matrix - matrix.T).abs().max() > SYMMETRY_TOLERANCE * matrix.abs().max():
        raise ValueError(f"{where}: matrix is not symmetric; expected ZCA whitening, not that of PCA")
    scales, vectors = torch.linalg.eigh(matrix.double())
    if scales.min() <= 0:
        raise ValueError(
            f"{where}: matrix has the eigenvalue {float(scales.min()):.3g}; expected all above 0"
        )
    return Transform.from_tensors(
        {
            "mean": mean.reshape(shape),
            "eigenvalues": (scales**-2 - ZCA_EPSILON).float(),
            "eigenvectors": vectors.float().contiguous(),
        }
    )


def _statistic(found: Tensors, name: str, shape: Sequence[int], where: str) -> Tensor:
    """As float32, of `shape` or of another with the same number of elements."""
    if name not in found:
        raise ValueError(f"{where}: holds {', '.join(found) or 'nothing'}; expected a tensor named {name!r}")
    value = found[name].float()
    if value.numel() != math.prod(shape) or not value.isfinite().all():
        raise ValueError(
            f"{where}: {name} has the shape {tuple(value.shape)}; expected {tuple(shape)}, all finite"
        )
    return value.reshape(tuple(shape))


def _not_finite(values: Tensor) -> int:
    return int((~values.isfinite()).sum())


def _name(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")
