"""The artifact kind `soft_labels`: its files, and what is read of them.

Views are numbered: number v is the view of sample v % samples in epoch v // samples. A shard holds the range
`first` .. `last` of them, in the Arrow file `labels`, a row each, in order:

| column | type | |
|---|---|---|
| those of `label_codec` | numbers, or fixed-size lists of them | the label |
| `features` | fixed-size list of float16 | what the teacher's last layer was given, where asked for |

Rows are addressed, not searched. The row of a view that was put aside holds zeros, and the Parquet file
`set_aside` of the artifact (sample, epoch, reason) names it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from orchestrator.task import Artifact, Facts, ShardFiles
from tasks.model_distillation.label_codec import Columns, Labels, decode
from tasks.model_distillation.views import Views

KIND = "soft_labels"
FEATURES = "features"


def to_table(columns: Columns) -> pa.Table:
    """Columns (N,) or (N, width) as an Arrow table."""
    return pa.table({name: _to_arrow(column) for name, column in columns.items()})


def from_table(table: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """The columns of `to_table`, without a copy: not to be written to."""
    return {name: _from_arrow(table[name]) for name in table.column_names}


def _to_arrow(column: npt.NDArray[Any]) -> pa.Array:
    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), column.shape[1])


def _from_arrow(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    assert column.num_chunks == 1, column.num_chunks
    chunk = column.chunk(0)
    if not pa.types.is_fixed_size_list(chunk.type):
        return np.asarray(chunk.to_numpy(zero_copy_only=True))
    values = np.asarray(chunk.flatten().to_numpy(zero_copy_only=True))
    return values.reshape(len(chunk), chunk.type.list_size)


@dataclass(frozen=True, eq=False)
class KeptLabels:
    """The labels of an artifact; every access gathers its rows from the mapped files."""

    facts: Facts
    shards: Sequence[ShardFiles]
    set_aside: frozenset[tuple[int, int]]
    """(sample, epoch) of each view that has no label."""
    class_means: Tensor | None
    """(classes, d): the mean features of each class over all views; none where views are mixed."""

    @classmethod
    def of(cls, artifact: Artifact) -> "KeptLabels":
        aside = artifact.table("set_aside")
        tensors = artifact.tensors("class_means") if "class_means.safetensors" in artifact.names else {}
        return cls(
            facts=artifact.facts,
            shards=artifact.shards,
            set_aside=frozenset(zip(aside["sample"].to_pylist(), aside["epoch"].to_pylist(), strict=True)),
            class_means=tensors.get("means"),
        )

    @property
    def samples(self) -> int:
        return int(self.facts["samples"])

    @property
    def classes(self) -> int:
        return int(self.facts["classes"])

    @property
    def epochs(self) -> int:
        """How many epochs of views are labelled; a longer training begins with the first again."""
        return int(self.facts["epochs"])

    @property
    def view_seed(self) -> int:
        """Of `views.draw`."""
        return int(self.facts["view_seed"])

    @cached_property
    def views(self) -> Views:
        return Views.model_validate(self.facts["views"])

    @cached_property
    def labels(self) -> Labels:
        return Labels.model_validate(self.facts["labels"])

    @cached_property
    def _columns(self) -> list[dict[str, npt.NDArray[Any]]]:
        return [from_table(shard.table("labels")) for shard in self.shards]

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        return np.array([shard.identity["last"] for shard in self.shards]) + 1

    def rows(self, epoch: int, samples: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """The columns of these views, in this order."""
        numbers = (epoch % self.epochs) * self.samples + samples
        shards = np.searchsorted(self._ends, numbers, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        rows = numbers - starts[shards]
        found: dict[str, npt.NDArray[Any]] = {}
        for name, example in self._columns[0].items():
            found[name] = np.empty((len(numbers), *example.shape[1:]), example.dtype)
            for shard in np.unique(shards):
                own = shards == shard
                found[name][own] = self._columns[shard][name][rows[own]]
        return found

    def read(self, epoch: int, samples: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """The labels (N, classes) of these views, see `label_codec.decode`, and their features (N, d) where the
        artifact has them; both float32."""
        columns = self.rows(epoch, samples)
        features = columns.pop(FEATURES, None)
        found = None if features is None else torch.from_numpy(features.astype(np.float32))
        return decode(self.labels, columns, self.classes), found

    def kept(self, epoch: int) -> npt.NDArray[np.int64]:
        """The samples that have a label in this epoch."""
        aside = [sample for sample, its_epoch in self.set_aside if its_epoch == epoch % self.epochs]
        return np.setdiff1d(np.arange(self.samples), aside, assume_unique=True)


CHECKED = ("data_digest", "classes", "views", "teacher_digest", "labels", "epochs")
"""Facts that tell one set of labels from another, in the order in which a difference is told."""


def check_same(facts: Facts, expected: Mapping[str, Any]) -> None:
    """ValueError that names the first of the facts of soft labels that is not what a reader expects."""
    for name in CHECKED:
        if name in expected and facts[name] != expected[name]:
            raise ValueError(
                f"soft labels: {name} is {facts[name]}, expected {expected[name]}; give the labels that were made "
                f"for it, or make them anew"
            )
