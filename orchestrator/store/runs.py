"""What has been run: run records, plans, pins and failures, under `runs/` and `pins/`."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from orchestrator.errors import UserError, nearest
from orchestrator.keys import canonical
from orchestrator.store.abreast import abreast
from orchestrator.store.bytes import Bytes
from orchestrator.store.records import FailureRecord, PlanRecord, RunRecord, encode, load, now_ms, plain
from orchestrator.task import Json

_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=,+@-]{0,199}")


class Runs:
    """The part of a Store that knows runs."""

    bytes: Bytes

    def save_run(self, record: RunRecord) -> None:
        """Writes or replaces the record of a run."""
        self.bytes.put(f"{_folder(record.run_id)}/run.json", encode(record))

    def run(self, run_id: str) -> RunRecord:
        """Raises UserError where there is no such run."""
        found = load(self.bytes, RunRecord, f"{_folder(run_id)}/run.json")
        if found is None:
            known = [record.run_id for record in self.runs()[:20]]
            raise UserError(f"there is no run {run_id!r} in store {self.bytes.uri}; {nearest(run_id, known)}")
        return found

    def runs(self) -> list[RunRecord]:
        """All runs, newest first."""
        paths = [entry.path for entry in self.bytes.list("runs") if entry.path.endswith("/run.json")]
        read = abreast(self.bytes.at_once, partial(load, self.bytes, RunRecord), paths)
        found = [record for record in read if record]
        return sorted(found, key=lambda record: (record.started, record.run_id), reverse=True)

    def save_plan(self, run_id: str, stages: Mapping[str, Iterable[str]]) -> None:
        """Notes the shards (stage instance to their keys) that a run counts on. Save it before work starts."""
        record = PlanRecord(stages={stage: list(keys) for stage, keys in stages.items()})
        self.bytes.put(f"{_folder(run_id)}/plan.json", encode(record))

    def plan(self, run_id: str) -> dict[str, list[str]] | None:
        """Stage instance to the keys of its shards; None where no plan was saved."""
        found = load(self.bytes, PlanRecord, f"{_folder(run_id)}/plan.json")
        return found.stages if found else None

    def pin(self, run_id: str) -> None:
        """Keeps all that the run made from collection, until it is unpinned."""
        self.bytes.put(f"pins/{self.run(run_id).run_id}", b"")

    def unpin(self, run_id: str) -> None:
        self.bytes.delete(f"pins/{self.run(run_id).run_id}")

    def pins(self) -> set[str]:
        """The ids of the runs that are pinned."""
        return {entry.path.removeprefix("pins/") for entry in self.bytes.list("pins")}

    def save_failure(self, run_id: str, stage: str, shard: str, failure: Mapping[str, Json]) -> None:
        """Keeps why a shard was put aside; equal failures of one shard are kept once."""
        kept = plain(failure, f"failure of {stage} {shard}")
        name = hashlib.sha256(canonical([stage, shard, kept])).hexdigest()[:32]
        record = FailureRecord(stage=stage, shard=shard, failure=kept, created=now_ms())
        self.bytes.put_if_absent(f"{_folder(run_id)}/failures/{name}.json", encode(record))

    def failures(self, run_id: str) -> Sequence[FailureRecord]:
        """All that were kept of the run, oldest first."""
        paths = [entry.path for entry in self.bytes.list(f"{_folder(run_id)}/failures")]
        found = [record for path in paths if (record := load(self.bytes, FailureRecord, path))]
        return sorted(found, key=lambda record: (record.created, record.stage, record.shard))


def _folder(run_id: str) -> str:
    if _RUN_ID.fullmatch(run_id):
        return f"runs/{run_id}"
    raise UserError(f"run id {run_id!r:.100}: expected ASCII letters, digits and _.=,+@-; see `limbeck runs`")
