"""Walks a Plan: starts what can start, records what happens, tells the tracker. The store keeps the truth."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from orchestrator.console import Console, shown
from orchestrator.errors import Interrupted
from orchestrator.executors.actors import Actors
from orchestrator.executors.hands import News, Workplace
from orchestrator.executors.sharded import Outcome, ShardedStage
from orchestrator.executors.worker import Assignment
from orchestrator.feasibility import Offer
from orchestrator.keeper import Keeper
from orchestrator.plan import Plan, StagePlan, make_plan
from orchestrator.provenance import commit, data_of, now_ms
from orchestrator.spool import Spool
from orchestrator.stagekeys import content_digests
from orchestrator.store import Leases, Manifest, RunRecord, StageRecord, Store
from orchestrator.store.abreast import abreast

_WAIT_S = 0.2
_SAMPLED_SHARDS = 200
"""Of a stage with more shards, the tracker is told the curves and pictures of so many, evenly spread."""
OnMetrics = Callable[[str, str, int, Mapping[str, float]], None]
"""Is told what a shard logs: stage, shard, step, values."""


@dataclass
class _Progress:
    """One stage of the run, as the driver keeps it."""

    plan: StagePlan
    state: str = "pending"
    pool: ShardedStage | None = None
    workers: int = 0
    started: float = 0.0
    seconds: float = 0.0
    waits: str | None = None
    """For whom."""
    computed: int = 0
    """Shards, before the lease was lost or the stage went on without some."""
    tolerated: int = 0
    """Shards that failed and without which the stage went on."""
    apart: set[str] = field(default_factory=set)
    """Stages under way that compute no shard of this one."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The final ones."""


