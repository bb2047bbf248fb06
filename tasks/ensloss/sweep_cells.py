"""The cells of a sweep: which there are, how they go into shards, and what one reports."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.task import Json


@dataclass(frozen=True, order=True)
class Cell:
    """One network trained under one loss on one split."""

    dataset: str
    network: str
    lr: float
    loss: str
    repeat: int

    @property
    def short(self) -> str:
        """What tells it from the others of its stack."""
        return f"{self.loss}/{self.lr!r}/{self.repeat}"


@dataclass(frozen=True)
class Result:
    """What a cell came to: everything after the last epoch, as the protocol has it."""

    cell: Cell
    train_accuracy: float
    test_accuracy: float
    test_auc: float | None
    """Area under the ROC curve; None where the test samples are all of one class."""
    epochs: tuple[int, ...]
    train_curve: tuple[float, ...]
    """Accuracies at `epochs`."""
    test_curve: tuple[float, ...]

    def row(self) -> dict[str, Json]:
        """As a row of the table of cells."""
        reached = {
            "train_accuracy": self.train_accuracy, "test_accuracy": self.test_accuracy, "test_auc": self.test_auc,
        }  # fmt: skip
        return {**asdict(self.cell), **reached}

    def to_json(self) -> Json:
        """All but the dataset's name: a shard knows its data by content."""
        told = asdict(self)
        del told["cell"]["dataset"]
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, Any], dataset: str) -> "Result":
        lists = {name: tuple(told[name]) for name in ("epochs", "train_curve", "test_curve")}
        return cls(**{**told, **lists, "cell": Cell(dataset=dataset, **told["cell"])})


def cells_of(
    dataset: str, network: str, lrs: Sequence[float], losses: Sequence[str], repeats: int
) -> list[Cell]:
    """All cells of one shape, in the order in which they are stacked."""
    return [
        Cell(dataset, network, lr, loss, repeat) for lr in lrs for loss in losses for repeat in range(repeats)
    ]


def named(data: str) -> str:
    """How an identity names data by the digest of its content: files may move and be renamed."""
    return data[:16]


def identity(cells: Sequence[Cell], data: str) -> dict[str, Json]:
    """Of the shard that holds these cells of one dataset, whose content has the digest `data`, and one network."""
    first = cells[0]
    where: dict[str, Json] = {"data": named(data), "network": first.network}
    if len(cells) == 1:
        return {**where, "loss": first.loss, "lr": first.lr, "repeat": first.repeat}
    return {**where, "cells": [cell.short for cell in cells]}


def cells_in(identity: Mapping[str, Any], dataset: str) -> list[Cell]:
    """The cells of a shard; `dataset` is what its data is called."""
    network = identity["network"]
    if "cells" not in identity:
        return [Cell(dataset, network, identity["lr"], identity["loss"], identity["repeat"])]
    parts = (short.split("/") for short in identity["cells"])
    return [Cell(dataset, network, float(lr), loss, int(repeat)) for loss, lr, repeat in parts]
