"""The store: what is committed, what is published, what is under way. Records are the truth."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

from orchestrator.errors import CorruptBlob, StoreError, UserError, nearest
from orchestrator.store import index, work
from orchestrator.store.abreast import abreast
from orchestrator.store.artifacts import (
    CommittedShard,
    StoredArtifact,
    StoredShard,
    StoredShards,
    save_tensors,
    write_output,
)
from orchestrator.store.blobs import blob_path, hash_file, keep_bytes
from orchestrator.store.bytes import Bytes, Entry, open_bytes
from orchestrator.store.index import Row
from orchestrator.store.listings import MANY, Gathered, entries, gather
from orchestrator.store.records import (
    REPAIR,
    FileRef,
    InputRef,
    Manifest,
    ShardEntry,
    ShardRecord,
    StoreRecord,
    encode,
    load,
    now_ms,
    plain,
)
from orchestrator.store.runs import Runs
from orchestrator.store.tags import Tags
from orchestrator.task import Facts, Json, Output, Progress

if TYPE_CHECKING:
    from torch import Tensor

KEY = re.compile(r"[0-9a-f]{32}")
_CANDIDATES = 8


class Store(Runs, Tags):
    """Shards, artifacts, blobs and working state over the bytes layer. Holds no state of its own, so that
    any number of stores may be open on one place."""

    def __init__(self, space: Bytes) -> None:
        self.bytes = space

    @classmethod
    def open(cls, uri: str, create: bool = True) -> Self:
        """Opens the store at `uri`, to read only (its index aside) unless `create`, which makes it where it is
        not.

        Raises UserError where there is none or cannot be one, SchemaError for one of a later release,
        StoreError where it cannot be written.
        """
        return cls.over(open_bytes(uri), create)

    @classmethod
    def over(cls, space: Bytes, create: bool = True) -> Self:
        """As `open`, over a bytes layer at hand."""
        if create:
            space.check_writable()
            space.put_if_absent("store.json", encode(StoreRecord(created=now_ms())))
        if load(space, StoreRecord, "store.json") is None:
            raise UserError(
                f"there is no store at {space.uri}; `limbeck run` makes one, or name another by --store"
            )
        return cls(space)

    @property
    def uri(self) -> str:
        """What `open` takes to open it from another process."""
        return self.bytes.uri

    # Blobs

    def put_blob(self, data: bytes) -> FileRef:
        """Keeps `data` under its digest. What no record names within a day may be collected."""
        return keep_bytes(self.bytes, data)

    def read_blob(self, digest: str) -> bytes:
        """Raises CorruptBlob where it is missing or damaged."""
        try:
            data = self.bytes.read(blob_path(digest))
        except FileNotFoundError:
            raise CorruptBlob(f"store {self.uri}: {blob_path(digest)} is missing; {REPAIR}") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise CorruptBlob(f"store {self.uri}: {blob_path(digest)} is damaged; {REPAIR}")
        return data

    # Shards

    def has_shard(self, key: str) -> bool:
        return self.bytes.exists(record_path("shards", key))

    def committed(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that are done."""
        spread: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            spread[key[:2]].append(key)
        if sum(map(len, spread.values())) <= MANY:  # else prefix by prefix, several at a time
            return self._committed([key for some in spread.values() for key in some])
        return set().union(*abreast(self.bytes.at_once, self._committed, spread.values()))

    def _committed(self, keys: Iterable[str]) -> set[str]:
        paths = {record_path("shards", key): key for key in keys}
        return {paths[path] for path in self.bytes.among(paths)}

    def commit_shard(
        self,
        key: str,
        identity: Mapping[str, Json],
        label: str,
        output: Output,
        *,
        history: FileRef | None = None,
        previews: Sequence[Mapping[str, Json]] = (),
        provenance: Mapping[str, Json] | None = None,
    ) -> ShardRecord:
        """Writes the output's files, then the record that makes them count. Where another was first, its
        record is returned and stands. Raises ValueError for facts or documents that are not JSON."""
        facts, metrics = plain(output.facts, f"facts of {label}"), _metrics(output, label)
        made = ShardRecord(
            key=key, identity=plain(identity, f"identity of {label}"), label=label, facts=facts, metrics=metrics,
            files=write_output(self.bytes, output), history=history, previews=self._pictures(previews),
            provenance=plain(provenance or {}, f"provenance of {label}"),
        )  # fmt: skip
        if self.bytes.put_if_absent(record_path("shards", key), encode(made)):
            return made
        return self.shard(key).record

    def shard(self, key: str) -> CommittedShard:
        """Raises StoreError where it is not committed."""
        found = load(self.bytes, ShardRecord, record_path("shards", key))
        if found is None:
            raise StoreError(f"store {self.uri}: shard {key} is not committed; run the same command again")
        return CommittedShard(self.bytes, found)

    def gather(self, keys: Iterable[str]) -> Gathered:
        """What an artifact is to hold of these shards. Raises StoreError where one is not committed."""
        return gather(self.bytes, keys, lambda key: self.shard(key).record)

    def gathered_shards(self, found: Gathered) -> Sequence[StoredShard]:
        """Read-only views of them."""
        return StoredShards(self.bytes, found.entries, "closing step")

    def shard_keys(self) -> Iterator[str]:
        return (key for key, _ in self._entries("shards"))

    def drop_shard(self, key: str) -> None:
        self.bytes.delete(record_path("shards", key))

    # Artifacts

    def make_manifest(
        self,
        *,
        key: str,
        kind: str,
        task: str,
        version: int,
        config: Mapping[str, Json],
        seed: int,
        inputs: Mapping[str, InputRef],
        facts: Facts,
        output: Output,
        shard_keys: Iterable[str],
        previews: Sequence[Mapping[str, Json]] = (),
        provenance: Mapping[str, Json] | None = None,
        gathered: Gathered | None = None,
    ) -> Manifest:
        """The manifest of committed shards and a closing step's output, whose files are written. The
        artifact's facts are `facts`, and over them those of the closing step. `gathered`: what `gather` found of
        these shards; else they are read."""
        label, files = f"closing step of {task}", write_output(self.bytes, output)
        gathered = gathered or self.gather(shard_keys)
        listing, told = gathered.listing(files), plain(provenance or {}, f"provenance of {label}")
        return Manifest(
            id=key, kind=kind, task=task, version=version, config=plain(config, f"config of {task}"), seed=seed,
            inputs=dict(inputs), facts=plain({**facts, **output.facts}, f"facts of {label}"),
            metrics=_metrics(output, label), files=files,
            shards=[] if listing else list(gathered.entries), listing=listing,
            previews=self._pictures(previews), provenance=told,
        )  # fmt: skip

    def publish(self, manifest: Manifest) -> Manifest:
        """Makes the artifact complete. Where another was first, its manifest is returned and stands."""
        keys = [shard.key for shard in self.entries(manifest)]
        if missing := set(keys) - self.committed(keys):
            raise StoreError(
                f"store {self.uri}: artifact {manifest.id} cannot be published: {len(missing)} of its {len(keys)} "
                f"shards are not committed, such as {min(missing)}; run the same command again"
            )
        path = record_path("artifacts", manifest.id)
        if self.bytes.put_if_absent(path, encode(manifest)):
            return manifest
        return self.artifact(manifest.id).manifest

    def manifest(self, artifact: str) -> Manifest | None:
        """None where there is no such artifact."""
        return (
            load(self.bytes, Manifest, record_path("artifacts", artifact))
            if KEY.fullmatch(artifact)
            else None
        )

    def entries(self, manifest: Manifest) -> Sequence[ShardEntry]:
        """The shards of an artifact, in order. Raises CorruptBlob where their list is missing or damaged."""
        return entries(self.bytes, manifest)

    def artifact(self, artifact: str) -> StoredArtifact:
        """Raises UserError where there is no such artifact."""
        found = self.manifest(artifact)
        if found is None:
            raise UserError(
                f"there is no artifact {artifact} in store {self.uri}; see `limbeck artifacts ls`"
            )
        return StoredArtifact(self.bytes, found)

    def artifact_ids(self, prefix: str = "") -> Iterator[str]:
        """The ids that begin with `prefix`."""
        return (key for key, _ in self._entries("artifacts", prefix[:2]) if key.startswith(prefix))

    def manifests(self) -> Iterator[Manifest]:
        """All manifests, in no order. Raises StoreError at a damaged one."""
        return filter(None, abreast(self.bytes.at_once, self.manifest, self.artifact_ids()))

    def rows(self, save: bool = True) -> list[Row]:
        """What a listing shows of every artifact, in no order: from the index, and from those manifests alone
        that it does not know yet. With `save` they are added to it, where the store can be written. Raises
        StoreError at a damaged one."""
        return index.rows(self.bytes, dict(self._entries("artifacts")), self.manifest, save)

    def drop_artifact(self, artifact: str) -> None:
        self.bytes.delete(record_path("artifacts", artifact))

    def resolve(self, text: str, rows: Iterable[Row] | None = None) -> str:
        """The id that `text` means: `stage` or `experiment/stage` for the newest of that name, or the
        beginning of an id. `rows`: those of the store where they are at hand. Raises UserError with the
        candidates, or the nearest names."""
        if KEY.fullmatch(text) and self.bytes.exists(record_path("artifacts", text)):
            return text
        names = self._stage_names(self.rows() if rows is None else rows)
        if text in names:
            return names[text]
        found = sorted(self.artifact_ids(text)) if re.fullmatch(r"[0-9a-f]{1,32}", text) else []
        if len(found) == 1:
            return found[0]
        if found:
            some = ", ".join(found[:_CANDIDATES])
            raise UserError(f"{text!r} may mean {len(found)} artifacts: {some}; give more digits of the id")
        raise UserError(f"there is no artifact {text!r} in store {self.uri}; {nearest(text, names)}")

    # Working state

    def put_part(self, key: str, tensors: Mapping[str, "Tensor"]) -> str:
        """Keeps one rank's tensors for a `save_progress` that is to name them; returns their digest."""
        with self.bytes.scratch() as file:
            save_tensors(tensors, file)
            digest = hash_file(file)
            self.bytes.put_file_if_absent(f"{_work(key)}/{digest}", file)
        return digest

    def save_progress(self, key: str, progress: Progress, parts: Sequence[str] = ()) -> None:
        """Replaces what was saved for this shard; the tensors in `parts` count as of this progress."""
        self.bytes.put(f"{_work(key)}/progress", work.pack(progress, parts))
        if parts:
            self._drop_work(key, {"progress", *parts})

    def load_progress(self, key: str) -> Progress | None:
        """What was saved last and is whole, the tensors of all ranks; None where there is none."""
        path = f"{_work(key)}/progress"
        try:
            packed = self.bytes.read(path)
        except FileNotFoundError:
            return None
        found = work.unpack(packed, f"store {self.uri}, {path}")
        if found is None:
            return None
        progress, tensors = found[0], dict(found[0].tensors)
        for digest in found[1]:
            part = work.read_part(self.bytes, f"{_work(key)}/{digest}")
            if part is None:
                return None
            tensors |= part
        return Progress(tensors, progress.facts)

    def drop_progress(self, key: str) -> None:
        self.bytes.delete(f"{_work(key)}/progress")
        self._drop_work(key, set())

    def _drop_work(self, key: str, kept: set[str]) -> None:
        """Deletes what lies beside a progress and does not count, such as what a killed gang had begun."""
        for entry in self.bytes.list(_work(key)):
            if entry.path.rpartition("/")[2] not in kept:
                self.bytes.delete(entry.path)

    def _entries(self, kind: str, spread: str = "") -> Iterator[tuple[str, Entry]]:
        folder = f"{kind}/{spread}" if len(spread) == 2 else kind
        for entry in self.bytes.list(folder):
            key = entry.path.rpartition("/")[2].removesuffix(".json")
            if KEY.fullmatch(key):
                yield key, entry

    def _pictures(self, previews: Sequence[Mapping[str, Json]]) -> list[dict[str, Json]]:
        """Those whose blobs are still there: a collection may have taken the first ones of a very long shard."""
        return [
            plain(picture, "preview") for picture in previews if self.bytes.exists(blob_path(picture["blob"]))
        ]

    def _stage_names(self, rows: Iterable[Row]) -> dict[str, str]:
        """`stage` and `experiment/stage` to the newest artifact of that name."""
        dated = [(row.created, row.experiment, row.stage, row.id) for row in rows]
        ids = {row[3] for row in dated}
        for run in self.runs():
            for stage in run.stages:
                if stage.artifact in ids:
                    dated.append((run.started, run.experiment, stage.stage, stage.artifact))
        names = {}
        for _, experiment, stage_name, artifact in sorted(dated):
            names[stage_name] = names[f"{experiment}/{stage_name}"] = artifact
        return names


def record_path(kind: str, key: str) -> str:
    """Where a record of `shards` or `artifacts` lies."""
    assert KEY.fullmatch(key), f"{kind} key {key!r}: expected 32 hex digits"
    return f"{kind}/{key[:2]}/{key}.json"


def _work(key: str) -> str:
    assert KEY.fullmatch(key), f"work key {key!r}: expected 32 hex digits"
    return f"work/{key[:2]}/{key}"


def _metrics(output: Output, label: str) -> dict[str, float]:
    metrics = {name: float(value) for name, value in output.metrics.items()}
    return plain(metrics, f"metrics of {label}")