class Run:
    """One walk over a plan. `go` returns the record; `request_stop` may be called from a signal handler.

    `search` is the id of the search whose trial it is; `workplace` where workers are found, Ray by default.
    """

    def __init__(
        self,
        plan: Plan,
        record: RunRecord,
        store: Store,
        spool: Spool,
        console: Console,
        on_metrics: OnMetrics | None = None,
        search: str | None = None,
        workplace: Workplace | None = None,
    ) -> None:
        self._on_metrics, self._search = on_metrics, search
        self._workplace = workplace or Actors()
        self._plan, self._store, self._spool, self._console = plan, store, spool, console
        self.record = record
        self._keeper = Keeper(Leases(store.bytes), record.run_id)
        self._stages = {stage.name: _Progress(stage) for stage in plan.stages}
        self._without: dict[str, frozenset[str]] = {}
        self._stop = False

    def request_stop(self) -> None:
        """Ends the run soon: workers save their progress, and nothing new is started."""
        self._stop = True

    def go(self) -> RunRecord:
        """Runs until nothing is left, and raises Interrupted when it was asked to stop."""
        self._announce()
        try:
            while not self._settled():
                self._give_way()
                self._start_ready()
                waiting = any(progress.waits for progress in self._stages.values())
                assert self._active() or waiting or self._settled(), "nothing runs and nothing can start"
                self._listen()
                self._collect()
                self._show()
        except BaseException:
            self._finish("interrupted")
            raise
        finally:
            for progress in self._stages.values():
                if progress.pool:
                    progress.pool.kill()
            self._keeper.close()
            self._tell_kept()
        self._collect()
        if self._stop:
            self._finish("interrupted")
            raise Interrupted(f"run {self.record.run_id} was stopped; the same command goes on from here")
        failed = any(progress.state in ("failed", "blocked") for progress in self._stages.values())
        return self._finish("failed" if failed else "done")

    def _listen(self) -> None:
        """Takes what workers answer, until it is time to look after them; at once where a stage is over."""
        until, over, stopping = time.monotonic() + _WAIT_S, False, self._stop
        while (left := until - time.monotonic()) > 0 and not over and self._stop == stopping:
            for heard in self._workplace.hear(left):
                pool = self._stages[heard.stage].pool
                if pool:
                    pool.handle(heard)
                    over = over or pool.finished
        for pool in self._active():
            pool.tick()

    def _announce(self) -> None:
        experiment = self._plan.experiment
        self._save("running")
        self._save_plan()
        self._spool.run_started(
            run_id=self.record.run_id, experiment=experiment.name,
            params=_flat({"seed": experiment.seed, "stages": experiment.document["stages"]}),
            tags={
                "commit": commit() or "",
                "overrides": " ".join(experiment.overrides),
                "dataset": _names(one for stage in self._plan.stages for one in data_of(stage.facts)),
            },
            search=self._search,
        )  # fmt: skip

    def _settled(self) -> bool:
        if self._stop:
            for progress in self._stages.values():
                if progress.pool and not progress.pool.outcome.stopped:
                    progress.pool.stop()
            return not self._active()
        return all(progress.state not in ("pending", "running") for progress in self._stages.values())

    def _active(self) -> list[ShardedStage]:
        pools = [progress.pool for progress in self._stages.values() if progress.state == "running"]
        return [pool for pool in pools if pool and not pool.finished]

    def _start_ready(self) -> None:
        for progress in self._stages.values():
            if progress.state != "pending" or self._stop:
                continue
            states = [self._stages[name].state for name in progress.plan.upstream]
            if any(state in ("failed", "blocked") for state in states):
                progress.state = "blocked"
            elif progress.plan.cached:
                self._take_cached(progress)
            elif not progress.plan.selected:
                progress.state = "skipped"
            elif all(state in ("done", "cached") for state in states):
                self._start(progress)

    def _start(self, progress: _Progress) -> None:
        plan = progress.plan
        workers = min(plan.workers, self._free().fits(plan.needs))
        if workers < 1 or self._computed_elsewhere(progress) or not self._leased(progress):
            return
        progress.plan = self._looked_up(plan)
        if progress.plan.cached:
            self._keeper.release(plan.key)
            self._take_cached(progress)
        else:
            self._compute(progress, workers)

    def _looked_up(self, plan: StagePlan) -> StagePlan:
        """The plan as the store stands now: another run may have committed shards, or published it all."""
        cached = self._store.manifest(plan.key) is not None
        done = set(plan.shard_keys) if cached else self._store.committed(plan.shard_keys)
        todo = tuple(index for index, key in enumerate(plan.shard_keys) if key not in done)
        return replace(plan, todo=todo, cached=cached)

    def _compute(self, progress: _Progress, workers: int) -> None:
        plan, todo = progress.plan, set(progress.plan.todo)
        progress.state, progress.workers, progress.started = "running", workers, time.monotonic()
        self._tell_started(plan)
        self._replay(plan, todo)
        hands = self._workplace.staff(plan, self._assignment(plan), self._plan.offer)
        progress.pool = ShardedStage(
            plan, hands, self._plan.offer, workers, self._hears(plan),
            lambda shard, problem: self._console.failure(plan.name, shard, problem),
        )  # fmt: skip
        progress.pool.begin()

    def _leased(self, progress: _Progress) -> bool:
        """Takes the stage's lease, or says once for whom it waits."""
        plan, before = progress.plan, progress.waits
        progress.waits = self._keeper.ask(plan.key, plan.inputs.values())
        if progress.waits and progress.waits != before:
            self._console.note(plan.name, f"waits for {progress.waits}, which computes it")
        return progress.waits is None

    def _give_way(self) -> None:
        """Stops stages whose lease another run took over; they wait for it to end."""
        self._tell_kept()
        for progress in self._stages.values():
            if progress.state == "running" and self._keeper.lost(progress.plan.key) and progress.pool:
                progress.pool.kill()
                progress.computed += progress.pool.outcome.computed
                progress.state, progress.pool = "pending", None
                progress.plan = self._looked_up(progress.plan)
                self._console.note(progress.plan.name, "given up: this run was silent, another took over")

    def _tell_kept(self) -> None:
        for message in self._keeper.told():
            self._console.say(message)

    def _computed_elsewhere(self, progress: _Progress) -> bool:
        """Whether a stage under way computes shards that this one needs too; then this one waits for them."""
        running = {other.plan.name: other.plan for other in self._stages.values() if other.state == "running"}
        for name in running.keys() - progress.apart:
            other, plan = running[name], progress.plan
            keys = {other.shard_keys[index] for index in other.todo}
            if not keys.isdisjoint(plan.shard_keys[index] for index in plan.todo):
                return True
            progress.apart.add(name)
        return False

    def _free(self) -> Offer:
        """What the stages under way leave."""
        offer = self._plan.offer
        for progress in self._stages.values():
            if progress.state == "running":
                offer = offer.without(progress.plan.needs, progress.workers)
        return offer

    def _assignment(self, plan: StagePlan) -> Assignment:
        options, experiment = plan.stage.options, self._plan.experiment
        return Assignment(
            run_id=self.record.run_id, experiment=experiment.name, stage=plan.name, task=options.task,
            target=plan.target, version=plan.task.version, seed=experiment.seed,
            config_json=plan.stage.config.model_dump_json(exclude_unset=True), inputs=dict(plan.inputs),
            digests=content_digests(plan.stage.config), facts=dict(plan.facts), store_uri=self._store.uri,
            device="cuda" if plan.needs.gpus > 0 else "cpu", gpus=plan.needs.gpus, threads=plan.needs.threads,
            progress_s=options.progress_s,
        )  # fmt: skip

    def _hears(self, plan: StagePlan) -> Callable[[str, News], None]:
        shown = {plan.shards[index].label for index in _sampled(plan)} | {""}

        def hear(shard: str, news: News) -> None:
            for entry in news["metrics"]:
                if shard in shown:
                    self._spool.metrics(
                        plan.name, shard, entry["step"], entry["values"], time_ms=entry["time_ms"]
                    )
                self._console.metrics(plan.name, entry["values"])
                if self._on_metrics:
                    self._on_metrics(plan.name, shard, entry["step"], entry["values"])
            for picture in news["previews"] if shard in shown else ():
                self._spool.preview(
                    plan.name,
                    shard,
                    picture["name"],
                    picture["step"],
                    picture["blob"],
                    time_ms=picture["time_ms"],
                )

        return hear

    def _replay(self, plan: StagePlan, todo: Collection[int]) -> None:
        """Tells the tracker what finished shards logged; the spool drops what it was told before."""
        keys = [plan.shard_keys[index] for index in _sampled(plan) if index not in todo]
        hear = self._hears(plan)
        for label, news in abreast(self._store.bytes.at_once, self._logged, keys):
            hear(label, news)

    def _logged(self, key: str) -> tuple[str, News]:
        """Label of a finished shard, and what it logged."""
        record = self._store.shard(key).record
        metrics = json.loads(self._store.read_blob(record.history.digest)) if record.history else []
        return record.label, {"metrics": metrics, "previews": record.previews}

    def _take_cached(self, progress: _Progress) -> None:
        progress.state = "cached"
        self._tell_started(progress.plan)
        self._replay(progress.plan, ())
        self._tell_ended(progress)

    def _collect(self) -> None:
        for progress in self._stages.values():
            pool = progress.pool
            if progress.state == "running" and pool and pool.finished:
                progress.seconds += time.monotonic() - progress.started
                progress.state = "done" if pool.outcome.closed else "interrupted" if self._stop else "failed"
                self._keep_failures(progress.plan.name, pool.outcome)
                self._keeper.release(progress.plan.key)
                if progress.state == "failed" and tolerable(progress.plan, pool.outcome):
                    self._go_on_without(progress, pool.outcome)
                else:
                    self._tell_ended(progress)

    def _go_on_without(self, progress: _Progress, outcome: Outcome) -> None:
        """Plans anew without the shards that failed: the artifact is another one, and so is all made from it."""
        plan, failed = progress.plan, outcome.failures
        keys = zip(plan.shards, plan.shard_keys, strict=True)
        self._without[plan.name] = frozenset(key for shard, key in keys if shard.label in failed)
        progress.state, progress.pool = "pending", None
        progress.computed, progress.tolerated = progress.computed + outcome.computed, len(failed)
        made = make_plan(self._plan.experiment, self._store, self._plan.offer, without=self._without)
        for new in made.stages:
            other = self._stages[new.name]
            if other.state == "pending":
                other.plan = replace(new, selected=other.plan.selected)
        self._save_plan()
        self._console.note(
            plan.name, f"goes on without {len(failed)} of {len(plan.shards)} shards, which failed"
        )

    def _save_plan(self) -> None:
        plans = [progress.plan for progress in self._stages.values()]
        self._store.save_plan(self.record.run_id, {plan.name: plan.shard_keys for plan in plans})

    def _keep_failures(self, stage: str, outcome: Outcome) -> None:
        for label, failure in outcome.failures.items():
            self._store.save_failure(self.record.run_id, stage, label, failure)
            self._console.failure(stage, label, failure["error"])
        if outcome.failed > len(outcome.failures):
            self._console.note(
                stage, f"{outcome.failed} shards failed; of {len(outcome.failures)} it is kept why"
            )

    def _tell_started(self, plan: StagePlan) -> None:
        self._spool.stage_started(
            stage=plan.name, task=plan.stage.options.task, shards=len(plan.shards),
            params=_flat(plan.stage.config.model_dump(mode="json")),
            tags={
                "cached": str(plan.cached).lower(), "inputs": " ".join(plan.inputs.values()),
                "commit": commit() or "", "dataset": _names(data_of(plan.facts)),
            },
            datasets=_datasets(plan),
        )  # fmt: skip

    def _tell_ended(self, progress: _Progress) -> None:
        plan = progress.plan
        manifest = self._store.manifest(plan.key) if progress.state in ("done", "cached") else None
        if manifest:
            progress.metrics = dict(manifest.metrics)
            self._hears(plan)("", {"metrics": [], "previews": manifest.previews})
        self._spool.stage_ended(
            stage=plan.name, state=progress.state, metrics=progress.metrics,
            artifact=manifest.id if manifest else None, digest=manifest.digest if manifest else None,
            manifest=manifest.to_json() if manifest else None, tables=self._summary(plan) if manifest else None,
            failed_shards=_failed(progress), model=self._model(plan, manifest) if manifest else None,
        )  # fmt: skip
        self._save("running")
        self._console.stage(plan.name, progress.state, progress.seconds)

    def _model(self, plan: StagePlan, manifest: Manifest) -> dict[str, Any] | None:
        """What the artifact is when it is asked as a model, and where it lies."""
        served = plan.task.serves(manifest.facts)
        where = {"task": plan.stage.options.task, "artifact": manifest.id, "digest": manifest.digest}
        reference = {"store": self._store.uri, **where}
        return None if served is None else {**asdict(served), "reference": reference}

    def _summary(self, plan: StagePlan) -> str | None:
        """The stage's summary table as text."""
        artifact = self._store.artifact(plan.key)
        if "summary.parquet" not in artifact.names:
            return None
        table = artifact.table("summary")
        rows = [table.column_names, *(list(row.values()) for row in table.to_pylist())]
        return "".join("\t".join(shown(value) for value in row) + "\n" for row in rows)

    def _show(self) -> None:
        for progress in self._stages.values():
            if progress.state == "running" and progress.pool:
                outcome, plan = progress.pool.outcome, progress.plan
                done = len(plan.shards) - len(plan.todo)
                self._console.progress(
                    plan.name, done=done, computed=outcome.computed, total=len(plan.shards),
                    failed=outcome.failed, seconds=time.monotonic() - progress.started,
                    workers=progress.pool.busy,
                )  # fmt: skip

    def _finish(self, state: str) -> RunRecord:
        self._spool.run_ended(state)
        return self._save(state)

    def _save(self, state: str) -> RunRecord:
        ended = None if state == "running" else now_ms()
        stages = [self._stage_record(progress) for progress in self._stages.values()]
        self.record = replace(self.record, state=state, ended=ended, stages=stages)
        self._store.save_run(self.record)
        return self.record

    def _stage_record(self, progress: _Progress) -> StageRecord:
        plan, outcome = progress.plan, progress.pool.outcome if progress.pool else None
        before = progress.computed
        return StageRecord(
            stage=plan.name, task=plan.stage.options.task, artifact=plan.key, state=progress.state,
            cached_shards=len(plan.shards) - len(plan.todo) - before,
            computed_shards=before + (outcome.computed if outcome else 0),
            failed_shards=_failed(progress), seconds=round(progress.seconds, 3), metrics=progress.metrics,
            planned_seconds=plan.seconds if plan.selected else None,
            planned_bytes=plan.disk_bytes if plan.selected else None,
        )  # fmt: skip


