"""Walks a Plan: starts what can start, records what happens, tells the tracker. The store keeps the truth."""

import time
from dataclasses import dataclass, field, replace

from orchestrator.console import Console
from orchestrator.errors import Interrupted
from orchestrator.executors.actors import Actors
from orchestrator.executors.hands import Workplace
from orchestrator.executors.sharded import Outcome, ShardedStage
from orchestrator.executors.worker import Assignment
from orchestrator.feasibility import Offer
from orchestrator.keeper import Keeper
from orchestrator.plan import Plan, StagePlan, make_plan
from orchestrator.provenance import now_ms
from orchestrator.spool import Spool
from orchestrator.stagekeys import content_digests
from orchestrator.store import Leases, RunRecord, StageRecord, Store
from orchestrator.telling import OnMetrics, Telling

_WAIT_S = 0.2


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
        self._search, self._workplace = search, workplace or Actors()
        self._plan, self._store, self._console = plan, store, console
        self._telling = Telling(store, spool, console, on_metrics)
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
        self._save("running")
        self._save_plan()
        self._telling.run_started(self.record.run_id, self._plan.experiment, self._plan.stages, self._search)

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
        self._telling.stage_started(plan, todo)
        hands = self._workplace.staff(plan, self._assignment(plan), self._plan.offer)
        progress.pool = ShardedStage(
            plan, hands, self._plan.offer, workers, self._telling.hears(plan),
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

    def _take_cached(self, progress: _Progress) -> None:
        progress.state = "cached"
        self._telling.stage_started(progress.plan, ())
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

    def _tell_ended(self, progress: _Progress) -> None:
        plan = progress.plan
        manifest = self._store.manifest(plan.key) if progress.state in ("done", "cached") else None
        progress.metrics = dict(manifest.metrics) if manifest else {}
        self._telling.stage_ended(plan, progress.state, _failed(progress), manifest)
        self._save("running")
        self._console.stage(plan.name, progress.state, progress.seconds)

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
        self._telling.run_ended(state)
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
