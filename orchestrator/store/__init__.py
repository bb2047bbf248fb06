"""The store, in three thin layers: bytes; records and manifests; artifacts. Knows neither Ray nor MLflow.

    store.json                    says that this is a store, and of which schema
    blobs/ab/<sha256>             content: safetensors, Parquet, JSON, pictures
    shards/ab/<key>.json          the commit of a shard
    artifacts/ab/<id>.json        the manifest of an artifact
    work/ab/<key>/progress        working state inside a shard
    runs/<run>/{run,plan}.json, runs/<run>/failures/, pins/<run>

Readers trust records alone; a record is written, once and atomically, after all that it names. Whatever is
killed in between leaves files that no record names, which `collect` removes.
"""

from orchestrator.store.artifacts import CommittedShard, StoredArtifact, StoredFiles, StoredShard
from orchestrator.store.bytes import Bytes, Entry, check_name, open_bytes
from orchestrator.store.folder import Folder
from orchestrator.store.records import (
    SCHEMA,
    FailureRecord,
    FileRef,
    InputRef,
    Manifest,
    RunRecord,
    ShardEntry,
    ShardRecord,
    StageRecord,
)
from orchestrator.store.store import Store
from orchestrator.store.upkeep import Collection, Problem, Verification, collect, export, lineage, verify

__all__ = [
    "SCHEMA",
    "Bytes",
    "Collection",
    "CommittedShard",
    "Entry",
    "FailureRecord",
    "FileRef",
    "Folder",
    "InputRef",
    "Manifest",
    "Problem",
    "RunRecord",
    "ShardEntry",
    "ShardRecord",
    "StageRecord",
    "Store",
    "StoredArtifact",
    "StoredFiles",
    "StoredShard",
    "Verification",
    "check_name",
    "collect",
    "export",
    "lineage",
    "open_bytes",
    "verify",
]