def _failed(progress: _Progress) -> int:
    """Shards that failed, those among them without which the stage went on."""
    return progress.tolerated + (progress.pool.outcome.failed if progress.pool else 0)


def tolerable(plan: StagePlan, outcome: Outcome) -> bool:
    """Whether no more shards failed than the stage may do without, each of them is known, and nothing else failed."""
    most = plan.stage.options.tolerate_failures * len(plan.shards)
    known = outcome.failed == len(outcome.failures)
    shards = all(failure["identity"] for failure in outcome.failures.values())
    return known and shards and outcome.failed <= most + 1e-9


def _sampled(plan: StagePlan) -> range:
    """The shards whose curves and pictures the tracker is told."""
    return range(0, len(plan.shards), -(-len(plan.shards) // _SAMPLED_SHARDS))


def _datasets(plan: StagePlan) -> list[dict[str, str]]:
    """As the tracker shows them; data without a known source is left out."""
    return [
        {"name": str(one["name"]), "digest": str(one["digest"]), "source": json.dumps(one["source"])}
        for one in data_of(plan.facts)
        if one["source"]
    ]


def _names(data: Iterable[Mapping[str, Any]]) -> str:
    """Of datasets, for a person to search by."""
    return " ".join(dict.fromkeys(str(one["name"]) for one in data))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
