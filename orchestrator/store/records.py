"""The records of a store, and how they are kept: canonical JSON with a schema number and a seal.

The seal is the sha256 of the rest of the record, so that a flipped bit in a record is found as surely as
one in a file. Times are milliseconds since 1970.
"""

import dataclasses
import functools
import hashlib
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestrator.errors import CorruptBlob, SchemaError
from orchestrator.keys import canonical, compact
from orchestrator.store.bytes import Bytes
from orchestrator.task import Json

SCHEMA = 2
"""The highest that is read. Raised when older releases could no longer read a record rightly; a record that they
can read is still written as schema 1. 2: the shards of a manifest are listed in a file of their own."""
REPAIR = "run `limbeck artifacts verify --repair`, then the same command again"
_SEAL = "sha256"
_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}
RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class FileRef:
    """One file, named by its content."""

    digest: str
    """sha256, 64 hex digits."""
    size: int
    """Bytes."""
    rows: int | None = None
    """Rows of a table."""


@dataclass(frozen=True)
class InputRef:
    """An artifact that another was made from."""

    id: str
    digest: str
    """Digest of its content at that time."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A finished shard as a manifest holds it."""

    key: str
    identity: dict[str, Json]
    files: dict[str, FileRef]
    """File name with suffix to content."""
    facts: dict[str, Json]
    metrics: dict[str, float]

    @property
    def name(self) -> str:
        """Its identity in words: `expert=3`."""
        return ",".join(f"{name}={value}" for name, value in self.identity.items())


@dataclass(frozen=True, kw_only=True)
class ShardRecord(ShardEntry):
    """The commit of a shard: while this record stands, the shard is done."""

    label: str
    history: FileRef | None = None
    """What it logged."""
    previews: list[dict[str, Json]] = dataclasses.field(default_factory=list)
    """{name, step, blob: sha256, size, ...}"""
    provenance: dict[str, Json] = dataclasses.field(default_factory=dict)
    """Where, when and with what it was made; free."""

    @property
    def entry(self) -> ShardEntry:
        """What a manifest holds of it: nothing of time or machine."""
        names = [field.name for field in dataclasses.fields(ShardEntry)]
        return ShardEntry(**{name: getattr(self, name) for name in names})

    def decorations(self) -> Iterator[tuple[str, FileRef]]:
        """Files without which the shard is still whole: its history and pictures."""
        yield from [("history", self.history)] if self.history else []
        yield from _pictures(self.previews)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a manifest says of shards that are too many for it."""

    file: FileRef
    """Parquet, a row a shard (`orchestrator.store.listings`)."""
    digest: str
    """`Manifest.digest`."""
    bytes: int
    """`Manifest.bytes`."""
    shard_seconds: float | None
    """Median of what the shards took."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished artifact: while this record stands, the artifact is complete."""

    id: str
    """The key of the stage."""
    kind: str
    task: str
    version: int
    config: dict[str, Json]
    seed: int
    inputs: dict[str, InputRef]
    """Config field to what it named."""
    facts: dict[str, Json]
    metrics: dict[str, float]
    files: dict[str, FileRef]
    """Those of the closing step."""
    shards: list[ShardEntry]
    """Empty where there is a `listing`; `Store.entries` knows both."""
    previews: list[dict[str, Json]] = dataclasses.field(default_factory=list)
    provenance: dict[str, Json] = dataclasses.field(default_factory=dict)
    """created, stage, experiment, run_id, source, seconds, shard_seconds, packages, commit, host; free."""
    listing: Listing | None = None

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the content: names and digests of all files, in order; nothing of time or machine."""
        if self.listing:
            return self.listing.digest
        parts = [self.files, *(shard.files for shard in self.shards)]
        names = [{name: ref.digest for name, ref in files.items()} for files in parts]
        return hashlib.sha256(canonical({"files": names[0], "shards": names[1:]})).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all files, each content counted once."""
        if self.listing:
            return self.listing.bytes
        files = chain(self.files.values(), *(shard.files.values() for shard in self.shards))
        return sum({ref.digest: ref.size for ref in files}.values())

    @property
    def shard_count(self) -> int:
        return (self.listing.file.rows or 0) if self.listing else len(self.shards)

    @property
    def shard_seconds(self) -> float | None:
        """Median of what its shards took; None where that is not known."""
        if self.listing:
            return self.listing.shard_seconds
        known = self.provenance.get("shard_seconds")
        return float(statistics.median(known)) if known else None

    @property
    def own_files(self) -> dict[str, FileRef]:
        """Those of the closing step, and the list of its shards."""
        return {**self.files, **({"list of shards": self.listing.file} if self.listing else {})}

    @property
    def stage(self) -> str:
        return str(self.provenance.get("stage", ""))

    @property
    def experiment(self) -> str:
        return str(self.provenance.get("experiment", ""))

    @property
    def created(self) -> int:
        return int(self.provenance.get("created", 0))

    def decorations(self) -> Iterator[tuple[str, FileRef]]:
        """Files without which the artifact is still whole: its pictures."""
        yield from _pictures(self.previews)

    def to_json(self) -> dict[str, Json]:
        """As plain JSON values, with `schema`, `digest` and `bytes`."""
        return {**_plain(self), "schema": _schema(self), "digest": self.digest, "bytes": self.bytes}


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One stage instance of a run."""

    stage: str
    task: str
    artifact: str | None
    state: str
    cached_shards: int = 0
    computed_shards: int = 0
    failed_shards: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    planned_seconds: float | None = None
    """What the plan gave this run for the stage; None where it did not know."""
    planned_bytes: int | None = None
    """What the plan thought that this run would add to the store."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of an experiment."""

    run_id: str
    experiment: str
    """Its name."""
    document: dict[str, Json]
    """The resolved experiment."""
    overrides: list[str]
    state: str
    """running, done, failed or interrupted."""
    started: int
    ended: int | None = None
    stages: list[StageRecord] = dataclasses.field(default_factory=list)
    driver: dict[str, Json] = dataclasses.field(default_factory=dict)
    """Which process drives it; free."""


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """The shards that a run counts on, so that collection spares them."""

    stages: dict[str, list[str]]
    """Stage instance to the keys of its shards."""


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """Why a shard was put aside."""

    stage: str
    shard: str
    failure: dict[str, Json]
    """error, traceback, worker, node, attempt; free."""
    created: int


