"""The content layer: outputs to deterministic files named by their sha256, and read-only views of them."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

from orchestrator.errors import nearest
from orchestrator.keys import canonical
from orchestrator.store.blobs import checked, keep_bytes, keep_file
from orchestrator.store.bytes import Bytes
from orchestrator.store.listings import entries
from orchestrator.store.records import FileRef, Manifest, ShardEntry, ShardRecord
from orchestrator.task import Facts, Json, Output

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

_ROW_GROUP = 131072
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=,+-]{0,99}")


def write_output(space: Bytes, output: Output) -> dict[str, FileRef]:
    """Writes every file of `output` as a blob; equal values give equal bytes. Returns names with suffix."""
    tensors = {_file_name(name, "safetensors"): value for name, value in output.tensors.items()}
    tables = {_file_name(name, "parquet"): value for name, value in output.tables.items()}
    mapped = {_file_name(name, "arrow"): value for name, value in output.mapped.items()}
    documents = {
        _file_name(name, "json"): canonical(value, f"document {name}")
        for name, value in output.documents.items()
    }
    files = {name: _keep_tensors(space, value) for name, value in tensors.items()}
    files |= {name: _keep_table(space, value) for name, value in tables.items()}
    files |= {name: _keep_mapped(space, value) for name, value in mapped.items()}
    files |= {name: keep_bytes(space, value) for name, value in documents.items()}
    return dict(sorted(files.items()))


def tensor_bytes(tensors: Mapping[str, "Tensor"], metadata: dict[str, str]) -> bytes:
    """Named tensors, from any device and of any layout in memory, as safetensors with this header."""
    from safetensors.torch import save

    return save(_separate(tensors), metadata)


def save_tensors(tensors: Mapping[str, "Tensor"], file: Path) -> None:
    """As `tensor_bytes`, to a local file. Raises OSError as the disk does."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(_separate(tensors), file)
    except SafetensorError as error:
        # Its only errors with a number are those of the disk.
        if code := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        raise


