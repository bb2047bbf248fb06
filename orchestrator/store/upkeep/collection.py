"""Garbage collection: marks from the runs that count, then sweeps what is neither marked nor young."""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from orchestrator.store.abreast import abreast
from orchestrator.store.bytes import Entry
from orchestrator.store.leases import Claim, lease_files, live_claim
from orchestrator.store.records import Manifest, RunRecord, ShardRecord, load
from orchestrator.store.store import Store, record_path
from orchestrator.task import Json

GRACE_S = 24 * 3600.0
_RECORDS = ("artifacts", "shards")


@dataclass
class Swept:
    """How much of one sort went, or would go."""

    count: int = 0
    bytes: int = 0


@dataclass
class Collection:
    """What was collected, or would be; and what is kept."""

    applied: bool
    artifacts: Swept = field(default_factory=Swept)
    shards: Swept = field(default_factory=Swept)
    blobs: Swept = field(default_factory=Swept)
    work: Swept = field(default_factory=Swept)
    leases: Swept = field(default_factory=Swept)
    unfinished_writes: Swept = field(default_factory=Swept)
    kept_artifacts: int = 0
    running: list[str] = field(default_factory=list)
    """Runs that count as under way, whose shards are spared."""

    @property
    def bytes(self) -> int:
        parts = (self.artifacts, self.shards, self.blobs, self.work, self.leases, self.unfinished_writes)
        return sum(part.bytes for part in parts)

    def to_json(self) -> dict[str, Json]:
        return {**dataclasses.asdict(self), "bytes": self.bytes}


@dataclass(frozen=True)
class _Roots:
    artifacts: frozenset[str]
    shards: frozenset[str]
    running: tuple[str, ...]
    leased: frozenset[str]
    """Stages under a live lease."""


def collect(store: Store, apply: bool = False, keep: int = 1, grace_s: float = GRACE_S) -> Collection:
    """Drops what no run that counts needs: manifests, then shards, then files, then working state, then leases.

    Runs that count: of each experiment the newest `keep` that are done and all later ones, those that are
    pinned or running or hold a live lease, and those of the last `grace_s` seconds. What they made and
    planned stays, as does what has a tag, with all that it was made from; so does everything younger than
    `grace_s`, which makes it safe beside a run that commits (below an hour it is for a store at rest). Nothing
    is dropped unless `apply`. A damaged record ends it before anything is dropped.
    """
    before = time.time() - grace_s
    roots = None
    while roots != (latest := _roots(store, keep, before)):
        roots = latest
        condemned, kept = _condemned(store, roots, before)
    found = Collection(apply, kept_artifacts=kept, running=list(latest.running))
    for kind, entries in condemned.items():
        swept: Swept = getattr(found, kind)
        for size in abreast(store.bytes.at_once, partial(_sweep, store, before, apply), entries):
            if size is not None:
                swept.count, swept.bytes = swept.count + 1, swept.bytes + size
    found.unfinished_writes = Swept(*store.bytes.sweep(before, apply))
    return found


def _sweep(store: Store, before: float, apply: bool, entry: Entry) -> int | None:
    """Drops one file, should it still be old. Its bytes; None where it stays."""
    if apply:
        return store.bytes.delete_old(entry.path, before)
    now = store.bytes.stat(entry.path)
    return now.size if now and now.modified < before else None


def _roots(store: Store, keep: int, before: float) -> _Roots:
    claims = _live_claims(store)
    runs = list(_counting(store, keep, before, {claim.run_id for claim in claims.values()}))
    artifacts = {stage.artifact for run in runs for stage in run.stages if stage.artifact}
    artifacts |= set(store.tags())
    artifacts |= claims.keys() | {made for claim in claims.values() for made in claim.inputs}
    shards = {key for run in runs for keys in (store.plan(run.run_id) or {}).values() for key in keys}
    running = tuple(run.run_id for run in runs if run.state == "running")
    return _Roots(frozenset(artifacts), frozenset(shards), running, frozenset(claims))