@dataclass(frozen=True, kw_only=True)
class StoreRecord:
    """`store.json`: says that a folder is a store, and of which schema."""

    created: int


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def encode(record: Any) -> bytes:
    """A record as it is kept. Raises ValueError for a value that JSON cannot hold."""
    extra = {"digest": record.digest} if isinstance(record, Manifest) else {}
    body = {**_plain(record), **extra, "schema": _schema(record)}
    return compact({**body, _SEAL: _seal(canonical(body, "record"))})


def decode(kind: type[RecordT], data: bytes, where: str) -> RecordT:
    """The record in `data`. Raises SchemaError for one of a later release, CorruptBlob for a damaged one."""
    try:
        body = json.loads(data)
        schema, seal = body.pop("schema"), body.pop(_SEAL, None)
        if schema > SCHEMA:
            raise SchemaError(
                f"{where}: written by a later version (schema {schema}, this one reads up to {SCHEMA}); upgrade "
                "limbeck, or name another store by --store"
            )
        if seal != _seal(compact({**body, "schema": schema})):
            raise ValueError("its seal is broken")
        record: RecordT = _adapter(kind).validate_python(body)
        return record
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        if isinstance(error, SchemaError):
            raise
        raise CorruptBlob(f"{where}: damaged record ({str(error).splitlines()[0]:.100}); {REPAIR}") from error


def load(space: Bytes, kind: type[RecordT], path: str) -> RecordT | None:
    """The record at `path`; None where there is none."""
    try:
        data = space.read(path)
    except FileNotFoundError:
        return None
    return decode(kind, data, f"store {space.uri}, {path}")


def plain(values: Mapping[str, Json], where: str) -> dict[str, Json]:
    """A JSON copy of `values`, as a reader of the record will see it; ValueError names what is none."""
    copy: dict[str, Json] = json.loads(canonical(values, where))
    return copy


def _plain(record: Any) -> dict[str, Json]:
    values: dict[str, Json] = _adapter(type(record)).dump_python(record, mode="json")
    if isinstance(record, Manifest) and record.listing is None:
        del values["listing"]
    return values


def _schema(record: Any) -> int:
    return 2 if isinstance(record, Manifest) and record.listing else 1


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _seal(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _pictures(previews: list[dict[str, Json]]) -> Iterator[tuple[str, FileRef]]:
    for picture in previews:
        yield f"preview {picture['name']} at {picture['step']}", FileRef(picture["blob"], picture["size"])
