"""Drops what is broken and all that holds it, so that the next run computes it, and it alone, again."""

import dataclasses
from collections.abc import Collection, Iterable

from orchestrator.store.blobs import blob_path
from orchestrator.store.records import FileRef, Manifest, ShardRecord, encode
from orchestrator.store.store import Store, record_path


def repair(store: Store, broken: Collection[str], damaged: Collection[str]) -> tuple[list[str], list[str]]:
    """Drops the records at the paths `damaged` and those that name a blob of the digests `broken`.

    All records are read before the first is dropped, and they go before what they name: stopped at any
    point, the same call goes on. Returns the artifacts and the shards that were dropped.
    """
    shards = _split(store.shard_keys(), "shards", damaged)
    artifacts = _split(store.artifact_ids(), "artifacts", damaged)
    records = [store.shard(key).record for key in shards[1]]
    manifests = [manifest for key in artifacts[1] if (manifest := store.manifest(key))]

    lost = set(shards[0]) | {record.key for record in records if _names(record.files.values(), broken)}
    gone = set(artifacts[0]) | {
        manifest.id for manifest in manifests if _holds(store, manifest, broken, lost)
    }
    for artifact in sorted(gone):
        store.drop_artifact(artifact)
    for key in sorted(lost):
        store.drop_shard(key)
    for record in records:
        if record.key not in lost:
            _undecorate(store, record, record_path("shards", record.key), broken)
    for manifest in manifests:
        if manifest.id not in gone:
            _undecorate(store, manifest, record_path("artifacts", manifest.id), broken)
    for path in [*damaged, *map(blob_path, broken)]:
        store.bytes.delete(path)
    return sorted(gone), sorted(lost)


def _split(keys: Iterable[str], kind: str, damaged: Collection[str]) -> tuple[list[str], list[str]]:
    """Those with damaged records, and the others."""
    found: tuple[list[str], list[str]] = ([], [])
    for key in keys:
        found[record_path(kind, key) not in damaged].append(key)
    return found


def _names(refs: Iterable[FileRef], broken: Collection[str]) -> bool:
    return any(ref.digest in broken for ref in refs)


def _holds(store: Store, manifest: Manifest, broken: Collection[str], lost: Collection[str]) -> bool:
    return _names(manifest.own_files.values(), broken) or any(
        shard.key in lost or _names(shard.files.values(), broken) for shard in store.entries(manifest)
    )


def _undecorate(store: Store, record: ShardRecord | Manifest, path: str, broken: Collection[str]) -> None:
    """Writes the record again without its broken pictures and history, if it has such."""
    if not _names((ref for _, ref in record.decorations()), broken):
        return
    previews = [picture for picture in record.previews if picture["blob"] not in broken]
    made = dataclasses.replace(record, previews=previews)
    if isinstance(made, ShardRecord) and made.history and made.history.digest in broken:
        made = dataclasses.replace(made, history=None)
    store.bytes.put(path, encode(made))
