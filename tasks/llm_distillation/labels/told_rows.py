"""Token labels as rows for other tools: one a sequence, unpacked."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from torch import Tensor

from tasks.llm_distillation.labels.kept_labels import KeptTokenLabels, Told

TOGETHER = 256
"""Sequences of a table."""
PARTS = ("ids", "log_probs", "counts", "tail")


def told_rows(kept: KeptTokenLabels) -> Iterator[pa.Table]:
    """`sequence`, its `tokens`, which of them are `learned`; and for each learned token what the teacher said in the
    place before it: `ids` and `log_probs` of the tokens that were kept, and the probability of all others (`tail`)
    or how often each was drawn (`counts`). Of form `full` there are no ids: all tokens come in order."""
    for numbers in kept.numbers:
        for start in range(0, len(numbers), TOGETHER):
            own = numbers[start : start + TOGETHER]
            told = [one for one in kept.read(own) if one is not None]
            yield _table(
                own, told, [part for part in PARTS if kept.labels.form != "full" or part == "log_probs"]
            )


def _table(numbers: np.ndarray, told: list[Told], parts: list[str]) -> pa.Table:
    columns = {
        "sequence": pa.array(numbers, pa.int32()),
        "tokens": pa.array([one.row.tokens for one in told], pa.list_(pa.int32())),
        "learned": pa.array([one.row.learned for one in told], pa.list_(pa.bool_())),
    }
    for part in parts:
        said = [getattr(one.spoken, part, None) for one in told]
        if said[0] is not None:
            columns[part] = _nested(said)
    return pa.table(columns)


def _nested(said: list[Tensor]) -> pa.Array:
    """A list for each sequence, with a number or a list for each of its learned tokens."""
    ends = pa.array(np.cumsum([0, *map(len, said)]), pa.int32())
    values = [one.numpy() for one in said]
    if said[0].ndim == 1:
        return pa.ListArray.from_arrays(ends, pa.array(np.concatenate(values)))
    inner = np.cumsum([0, *(one.shape[1] for one in values for _ in range(len(one)))])
    flat = pa.array(np.concatenate([one.ravel() for one in values]))
    return pa.ListArray.from_arrays(ends, pa.ListArray.from_arrays(pa.array(inner, pa.int32()), flat))
