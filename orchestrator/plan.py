"""Experiment and store to a Plan: stages in order, their keys, the shards still to do. Pure: it only reads."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from orchestrator.catalogue import AnyTask, find_task, source_digest, targets
from orchestrator.choosing import with_threads
from orchestrator.cutting import Draft, Open
from orchestrator.errors import UserError, nearest
from orchestrator.experiment import Experiment, Stage
from orchestrator.feasibility import Offer, merged
from orchestrator.store import Manifest, Store
from orchestrator.task import Facts, Memory, Needs, Shard


@dataclass(frozen=True)
class StagePlan:
    """What one stage instance will do."""

    stage: Stage
    task: AnyTask
    needs: Needs
    key: str
    """Key of the stage, and so the id of the artifact to be."""
    inputs: Mapping[str, str]
    """Config field to the id of the artifact it takes."""
    upstream: tuple[str, ...]
    """Stage instances that have to be done before."""
    facts: Facts
    shards: tuple[Shard, ...]
    shard_keys: tuple[str, ...]
    todo: tuple[int, ...]
    """Indices of the shards that the store does not hold."""
    cached: bool
    """The artifact is published: nothing is left to do."""
    selected: bool
    """To be run; a stage that is neither selected nor cached is left out of this run."""
    workers: int
    seconds: float | None
    """Estimated seconds for what is left, from earlier runs of the same task; None: unknown."""
    disk_bytes: int
    """Estimated bytes that what is left will add to the store."""
    source_changed: bool
    """The code of the task is another than that which made the cached artifact."""
    open: Open | None = None
    """Settings that have to be measured first; until then `shards` is a guess."""
    memory: Memory | None = None
    """What a worker holds, where the task can say it and the stage does not."""

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def target(self) -> str:
        return targets()[self.stage.options.task]

    @property
    def active(self) -> bool:
        return self.selected and not self.cached

    def row(self) -> dict[str, Any]:
        """This stage in the plan, as plain JSON."""
        return {
            "stage": self.name,
            "task": self.stage.options.task,
            "artifact": self.key,
            "cached": self.cached,
            "selected": self.selected,
            "shards": len(self.shards),
            "shards_done": len(self.shards) - len(self.todo),
            "shards_todo": len(self.todo) if self.active else 0,
            "workers": self.workers,
            "needs": {
                "cpus": self.needs.cpus,
                "gpus": self.needs.gpus,
                "memory_gb": self.needs.memory_gb,
                "threads": self.needs.threads,
                "ranks": self.needs.ranks,
            },
            "seconds": self.seconds,
            "disk_bytes": self.disk_bytes,
            "source_changed": self.source_changed,
            "to_measure": sorted(self.open.settings[0]) if self.open and self.active else [],
        }


@dataclass(frozen=True)
class Plan:
    """All stage instances in an order in which they can run."""

    experiment: Experiment
    offer: Offer
    stages: tuple[StagePlan, ...]

    @property
    def seconds(self) -> float | None:
        """Estimated seconds of the whole, or None where a stage's is unknown."""
        parts = [plan.seconds for plan in self.stages if plan.active]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


