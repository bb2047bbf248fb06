"""What a comparison of students has found, as tables and metrics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.task import ShardFiles
from tasks.model_distillation.student_scores import Scores

CONTROL = "control"
"""The method that the others are compared with."""


@dataclass(frozen=True)
class Result:
    """What one student came to, after the last epoch."""

    method: str
    """What the method is called."""
    repeat: int
    scores: Scores
    losses: tuple[float, ...]
    """Training loss of each epoch."""
    tested: tuple[tuple[int, float], ...]
    """Epochs after which the test set was seen, and the accuracy there."""

    @classmethod
    def of(cls, shard: ShardFiles, labels: Mapping[str, str]) -> "Result":
        """`labels`: a method's formula to what it is called."""
        told = shard.document("result")
        return cls(
            method=labels[shard.identity["method"]],
            repeat=shard.identity["repeat"],
            scores=Scores.from_json(told["scores"]),
            losses=tuple(told["losses"]),
            tested=tuple((epoch, accuracy) for epoch, accuracy in told["tested"]),
        )


Found = dict[str, dict[str, list[float]]]
"""Method to measure to its values, one a repeat."""


def measures(results: Sequence[Result]) -> Found:
    """Accuracy, agreement, NLL, ECE, and the gain in accuracy over the control of the same repeat."""
    control = {one.repeat: one.scores.accuracy for one in results if one.method == CONTROL}
    found: Found = {}
    for one in results:
        named = one.scores.named()
        if one.method != CONTROL and one.repeat in control:
            named["gain"] = named["accuracy"] - control[one.repeat]
        for name, value in named.items():
            found.setdefault(one.method, {}).setdefault(name, []).append(value)
    return found


def student_metrics(results: Sequence[Result]) -> dict[str, float]:
    """`METHOD_accuracy`, `METHOD_accuracy_se` and so on; standard errors where there are several repeats."""
    metrics = {}
    for method, by_name in measures(results).items():
        for name, values in by_name.items():
            metrics[f"{method}_{name}"] = float(np.mean(values))
            if (error := standard_error(values)) is not None:
                metrics[f"{method}_{name}_se"] = error
    return metrics


def summary_table(results: Sequence[Result]) -> pa.Table:
    """One row a method: means and standard errors over the repeats; shares in percent, NLL in nats."""
    rows = []
    for method, by_name in measures(results).items():
        row: dict[str, Any] = {"method": method, "students": len(by_name["accuracy"])}
        for name, unit, places in (
            ("accuracy", "_%", 2), ("agreement", "_%", 2), ("nll", "", 4), ("ece", "_%", 2), ("gain", "_%", 2),
        ):  # fmt: skip
            scale = 100 if unit else 1
            values = [scale * value for value in by_name.get(name, [])]
            row[f"{name}{unit}"] = round(float(np.mean(values)), places) if values else None
            error = standard_error(values)
            row[f"{name}_se{unit}"] = None if error is None else round(error, places)
        rows.append(row)
    return pa.Table.from_pylist(rows)


def cell_table(results: Sequence[Result]) -> pa.Table:
    """One row a student; shares are fractions."""
    rows = [
        {
            "method": one.method, "repeat": one.repeat, "train_loss": one.losses[-1],
            "accuracy": one.scores.accuracy, "agreement": one.scores.agreement, "nll": one.scores.nll,
            "ece": one.scores.ece,
        }
        for one in results
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def curve_table(results: Sequence[Result]) -> pa.Table:
    """One row a student and epoch: training loss, and test accuracy, a fraction, where it was measured."""
    rows = []
    for one in results:
        tested = dict(one.tested)
        rows += [
            {
                "method": one.method,
                "repeat": one.repeat,
                "epoch": epoch,
                "train_loss": loss,
                "accuracy": tested.get(epoch),
            }
            for epoch, loss in enumerate(one.losses, 1)
        ]
    return pa.Table.from_pylist(rows)


def reliability_table(results: Sequence[Result]) -> pa.Table:
    """One row a method and bin of confidence: test samples of all students, their mean confidence and accuracy."""
    rows = []
    for method in dict.fromkeys(one.method for one in results):
        for number, (count, confidence, accuracy) in enumerate(zip(*pooled(results, method), strict=True)):
            rows.append(
                {
                    "method": method,
                    "bin": number,
                    "samples": int(count),
                    "confidence": float(confidence) if count else None,
                    "accuracy": float(accuracy) if count else None,
                }
            )
    return pa.Table.from_pylist(rows)


def pooled(results: Sequence[Result], method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, mean confidences and accuracies (BINS,) over all students of a method; 0 in an empty bin."""
    bins = [one.scores.bins for one in results if one.method == method]
    counts = np.array([own.count for own in bins])
    total = counts.sum(0)

    def mean(name: str) -> np.ndarray:
        values = np.array([getattr(own, name) for own in bins])
        means: np.ndarray = (counts * values).sum(0) / np.maximum(total, 1)
        return means

    return total, mean("confidence"), mean("accuracy")


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for fewer than two values."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