def map_tensors(file: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file as a private mapping of it: memory is taken as it is touched."""
    from safetensors import safe_open

    with safe_open(file, framework="pt", device="cpu") as opened:
        return {name: opened.get_tensor(name) for name in sorted(opened.keys())}


class StoredFiles:
    """Fulfils `orchestrator.task.Files`; a file is opened when it is asked for."""

    def __init__(self, space: Bytes, made: ShardEntry | Manifest, where: str) -> None:
        self._space, self._made, self._where = space, made, where

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where})"

    @property
    def facts(self) -> Facts:
        return self._made.facts

    @property
    def metrics(self) -> Mapping[str, float]:
        return self._made.metrics

    @property
    def names(self) -> Sequence[str]:
        return sorted(self._made.files)

    def file(self, name: str) -> Path:
        """A local file with the content of `name` (with suffix), to be read only."""
        if name not in self._made.files:
            raise ValueError(f"{self._where} has no file {name!r}; {nearest(name, self._made.files)}")
        return checked(self._space, self._made.files[name], f"{self._where}, file {name}")

    def tensors(self, name: str, rows: Sequence[int] | None = None) -> "dict[str, Tensor]":
        """See `orchestrator.task.Files`. A tensor without axes has no rows and comes whole. What comes
        whole is as `map_tensors` has it."""
        whole = map_tensors(self.file(f"{name}.safetensors"))
        if rows is None:
            return whole
        return {key: _select(tensor, rows, f"{self._where}, {name}.{key}") for key, tensor in whole.items()}

    def table(self, name: str) -> "pa.Table":
        """See `orchestrator.task.Files`. A table of an Arrow file is its mapping: nothing is read or decoded."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if f"{name}.arrow" in self._made.files:
            with pa.memory_map(str(self.file(f"{name}.arrow"))) as mapping:
                return pa.ipc.open_file(mapping).read_all()
        with pq.ParquetFile(self.file(f"{name}.parquet"), memory_map=True) as opened:
            return opened.read()

    def document(self, name: str) -> Json:
        return json.loads(self.file(f"{name}.json").read_bytes())


class StoredShard(StoredFiles):
    """Fulfils `orchestrator.task.ShardFiles`."""

    def __init__(self, space: Bytes, entry: ShardEntry, where: str) -> None:
        super().__init__(space, entry, where)
        self.key = entry.key
        self.identity: Mapping[str, Json] = entry.identity


class CommittedShard(StoredShard):
    """A shard by its own record."""

    def __init__(self, space: Bytes, record: ShardRecord) -> None:
        super().__init__(space, record, f"shard {record.key[:12]} ({record.label})")
        self.record = record


class StoredShards(Sequence[StoredShard]):
    """Views of listed shards, made as they are asked for."""

    def __init__(self, space: Bytes, listed: Sequence[ShardEntry], where: str) -> None:
        self._space, self._listed, self._where = space, listed, where

    def __len__(self) -> int:
        return len(self._listed)

    @overload
    def __getitem__(self, index: int) -> StoredShard: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[StoredShard]: ...
    def __getitem__(self, index: int | slice) -> StoredShard | Sequence[StoredShard]:
        if isinstance(index, slice):
            return StoredShards(self._space, self._listed[index], self._where)
        return self._view(self._listed[index])

    def __iter__(self) -> Iterator[StoredShard]:
        return map(self._view, self._listed)

    def _view(self, entry: ShardEntry) -> StoredShard:
        return StoredShard(self._space, entry, f"{self._where}, shard {entry.name}")


class StoredArtifact(StoredFiles):
    """Fulfils `orchestrator.task.Artifact`."""

    def __init__(self, space: Bytes, manifest: Manifest) -> None:
        super().__init__(space, manifest, f"artifact {manifest.id[:12]}")
        self.manifest = manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def digest(self) -> str:
        """Of the content of all its files."""
        return self.manifest.digest

    @cached_property
    def shards(self) -> Sequence[StoredShard]:
        return StoredShards(self._space, self.entries, self._where)

    @cached_property
    def entries(self) -> Sequence[ShardEntry]:
        """What is known of its shards, in order. Raises CorruptBlob where their list is missing or damaged."""
        return entries(self._space, self.manifest)


def _keep_tensors(space: Bytes, tensors: Mapping[str, "Tensor"]) -> FileRef:
    with space.scratch() as file:
        save_tensors(tensors, file)
        return keep_file(space, file)


def _keep_table(space: Bytes, table: "pa.Table") -> FileRef:
    import pyarrow.parquet as pq

    with space.scratch() as file:
        pq.write_table(
            table.combine_chunks(), file, version="2.6", data_page_version="1.0", compression="zstd",
            compression_level=3, row_group_size=_ROW_GROUP, use_dictionary=True, write_statistics=True,
        )  # fmt: skip
        return keep_file(space, file, rows=table.num_rows)


def _keep_mapped(space: Bytes, table: "pa.Table") -> FileRef:
    """One batch, so that every column is one piece of memory."""
    import pyarrow as pa

    with space.scratch() as file:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return keep_file(space, file, rows=table.num_rows)


def _file_name(name: str, suffix: str) -> str:
    if _NAME.fullmatch(name):
        return f"{name}.{suffix}"
    raise ValueError(
        f"file name {name!r:.100} of an output: expected ASCII letters, digits and _.=,+- not beginning with a dot"
    )


def _separate(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Contiguous CPU tensors that do not overlap in memory, as safetensors asks."""
    spans: list[tuple[int, int]] = []
    separate = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        start, end = plain.data_ptr(), plain.data_ptr() + plain.nbytes
        shared = any(start < other_end and other_start < end for other_start, other_end in spans)
        separate[name] = plain.clone() if shared else plain
        spans.append((start, end))
    return separate


def _select(tensor: "Tensor", rows: Sequence[int], where: str) -> "Tensor":
    import torch

    if tensor.ndim == 0:
        return tensor
    wrong = [row for row in rows if not 0 <= row < len(tensor)]
    if wrong:
        raise ValueError(f"{where}: row {wrong[0]} was asked for; expected rows from 0 to {len(tensor) - 1}")
    return tensor.index_select(0, torch.tensor(list(rows), dtype=torch.int64))