def _live_claims(store: Store) -> dict[str, Claim]:
    """Stages that may be at work, whatever the grace is: whoever is at work is heard of every few seconds."""
    before, files = time.time() - GRACE_S, lease_files(store.bytes)
    claims = {key: live_claim(store.bytes, key, entries, before) for key, entries in files.items()}
    return {key: claim for key, claim in claims.items() if claim}


def _old_leases(store: Store, live: frozenset[str], before: float) -> Iterator[Entry]:
    """All files of leases that are neither live nor young: a lease goes as a whole or not at all."""
    for key, entries in lease_files(store.bytes).items():
        if key not in live and _latest(entries) < before:
            yield from entries


def _counting(store: Store, keep: int, before: float, leased: set[str]) -> Iterator[RunRecord]:
    done: Counter[str] = Counter()
    pins = store.pins()
    for run in store.runs():
        recent = (run.ended or run.started) / 1000 > before
        busy = run.state == "running" or run.run_id in leased
        if done[run.experiment] < keep or run.run_id in pins or busy or recent:
            yield run
        done[run.experiment] += run.state == "done"


def _condemned(store: Store, roots: _Roots, before: float) -> tuple[dict[str, list[Entry]], int]:
    """What is to go, by kind and in the order in which it may go; and how many artifacts stay.

    Files are listed before records are read: a commit in between has written or refreshed its files.
    """
    found = {kind: _by_key(store, kind) for kind in ("blobs", "work")}
    found = {kind: _by_key(store, kind) for kind in _RECORDS} | found
    young = {kind: {key for key, of in found[kind].items() if _latest(of) >= before} for kind in found}
    read = abreast(store.bytes.at_once, store.manifest, found["artifacts"])
    manifests = {manifest.id: manifest for manifest in read if manifest}

    artifacts = _closed(roots.artifacts | young["artifacts"], manifests)
    kept = [manifests[artifact] for artifact in artifacts]
    shards = (
        roots.shards | young["shards"] | {shard.key for manifest in kept for shard in store.entries(manifest)}
    )
    live = {
        "artifacts": artifacts,
        "shards": shards,
        "blobs": _named(store, kept, shards & set(found["shards"])),
        "work": (roots.shards | roots.artifacts) - set(found["shards"]) - set(found["artifacts"]),
    }
    gone = {
        kind: [entry for key in of.keys() - live[kind] - young[kind] for entry in of[key]]
        for kind, of in found.items()
    }
    return gone | {"leases": list(_old_leases(store, roots.leased, before))}, len(artifacts)


def _closed(start: frozenset[str] | set[str], manifests: Mapping[str, Manifest]) -> set[str]:
    """Those of `start` that there are, and all that they were made from."""
    found: set[str] = set()
    todo = [artifact for artifact in start if artifact in manifests]
    while todo:
        artifact = todo.pop()
        if artifact not in found:
            found.add(artifact)
            todo += [ref.id for ref in manifests[artifact].inputs.values() if ref.id in manifests]
    return found


def _named(store: Store, manifests: Iterable[Manifest], shards: Iterable[str]) -> set[str]:
    """Digests of all files that these records name."""
    digests: set[str] = set()
    for manifest in manifests:
        digests |= {ref.digest for ref in manifest.own_files.values()}
        digests |= {ref.digest for shard in store.entries(manifest) for ref in shard.files.values()}
        digests |= {ref.digest for _, ref in manifest.decorations()}
    paths = (record_path("shards", key) for key in shards)
    for record in abreast(store.bytes.at_once, partial(load, store.bytes, ShardRecord), paths):
        if record:
            digests |= {ref.digest for ref in record.files.values()}
            digests |= {ref.digest for _, ref in record.decorations()}
    return digests


def _by_key(store: Store, kind: str) -> dict[str, list[Entry]]:
    """Key to its files: a record `shards/ab/KEY.json`, a file `blobs/ab/KEY`, working state `work/ab/KEY/*`."""
    found: dict[str, list[Entry]] = {}
    for entry in store.bytes.list(kind):
        found.setdefault(entry.path.split("/")[2].removesuffix(".json"), []).append(entry)
    return found


def _latest(entries: Sequence[Entry]) -> float:
    return max(entry.modified for entry in entries)
