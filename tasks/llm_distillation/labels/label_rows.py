"""The artifact kind `token_labels`: its files, and what is read of them.

A shard holds a range of the corpus' sequences, without those that were put aside. Its Arrow file `labels` has a row
for each, mapped into memory when read:

| column | type | |
|---|---|---|
| `sequence` | int32 | its number in the corpus, as `sequences` makes it |
| `tokens` | fixed-size list of uint16, or int32 where the vocabulary needs it | its token ids |
| `lengths` | list of int32 | tokens of each document in it; what is left at the end is padding |
| `learned` | fixed-size binary | a bit for each token, first bit first: whether it is a label |
| `labels` | large binary | for each learned token what the teacher said in the place before it, packed |

`labels` is a block of `token_codec` with the tables in the shard's Parquet file `tables` (name, dtype, shape, data);
of form `full` it is the float16 log-probabilities, position after position. The artifact's own file `set_aside`
(sequence, reason) names what has no row.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.llm_distillation.labels.token_codec import Tables
from tasks.llm_distillation.text.packing import Sequences

KIND = "token_labels"
Array = NDArray[np.generic]


def to_rows(
    sequences: Sequences, numbers: NDArray[np.int64], packed: Sequence[bytes], vocabulary: int
) -> pa.Table:
    """The rows of these sequences, with their packed labels."""
    learned = np.packbits(sequences.loss_mask[numbers], axis=1, bitorder="little")
    tokens = sequences.ids[numbers].astype(np.uint16 if vocabulary <= 1 << 16 else np.int32)
    lengths = [_lengths(sequences.document[number]) for number in numbers]
    bits = [row.tobytes() for row in learned]
    columns = {
        "sequence": pa.array(numbers, pa.int32()),
        "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens.ravel()), tokens.shape[1]),
        "lengths": pa.array(lengths, pa.list_(pa.int32())),
        "learned": pa.array(bits, pa.binary(learned.shape[1])),
        "labels": pa.array(packed, pa.large_binary()),
    }
    return pa.table(columns)


class Row:
    """One sequence of the Arrow file; nothing is read but what is asked for."""

    def __init__(self, table: pa.Table, index: int) -> None:
        self._row = table.slice(index, 1)

    @property
    def tokens(self) -> NDArray[np.int32]:
        """(T,)."""
        return self._values("tokens").astype(np.int32)

    @property
    def learned(self) -> NDArray[np.bool_]:
        """(T,)."""
        bits = np.frombuffer(self._row["learned"][0].as_py(), np.uint8)
        return np.unpackbits(bits, count=len(self._values("tokens")), bitorder="little").astype(bool)

    @property
    def position(self) -> NDArray[np.int32]:
        """(T,): the place of each token in its document; 0 for padding."""
        lengths = self._values("lengths")
        told = np.concatenate([np.arange(length) for length in lengths])
        return np.pad(told, (0, len(self._values("tokens")) - len(told))).astype(np.int32)

    @property
    def labels(self) -> bytes:
        return bytes(self._row["labels"][0].as_py())

    def _values(self, name: str) -> Array:
        return np.asarray(self._row[name].combine_chunks().flatten().to_numpy(zero_copy_only=False))


def tables_to_rows(tables: Tables) -> pa.Table:
    """The codec's tables, a row each."""
    arrays = {name: np.ascontiguousarray(array) for name, array in tables.arrays().items()}
    return pa.table(
        {
            "name": list(arrays),
            "dtype": [array.dtype.str for array in arrays.values()],
            "shape": pa.array([list(array.shape) for array in arrays.values()], pa.list_(pa.int64())),
            "data": pa.array([array.tobytes() for array in arrays.values()], pa.large_binary()),
        }
    )


def rows_to_tables(rows: pa.Table) -> Tables:
    """What `tables_to_rows` gave."""
    arrays: Mapping[str, Array] = {
        row["name"]: np.frombuffer(row["data"], np.dtype(row["dtype"])).reshape(row["shape"])
        for row in rows.to_pylist()
    }
    return Tables.of(arrays)  # type: ignore[arg-type]


def table_bytes(table: pa.Table) -> int:
    """What a table takes as a Parquet file of the store, about."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return int(sink.tell())


def set_aside_rows(aside: Sequence[tuple[int, str]]) -> pa.Table:
    """Number and reason of each sequence without labels."""
    numbers, reasons = zip(*aside, strict=True) if aside else ((), ())
    return pa.table({"sequence": pa.array(numbers, pa.int32()), "reason": pa.array(reasons, pa.string())})


def _lengths(document: NDArray[np.int32]) -> list[int]:
    """How many tokens each document of a sequence has."""
    inside = document[document >= 0]
    starts = np.flatnonzero(np.diff(inside, prepend=-2))
    return [int(length) for length in np.diff(starts, append=len(inside))]
