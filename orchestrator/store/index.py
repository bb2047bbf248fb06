"""The index of artifacts: one file with a row for each manifest, so that a listing reads one file, not n.

It is never the truth. A row counts only while the listing shows the very manifest that it was made from; an
index that is missing, torn, damaged or of another schema is made anew; of racing writers the last one stands,
and what it did not know is read again and added.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from orchestrator.errors import LimbeckError
from orchestrator.provenance import data_of
from orchestrator.store.abreast import abreast
from orchestrator.store.bytes import Bytes, Entry
from orchestrator.store.records import Manifest

PATH = "index/artifacts"
_SCHEMA = "limbeck-index-3"
"""Another one whenever `Row` changes."""
_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """What is shown of an artifact without opening it."""

    id: str
    digest: str
    """Of its content."""
    kind: str
    task: str
    stage: str
    experiment: str
    created: int
    """Milliseconds since 1970."""
    bytes: int
    """Size of all its files."""
    shards: int
    """How many."""
    shard_seconds: float | None
    """Median of what its shards took; None where that is not known."""
    inputs: dict[str, list[str]]
    """Field to id and digest of the artifact it was made from."""
    metrics: dict[str, float]
    """Final ones."""
    data: list[list[str]]
    """Name and digest of each dataset that its facts name."""
    source: str | None
    """Digest of the task's code."""
    commit: str | None
    seen: str
    """Size, time and version of the manifest that this was read from."""


def rows(
    space: Bytes, entries: Mapping[str, Entry], read: Callable[[str], Manifest | None], save: bool
) -> list[Row]:
    """A row for each artifact of `entries` (id to its manifest's entry in a listing), in no order.

    `read` gives the manifests that the index does not know; they are added to it with `save`.
    """
    known = _load(space)
    found = {
        key: row for key, entry in entries.items() if (row := known.get(key)) and row.seen == _seen(entry)
    }
    missing = [key for key in entries if key not in found]
    for key, manifest in zip(missing, abreast(space.at_once, read, missing), strict=True):
        if manifest:
            found[key] = row_of(manifest, _seen(entries[key]))
    if save and found != known:
        _save(space, found.values())
    return list(found.values())


def row_of(manifest: Manifest, seen: str = "") -> Row:
    """What a listing shows of an artifact."""
    return Row(
        id=manifest.id, digest=manifest.digest, kind=manifest.kind, task=manifest.task, stage=manifest.stage,
        experiment=manifest.experiment, created=manifest.created, bytes=manifest.bytes,
        shards=manifest.shard_count, shard_seconds=manifest.shard_seconds,
        inputs={field: [ref.id, ref.digest] for field, ref in manifest.inputs.items()},
        metrics=manifest.metrics, data=[[one["name"], one["digest"]] for one in data_of(manifest.facts)],
        source=manifest.provenance.get("source"), commit=manifest.provenance.get("commit"), seen=seen,
    )  # fmt: skip


def _seen(entry: Entry) -> str:
    return f"{entry.size} {entry.modified!r} {entry.version}"


def _load(space: Bytes) -> dict[str, Row]:
    """The rows by id; none where the index is missing or cannot be used."""
    try:
        guard, _, packed = space.read(PATH).partition(b"\n")
    except FileNotFoundError:
        return {}
    if guard != _guard(packed):
        _log.info("%s: the index of artifacts is damaged or of another version; it is made anew", space.uri)
        return {}
    return {row[0]: Row(*row) for row in json.loads(zlib.decompress(packed))}


def _save(space: Bytes, found: Iterable[Row]) -> None:
    """A store that cannot be written keeps the index it has."""
    packed = zlib.compress(json.dumps(list(found), separators=(",", ":")).encode(), 1)
    try:
        space.put(PATH, _guard(packed) + b"\n" + packed)
    except LimbeckError as error:
        _log.info("%s: the index of artifacts is not kept: %s", space.uri, error)


def _guard(packed: bytes) -> bytes:
    return f"{_SCHEMA} {hashlib.sha256(packed).hexdigest()}".encode()
