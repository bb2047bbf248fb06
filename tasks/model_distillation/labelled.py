"""From what a teacher says of some views to the columns that are kept, with what is measured on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from orchestrator.task import Progress
from tasks.model_distillation.label_codec import Labels, decode, encode, fault, kl_divergence
from tasks.model_distillation.label_files import FEATURES
from tasks.nets import Trace

TEMPERATURES = {"kl": 1.0, "kl_t4": 4.0}
"""Name of the measured divergence to the temperature of both distributions."""
LARGEST = torch.finfo(torch.float16).max
COLUMN = "columns."


class Numbers(NamedTuple):
    """Which views."""

    samples: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Some views of a shard, in order."""

    columns: dict[str, npt.NDArray[Any]]
    """A row for each view; of one that was put aside, zeros."""
    divergences: Tensor
    """(TEMPERATURES, N), of the views that have a label."""
    sums: Tensor
    """See `class_sums`."""
    aside: tuple[tuple[int, int, str], ...]
    """Sample, epoch and reason of each view that has none."""

    @classmethod
    def joined(cls, parts: Sequence["Labelled"]) -> "Labelled":
        """One after the other."""
        return cls(
            {
                name: np.concatenate([part.columns[name] for part in parts])
                for name in sorted(parts[0].columns)
            },
            torch.cat([part.divergences for part in parts], dim=1),
            # From the left, so that a resumed sum has the same bits.
            reduce(torch.add, [part.sums for part in parts]),
            tuple(one for part in parts for one in part.aside),
        )

    def progress(self, batches: int) -> Progress:
        """To go on from, after so many batches."""
        columns = {COLUMN + name: torch.from_numpy(column) for name, column in self.columns.items()}
        tensors = {**columns, "divergences": self.divergences, "sums": self.sums}
        return Progress(tensors, {"aside": [list(one) for one in self.aside], "batches": batches})

    @classmethod
    def resume(cls, saved: Progress) -> "Labelled":
        columns = {
            name.removeprefix(COLUMN): value.numpy()
            for name, value in saved.tensors.items()
            if name.startswith(COLUMN)
        }
        aside = tuple((sample, epoch, reason) for sample, epoch, reason in saved.facts["aside"])
        return cls(columns, saved.tensors["divergences"], saved.tensors["sums"], aside)


def label(trace: Trace, labels: Labels, targets: Tensor, numbers: Numbers, *, features: bool) -> Labelled:
    """What is kept of the teacher's answers to some views, on the CPU; `targets` (N,) are the true classes.

    A view whose logits, or features where they are kept, are not finite or too large is put aside.
    """
    logits, seen = trace.logits.float().cpu(), trace.features.float().cpu()
    reasons = _reasons(labels, logits, seen if features else None)
    fine = torch.tensor([not reason for reason in reasons])
    logits, seen = (torch.where(fine[:, None], value, 0.0) for value in (logits, seen))
    columns = encode(labels, logits)
    stored = decode(labels, columns, logits.shape[1])
    measured = [kl_divergence(logits[fine], stored[fine], each) for each in TEMPERATURES.values()]
    if features:
        columns[FEATURES] = seen.half().numpy()
    views = zip(numbers.samples.tolist(), numbers.epochs.tolist(), reasons, strict=True)
    return Labelled(
        columns,
        torch.stack(measured),
        class_sums(seen, targets, fine, logits.shape[1]),
        tuple((sample, epoch, reason) for sample, epoch, reason in views if reason),
    )


def class_sums(features: Tensor, targets: Tensor, fine: Tensor, classes: int) -> Tensor:
    """(classes, d + 1), float64: the features (N, d) of the fine views added up by class, and their number."""
    counted = torch.cat([features, torch.ones(len(features), 1)], 1).double() * fine[:, None]
    return torch.zeros(classes, counted.shape[1], dtype=torch.float64).index_add_(0, targets, counted)


def class_means(sums: Tensor) -> Tensor:
    """(classes, d), float32, of `class_sums`; 0 for a class without a view."""
    return (sums[:, :-1] / sums[:, -1:].clamp(min=1)).float()


def _reasons(labels: Labels, logits: Tensor, features: Tensor | None) -> list[str]:
    """For each view why it is put aside, empty where it is not."""
    found = fault(labels, logits)
    if features is None:
        return found
    kept = (features.abs() <= LARGEST).all(1).tolist()
    return [
        reason or ("" if fits else "a feature is not finite, or beyond fp16")
        for reason, fits in zip(found, kept, strict=True)
    ]
