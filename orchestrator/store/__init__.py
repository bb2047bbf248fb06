"""The store, in three thin layers: bytes; records and manifests; artifacts. Knows neither Ray nor MLflow.

    store.json                    says that this is a store, and of which schema
    blobs/ab/<sha256>             content: safetensors, Parquet, JSON, pictures
    shards/ab/<key>.json          the commit of a shard
    artifacts/ab/<id>.json        the manifest of an artifact; beyond 10,000 shards a blob lists them, as Parquet
    work/ab/<key>/progress        working state inside a shard; beside it, named by their digests, the parts
                                  that a gang's ranks wrote of it
    leases/<key>/<n>.{json,beat}   who computes a stage
    runs/<run>/{run,plan}.json, runs/<run>/failures/, pins/<run>
    tags/<artifact>/<tag>
    index/artifacts               what `artifacts ls` shows, to be had again from the manifests

Readers trust records alone; a record is written, once and atomically, after all that it names. Whatever is
killed in between leaves files that no record names, which `collect` removes.
"""

from orchestrator.store.artifacts import CommittedShard, StoredArtifact, StoredFiles, StoredShard
from orchestrator.store.bytes import Bytes, Entry, check_name, open_bytes
from orchestrator.store.folder import Folder
from orchestrator.store.index import Row
from orchestrator.store.leases import SILENCE_S, Lease, Leases, Sight
from orchestrator.store.listings import Gathered
from orchestrator.store.owner import Owner, fate
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
    "SILENCE_S",
    "Bytes",
    "Collection",
    "CommittedShard",
    "Entry",
    "FailureRecord",
    "FileRef",
    "Folder",
    "Gathered",
    "InputRef",
    "Lease",
    "Leases",
    "Manifest",
    "Owner",
    "Problem",
    "Row",
    "RunRecord",
    "ShardEntry",
    "ShardRecord",
    "Sight",
    "StageRecord",
    "Store",
    "StoredArtifact",
    "StoredFiles",
    "StoredShard",
    "Verification",
    "check_name",
    "collect",
    "export",
    "fate",
    "lineage",
    "open_bytes",
    "verify",
]
