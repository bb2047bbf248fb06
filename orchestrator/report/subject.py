"""What a report reads of a run: its records, its stages' manifests, a sample of its shards, what it failed with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import UserError, nearest
from orchestrator.provenance import data_of
from orchestrator.spool import Spool
from orchestrator.store import Manifest, RunRecord, Store
from orchestrator.store.records import FailureRecord, ShardRecord, StageRecord

MOST_SHARDS = 100
"""Of a stage with more shards so many, evenly spaced, are read for curves and pictures."""
_DIGITS = 16
"""Of a dataset's digest, by which shards are told apart."""
Curve = dict[str, list[tuple[int, float]]]
"""Name of a metric to its steps and values."""


@dataclass(frozen=True)
class StageView:
    """One stage of the run."""

    record: StageRecord
    manifest: Manifest | None
    """None where it was not finished."""
    shards: Sequence[ShardRecord]
    """Those that are read."""
    planned: int
    """How many shards it has."""
    done: int
    """How many of them are committed."""

    @property
    def name(self) -> str:
        return self.record.stage

    @property
    def base(self) -> str:
        """Its name without the point of a matrix."""
        return split_name(self.name)[0]

    @property
    def point(self) -> str:
        """The point of the matrix; empty where there is none."""
        return split_name(self.name)[1]

    def called(self, shard: ShardRecord) -> str:
        """The shard's label with the names of datasets in the place of their digests, where they are known."""
        known = data_of(self.manifest.facts) if self.manifest else []
        named = {one["digest"][:_DIGITS]: one["name"] for one in known}
        parts = [part.partition("=") for part in shard.label.split(",")]
        return ",".join(f"{field}{sign}{named.get(value, value)}" for field, sign, value in parts)


def split_name(stage: str) -> tuple[str, str]:
    """`students[method=kd]` is (`students`, `method=kd`)."""
    base, _, point = stage.partition("[")
    return base, point.removesuffix("]")


@dataclass(frozen=True)
class Subject:
    """All that a page is made from."""

    store: Store
    run: RunRecord
    stages: Sequence[StageView]
    failures: Sequence[FailureRecord]
    cut_short: Mapping[tuple[str, str], Curve]
    """Stage and shard to what a shard had logged that did not finish."""


def find_run(store: Store, text: str | None) -> str:
    """The id that `text` means: an id, an experiment (its newest run) or the start of one id; None: the newest.

    Raises UserError with the candidates, or the nearest name.
    """
    suffix = "/run.json"
    ids = [entry.path for entry in store.bytes.list("runs") if entry.path.endswith(suffix)]
    ids = [path.removeprefix("runs/").removesuffix(suffix) for path in ids]
    if text in ids:
        return str(text)
    runs = store.runs()
    of_name = [run.run_id for run in runs if text in (None, run.experiment)]
    if of_name:
        return of_name[0]
    found = sorted(one for one in ids if text and one.startswith(text))
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{text!r} may mean {len(found)} runs: {', '.join(found[:8])}; give more of the id")
    raise UserError(f"there is no run {text or ''!r} in store {store.uri}; {nearest(text or '', ids[:50])}")


def read_subject(store: Store, run_id: str, events: Path) -> Subject:
    """Reads one run and nothing else; `events` is its event log, which may be missing."""
    run, plan = store.run(run_id), store.plan(run_id) or {}
    stages = [_stage(store, record, plan.get(record.stage, [])) for record in run.stages]
    cut = _cut_short(events, stages) if run.state != "done" and events.exists() else {}
    return Subject(store, run, stages, store.failures(run_id), cut)


def _stage(store: Store, record: StageRecord, keys: Sequence[str]) -> StageView:
    manifest = store.manifest(record.artifact) if record.artifact else None
    committed = set(keys) if manifest else store.committed(keys)
    there = [key for key in keys if key in committed]
    every = -(-len(there) // MOST_SHARDS) or 1
    shards = [store.shard(key).record for key in there[::every]]
    return StageView(record, manifest, shards, len(keys), len(there))


def _cut_short(events: Path, stages: Sequence[StageView]) -> dict[tuple[str, str], Curve]:
    finished = {(stage.name, shard.label) for stage in stages for shard in stage.shards}
    whole = {stage.name for stage in stages if stage.manifest}
    found: dict[tuple[str, str], Curve] = {}
    spool = Spool(events)
    for event, _ in spool.read():
        if event["kind"] != "metrics" or event["stage"] in whole:
            continue
        place = event["stage"], event["shard"]
        if place not in finished and (place in found or len(found) < MOST_SHARDS):
            for name, value in event["values"].items():
                found.setdefault(place, {}).setdefault(name, []).append((event["step"], float(value)))
    spool.close()
    return found