def make_plan(
    experiment: Experiment,
    store: Store,
    offer: Offer,
    *,
    only: Sequence[str] = (),
    since: str | None = None,
    fresh: str | None = None,
    without: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Plan:
    """Plans every stage; `only` and `since` select, `fresh` counts a stage and all after it as not done;
    `without` names, by stage instance, the keys of shards to be left out."""
    named = [*(("--only", name) for name in only), ("--from", since), ("--fresh", fresh)]
    for option, name in named:
        if name is not None and name not in experiment.names:
            raise UserError(f"{option} {name}: there is no such stage; {nearest(name, experiment.names)}")
    renewed = downstream(experiment, fresh) if fresh else frozenset[str]()
    selected = _selected(experiment, only, since)
    rates = _seconds_per_shard(store)
    plans: dict[str, StagePlan] = {}
    for stage in experiment.stages:
        plans[stage.name] = _plan_stage(
            stage, experiment.seed, plans, store, offer, rates, stage.base in selected, stage.base in renewed,
            without.get(stage.name, ()),
        )  # fmt: skip
    plan = Plan(experiment, offer, tuple(plans.values()))
    _check_selection(plan, plans)
    return plan


def downstream(experiment: Experiment, name: str) -> frozenset[str]:
    """The stage and every stage that takes, directly or not, what it makes."""
    found = {name}
    for stage in experiment.stages:
        if found & {source.partition("[")[0] for source in stage.sources.values()}:
            found.add(stage.base)
    return frozenset(found)


def _selected(experiment: Experiment, only: Sequence[str], since: str | None) -> Collection[str]:
    if only:
        return frozenset(only)
    return downstream(experiment, since) if since else experiment.names


def _plan_stage(
    stage: Stage,
    seed: int,
    earlier: Mapping[str, StagePlan],
    store: Store,
    offer: Offer,
    rates: Mapping[str, float],
    selected: bool,
    renewed: bool,
    without: Collection[str],
) -> StagePlan:
    task, name = find_task(stage.options.task), stage.options.task
    sources = {field: _source(stage, field, named, earlier, store) for field, named in stage.sources.items()}
    inputs = {field: source[0] for field, source in sources.items()}
    needs = _needs(stage, task)
    _check_tolerance(stage, task)
    device = "cuda" if needs.gpus > 0 else "cpu"
    try:
        facts = task.describe(stage.config, {field: source[1] for field, source in sources.items()})
        memory = _memory(stage, task, facts, needs)
        choices = task.choices(stage.config, facts, device)
        work, left = Draft(stage, task, seed, inputs, facts, store, renewed, without).settled(choices, device)
    except (ValueError, OSError) as error:
        raise UserError(f"stages.{stage.name}: {error}") from error
    stage, keys = work.stage, work.shard_keys
    if memory is not None:
        needs = replace(needs, memory_gb=max(needs.memory_gb, round(memory.main_gb, 2)))
    done = set(keys) if work.manifest else set() if renewed else store.committed(keys)
    todo = tuple(index for index, shard in enumerate(keys) if shard not in done)
    if work.pinned and needs.gpus == 0:
        needs = with_threads(needs, stage.options.resources, work.pinned.threads, offer)
    workers = max(1, min(stage.options.resources.workers or offer.fits(needs), max(1, len(todo))))
    workers = max(1, min(workers, offer.fits(needs)))
    active = selected and work.manifest is None
    return StagePlan(
        stage=stage, task=task, needs=needs, key=work.key, inputs=inputs,
        upstream=tuple(dict.fromkeys(named for named in stage.sources.values() if named in earlier)),
        facts=facts, shards=work.shards, shard_keys=keys, todo=todo, cached=work.manifest is not None,
        selected=selected, workers=workers,
        seconds=_estimate(rates.get(name), len(todo), workers) if active else 0.0,
        disk_bytes=sum(work.shards[index].disk_bytes for index in todo) if active else 0,
        source_changed=_source_changed(work.manifest, targets()[name]), open=left, memory=memory,
    )  # fmt: skip


def _needs(stage: Stage, task: AnyTask) -> Needs:
    """What each worker, or each rank, asks for. Raises UserError where a task cannot work in a gang."""
    needs, where = merged(task.needs, stage.options.resources), f"stages.{stage.name}.resources"
    if needs.ranks > 1 and not task.gang:
        raise UserError(
            f"{where}.ranks: found {needs.ranks}, but {stage.options.task} computes a shard in one process; "
            "leave it out, and give `workers` for shards side by side"
        )
    if needs.ranks > 1 and needs.gpus % 1:
        raise UserError(
            f"{where}.gpus: found {needs.gpus:g}, expected a whole number: ranks of a gang cannot share a GPU"
        )
    return needs


def _memory(stage: Stage, task: AnyTask, facts: Facts, needs: Needs) -> Memory | None:
    return None if stage.options.resources.memory_gb is not None else task.memory(stage.config, facts, needs)


def _check_tolerance(stage: Stage, task: AnyTask) -> None:
    if stage.options.tolerate_failures and not task.tolerant:
        raise UserError(
            f"stages.{stage.name}.tolerate_failures: found {stage.options.tolerate_failures:g}, but what "
            f"{stage.options.task} makes is of no use without all its shards; leave it out"
        )


def _source(
    stage: Stage, field: str, named: str, earlier: Mapping[str, StagePlan], store: Store
) -> tuple[str, Facts]:
    """Id and facts of what a field names, checked to be of the kind that it takes."""
    from orchestrator.experiment import input_fields

    if named in earlier:
        artifact, facts, kind = earlier[named].key, earlier[named].facts, earlier[named].task.makes
    else:
        manifest = store.manifest(named)
        if manifest is None:
            raise UserError(
                f"stages.{stage.name}.{field}: the store holds no artifact {named}; see `limbeck artifacts ls`"
            )
        artifact, facts, kind = manifest.id, manifest.facts, manifest.kind
    wanted = input_fields(type(stage.config))[field].kind
    if kind != wanted:
        raise UserError(f"stages.{stage.name}.{field}: {named} is of kind {kind!r}, expected {wanted!r}")
    return artifact, facts


def _source_changed(manifest: Manifest | None, target: str) -> bool:
    return manifest is not None and manifest.provenance.get("source") not in (None, source_digest(target))


def _seconds_per_shard(store: Store) -> dict[str, float]:
    """Task to the median seconds of a shard in the newest artifact that it made."""
    newest = {row.task: row for row in sorted(store.rows(save=False), key=lambda row: row.created)}
    return {task: row.shard_seconds for task, row in newest.items() if row.shard_seconds is not None}


def _estimate(rate: float | None, shards: int, workers: int) -> float | None:
    return None if rate is None and shards else (rate or 0.0) * -(-shards // workers)


def _check_selection(plan: Plan, plans: Mapping[str, StagePlan]) -> None:
    for stage in plan.stages:
        if not stage.active:
            continue
        for name in stage.upstream:
            if not plans[name].selected and not plans[name].cached:
                raise UserError(
                    f"stage {stage.name} needs {name}, which is not made yet; run without --only and --from first"
                )
