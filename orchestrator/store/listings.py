"""The shards of an artifact: in its manifest where they are few, else in a Parquet file beside it, a row a shard.

The file is a blob, read a group of rows at a time, so that a million shards take no memory to speak of. Columns:
`key`; `identity` and `facts` as JSON; `metrics`; `files`, each with name, sha256, bytes and rows; `seconds` that the
shard took.
"""

import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from orchestrator.keys import canonical
from orchestrator.store.abreast import abreast
from orchestrator.store.blobs import checked, keep_file
from orchestrator.store.bytes import Bytes
from orchestrator.store.records import FileRef, Listing, Manifest, ShardEntry, ShardRecord

if TYPE_CHECKING:
    import pyarrow as pa

MANY = 10_000
"""Shards that a manifest holds itself, at most."""
_GROUP = 10_000
"""Rows that are read at a time."""


@dataclass(frozen=True)
class Gathered:
    """The shards of an artifact to be, read once from their records."""

    entries: Sequence[ShardEntry]
    seconds: Sequence[float]
    """What each took, where that is known."""
    file: FileRef | None
    """Where they are listed; None where the manifest is to hold them."""

    def listing(self, files: dict[str, FileRef]) -> Listing | None:
        """What the manifest with these files of its own says of the list."""
        if self.file is None:
            return None
        assert isinstance(self.entries, ListedShards)
        digest, size = self.entries.content(files)
        median = float(statistics.median(self.seconds)) if self.seconds else None
        return Listing(file=self.file, digest=digest, bytes=size, shard_seconds=median)


def gather(space: Bytes, keys: Iterable[str], read: Callable[[str], ShardRecord]) -> Gathered:
    """Reads the records of these shards and lists them, in order."""
    keys = list(keys)
    records = abreast(space.at_once, read, keys)
    if len(keys) > MANY:
        return _listed(space, records)
    found = list(records)
    seconds = [record.provenance["seconds"] for record in found if "seconds" in record.provenance]
    return Gathered([record.entry for record in found], seconds, None)


def entries(space: Bytes, manifest: Manifest) -> Sequence[ShardEntry]:
    """The shards of an artifact. Raises CorruptBlob where their list is missing or damaged."""
    if manifest.listing is None:
        return manifest.shards
    return ListedShards(
        checked(space, manifest.listing.file, f"artifact {manifest.id[:12]}, its list of shards")
    )


class ListedShards(Sequence[ShardEntry]):
    """The rows of such a file. It is open while this object lives."""

    def __init__(self, file: Path) -> None:
        import pyarrow.parquet as pq

        self._opened = pq.ParquetFile(file, memory_map=True)
        counts = [
            self._opened.metadata.row_group(group).num_rows for group in range(self._opened.num_row_groups)
        ]
        self._starts = [sum(counts[:group]) for group in range(len(counts))]
        self._kept: tuple[int, list[dict[str, Any]]] = (-1, [])

    def __len__(self) -> int:
        return int(self._opened.metadata.num_rows)

    @overload
    def __getitem__(self, index: int) -> ShardEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ShardEntry]: ...
    def __getitem__(self, index: int | slice) -> ShardEntry | Sequence[ShardEntry]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        group = max(group for group, start in enumerate(self._starts) if start <= row)
        if self._kept[0] != group:
            self._kept = (group, self._opened.read_row_group(group).to_pylist())
        return _entry(self._kept[1][row - self._starts[group]])

    def __iter__(self) -> Iterator[ShardEntry]:
        for group in range(len(self._starts)):
            yield from map(_entry, self._opened.read_row_group(group).to_pylist())

    def content(self, files: dict[str, FileRef]) -> tuple[str, int]:
        """Digest and bytes of an artifact with these files of its own, as `Manifest` has them."""
        hashed, between = hashlib.sha256(b'{"files":' + canonical(_digests(files)) + b',"shards":['), b""
        for group in range(len(self._starts)):
            for row in self._opened.read_row_group(group, columns=["files"]).to_pylist():
                hashed.update(between + canonical({file["name"]: file["digest"] for file in row["files"]}))
                between = b","
        hashed.update(b"]}")
        return hashed.hexdigest(), self._bytes(files)

    def _bytes(self, files: dict[str, FileRef]) -> int:
        """Each content counts once."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = self._opened.read(columns=["files"]).column("files").combine_chunks().flatten()
        own = pa.table(
            {"digest": [ref.digest for ref in files.values()], "size": [ref.size for ref in files.values()]}
        )
        own = own.cast(pa.schema([("digest", pa.string()), ("size", pa.int64())]))
        listed = pa.table({name: pc.struct_field(found, name) for name in ("digest", "size")})
        once = pa.concat_tables([own, listed]).group_by("digest").aggregate([("size", "max")])
        return int(pc.sum(once.column("size_max")).as_py() or 0)


def _listed(space: Bytes, records: Iterator[ShardRecord]) -> Gathered:
    import pyarrow as pa
    import pyarrow.parquet as pq

    seconds: list[float] = []
    with space.scratch() as file:
        with ExitStack() as stack:
            writer = stack.enter_context(pq.ParquetWriter(file, _schema(), compression="zstd"))
            while rows := [_row(record) for record in islice(records, _GROUP)]:
                seconds += [row["seconds"] for row in rows if row["seconds"] is not None]
                writer.write_table(pa.Table.from_pylist(rows, schema=_schema()), row_group_size=_GROUP)
        with pq.ParquetFile(file) as written:
            count = written.metadata.num_rows
        ref = keep_file(space, file, rows=count)
    return Gathered(ListedShards(checked(space, ref, "list of shards")), seconds, ref)


def _schema() -> "pa.Schema":
    import pyarrow as pa

    words = {name: pa.string() for name in ("key", "identity", "facts")}
    file = {"name": pa.string(), "digest": pa.string(), "size": pa.int64(), "rows": pa.int64()}
    return pa.schema(
        {
            **words, "metrics": pa.map_(pa.string(), pa.float64()), "files": pa.list_(pa.struct(file)),
            "seconds": pa.float64(),
        }
    )  # fmt: skip


def _row(record: ShardRecord) -> dict[str, Any]:
    files = [
        {"name": name, "digest": ref.digest, "size": ref.size, "rows": ref.rows}
        for name, ref in record.files.items()
    ]
    return {
        "key": record.key, "identity": json.dumps(record.identity), "facts": json.dumps(record.facts),
        "metrics": list(record.metrics.items()), "files": files, "seconds": record.provenance.get("seconds"),
    }  # fmt: skip


def _entry(row: dict[str, Any]) -> ShardEntry:
    files = {file["name"]: FileRef(file["digest"], file["size"], file["rows"]) for file in row["files"]}
    return ShardEntry(
        key=row["key"], identity=json.loads(row["identity"]), facts=json.loads(row["facts"]),
        metrics=dict(row["metrics"]), files=files,
    )  # fmt: skip


def _digests(files: dict[str, FileRef]) -> dict[str, str]:
    return {name: ref.digest for name, ref in files.items()}
