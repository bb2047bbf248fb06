"""Is everything that the records promise there, byte for byte?"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from orchestrator.errors import CorruptBlob
from orchestrator.store.blobs import Fault, fault
from orchestrator.store.records import FileRef, Manifest, RunRecord, ShardEntry, ShardRecord, load
from orchestrator.store.store import Store, record_path
from orchestrator.store.upkeep.repair import repair as drop_broken
from orchestrator.task import Json

Kind = Fault | Literal["record", "input"]
RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Problem:
    """One thing that is not as its record says."""

    kind: Kind
    """A file that is missing, of another size or of another content; a damaged record; an input whose
    content is no longer that which the artifact was made from."""
    artifact: str | None
    shard: str | None
    """Key of the shard."""
    file: str
    """Name of the file in its shard or artifact, path of a record, or field of an input."""
    detail: str
    digest: str | None = None
    """Of the file as it should be."""

    def __str__(self) -> str:
        named = [
            f"{what} {name[:12]}"
            for what, name in (("artifact", self.artifact), ("shard", self.shard))
            if name
        ]
        return f"{', '.join([*named, self.file])}: {self.detail}"


@dataclass
class Verification:
    """What was checked and found; what was dropped, when it was asked to repair."""

    artifacts: int = 0
    shards: int = 0
    blobs: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    dropped_artifacts: list[str] = field(default_factory=list)
    dropped_shards: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Json]:
        return {"ok": self.ok, **dataclasses.asdict(self)}


def verify(store: Store, ids: Iterable[str] | None = None, repair: bool = False) -> Verification:
    """Hashes every file of these artifacts, or of everything in the store, again; each content once.

    With `repair` the shards and artifacts whose files are broken, and they alone, are dropped, so that the
    next run computes just those again. A broken picture or history is taken off its record: the shard stays.
    """
    check = _Check(store)
    shards: dict[str, None] = {}
    for artifact in store.artifact_ids() if ids is None else ids:
        if manifest := check.artifact(artifact):
            shards |= dict.fromkeys(shard.key for shard in check.entries(manifest))
    for key in store.shard_keys() if ids is None else shards:
        check.shard(key)
    if ids is None:
        check.runs()
    found = check.found
    if repair and not found.ok:
        broken = {problem.digest for problem in found.problems if problem.digest}
        damaged = {problem.file for problem in found.problems if problem.kind == "record"}
        found.dropped_artifacts, found.dropped_shards = drop_broken(store, broken, damaged)
    return found


class _Check:
    def __init__(self, store: Store) -> None:
        self.store, self.found = store, Verification()
        self._blobs: dict[str, tuple[Fault, str] | None] = {}
        self._digests: dict[str, str | None] = {}
        self._told: set[tuple[str | None, str]] = set()

    def artifact(self, artifact: str) -> Manifest | None:
        manifest = self._record(Manifest, record_path("artifacts", artifact), artifact=artifact)
        if manifest is None:
            return None
        self.found.artifacts += 1
        self._files(artifact, None, {**manifest.own_files, **dict(manifest.decorations())})
        for shard in self.entries(manifest):
            self._files(artifact, shard.key, shard.files)
        for name, ref in manifest.inputs.items():
            self._input(artifact, name, ref.id, ref.digest)
        return manifest

    def entries(self, manifest: Manifest) -> Sequence[ShardEntry]:
        """None where their list is broken, which is told of as of any file."""
        whole = manifest.listing is None or self._blob(manifest.listing.file) is None
        return self.store.entries(manifest) if whole else []

    def shard(self, key: str) -> None:
        record = self._record(ShardRecord, record_path("shards", key), shard=key)
        if record:
            self.found.shards += 1
            self._files(None, key, {**record.files, **dict(record.decorations())})

    def runs(self) -> None:
        for entry in self.store.bytes.list("runs"):
            if entry.path.endswith("/run.json"):
                self._record(RunRecord, entry.path)

    def _record(
        self, kind: type[RecordT], path: str, artifact: str | None = None, shard: str | None = None
    ) -> RecordT | None:
        try:
            return load(self.store.bytes, kind, path)
        except CorruptBlob:
            self.found.problems.append(Problem("record", artifact, shard, path, "the record is damaged"))
            return None

    def _files(self, artifact: str | None, shard: str | None, files: Mapping[str, FileRef]) -> None:
        for name, ref in files.items():
            state = self._blob(ref)
            if state and (artifact or (shard, ref.digest) not in self._told):
                self._told.add((shard, ref.digest))
                self.found.problems.append(Problem(state[0], artifact, shard, name, state[1], ref.digest))

    def _blob(self, ref: FileRef) -> tuple[Fault, str] | None:
        if ref.digest not in self._blobs:
            self.found.blobs += 1
            self.found.bytes += ref.size
            self._blobs[ref.digest] = fault(self.store.bytes, ref)
        return self._blobs[ref.digest]

    def _input(self, artifact: str, name: str, source: str, digest: str) -> None:
        """An input that the store no longer holds is no fault of the artifact."""
        if source not in self._digests:
            manifest = self._quietly(source)
            self._digests[source] = manifest.digest if manifest else None
        now = self._digests[source]
        if now not in (None, digest):
            detail = (
                f"made from content {digest[:12]} of artifact {source[:12]}, which now has {str(now)[:12]}"
            )
            self.found.problems.append(
                Problem("input", artifact, None, name, f"{detail}; run it with --fresh")
            )

    def _quietly(self, artifact: str) -> Manifest | None:
        """The damaged ones are told of in their own turn."""
        try:
            return self.store.manifest(artifact)
        except CorruptBlob:
            return None
