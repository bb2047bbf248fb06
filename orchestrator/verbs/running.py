"""`limbeck run` and `limbeck plan`."""

import contextlib
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusters import attached, local
from orchestrator.console import Console, duration, size
from orchestrator.errors import Infeasible, RunFailed
from orchestrator.experiment import load_experiment
from orchestrator.feasibility import GB, Offer, problems
from orchestrator.identity import begin_run
from orchestrator.places import home, is_remote
from orchestrator.plan import Plan, StagePlan, make_plan
from orchestrator.report.writing import walk_and_report
from orchestrator.spool import EVENTS, Spool
from orchestrator.store import RunRecord, Store, open_bytes
from orchestrator.tracking import Tracker, default_uri, files_root, uri_of
from orchestrator.verbs.pictures import save_pictures

if TYPE_CHECKING:
    from orchestrator.run import Run

_DRAIN_S = 30.0
_FIRST_S = 5.0
"""For a store to answer before anything is begun."""


def run(
    experiment: Path,
    overrides: Sequence[str],
    store_uri: str,
    tracking: str | None,
    only: Sequence[str],
    since: str | None,
    fresh: str | None,
    as_json: bool,
) -> None:
    """Plans, refuses what cannot be, runs the rest, and shows what came out."""
    console = Console(as_json=as_json)
    space = open_bytes(store_uri)
    uri = uri_of(space.uri, tracking)
    store = Store.over(space)
    offer = offered(store)
    made = planned(experiment, overrides, store, offer, only, since, fresh)
    _refuse_infeasible(made)
    _show_changed(made, console)
    active = targets(made)
    with session(offer, store, active) if active else contextlib.nullcontext():
        while _measure(made, store, console):
            made = planned(experiment, overrides, store, offer, only, since, fresh)
        if fresh:
            _forget(made, fresh, store)
        record = begin_run(made, store)
        store.save_run(record)
        with _tracker(uri, record, store, console) as spool:
            record, page = _go(made, record, store, spool, console)
    store.rows()  # what was made goes into the index now, not when somebody waits for a listing
    pictures = home(store.uri) / "runs" / record.run_id / "pictures"
    count = save_pictures(made, store, pictures)
    places = {"report": page or "none", "pictures": f"{pictures} ({count})" if count else "none"}
    if as_json:
        console.answer(answer(record, store))
    else:
        _show_result(made, record, store, console)
        _show_places(record, store, uri, places, console)
    if record.state != "done":
        raise RunFailed(_failure(record, store, page), answered=as_json)


def plan(
    experiment: Path,
    overrides: Sequence[str],
    store_uri: str,
    only: Sequence[str],
    since: str | None,
    fresh: str | None,
    as_json: bool,
) -> None:
    """Shows the plan; exit code 3 where it cannot be."""
    console = Console(as_json=as_json)
    store = to_read(store_uri)
    made = planned(experiment, overrides, store, offered(store), only, since, fresh)
    found = problems([stage for stage in made.stages if stage.active], made.offer)
    if as_json:
        console.answer(plan_answer(made, found))
    else:
        show_plan(made, console)
        _show_changed(made, console)
    if found:
        raise Infeasible("\n".join(found), answered=as_json)


def answer(record: RunRecord, store: Store) -> dict[str, Any]:
    """The object that `run --json` ends with."""
    stages = {}
    for stage in record.stages:
        made = stage.artifact if stage.state in ("done", "cached") else None
        manifest = store.manifest(made) if made else None
        stages[stage.stage] = {
            "task": stage.task,
            "state": stage.state,
            "artifact": manifest.id if manifest else None,
            "digest": manifest.digest if manifest else None,
            "cached_shards": stage.cached_shards,
            "computed_shards": stage.computed_shards,
            "failed_shards": stage.failed_shards,
            "seconds": stage.seconds,
            "metrics": dict(stage.metrics),
        }
    return {"run_id": record.run_id, "state": record.state, "stages": stages}


def planned(
    experiment: Path,
    overrides: Sequence[str],
    store: Store,
    offer: Offer,
    only: Sequence[str] = (),
    since: str | None = None,
    fresh: str | None = None,
) -> Plan:
    """The plan of an experiment's file with these overrides."""
    return make_plan(
        load_experiment(experiment, overrides), store, offer, only=only, since=since, fresh=fresh
    )


def offered(store: Store) -> Offer:
    """What there is where the work takes place: the cluster that it is told to attach to, else this machine."""
    free = store.bytes.free_bytes()
    return attached.offer(free) if attached.address() else local.offer(free)


def to_read(store_uri: str) -> Store:
    """The store, or an empty one where none is yet: a plan makes nothing. It waits for no server, and a bucket that
    is not there is UserError."""
    space = open_bytes(store_uri, patience_s=_FIRST_S)
    if space.exists("store.json"):
        return Store.over(space, create=False)
    if is_remote(store_uri):
        next(iter(space.list()), None)  # that an object is missing does not tell whether its bucket is
    return Store(space)


def _refuse_infeasible(made: Plan) -> None:
    found = problems([stage for stage in made.stages if stage.active], made.offer)
    if found:
        raise Infeasible("\n".join(found))


def _forget(made: Plan, fresh: str, store: Store) -> None:
    """Drops what the stage and all after it have made, so that it is made anew."""
    from orchestrator.plan import downstream

    names = downstream(made.experiment, fresh)
    for stage in made.stages:
        if stage.stage.base in names:
            store.drop_artifact(stage.key)
            for key in stage.shard_keys:
                store.drop_shard(key)
                store.drop_progress(key)


@contextlib.contextmanager
def _tracker(uri: str, record: RunRecord, store: Store, console: Console) -> Iterator[Spool]:
    folder = home(store.uri)
    spool = Spool(folder / "runs" / record.run_id / EVENTS)
    root = files_root(folder)
    tracker = Tracker(uri, spool, store.read_blob, root, earlier=folder / "runs")
    try:
        yield spool
    finally:
        left = tracker.close(_DRAIN_S)
        spool.close()
        if left:
            why = f" ({tracker.error})" if tracker.error else ""
            console.say(
                f"MLflow at {uri} does not answer{why}: {left} events wait, the next run delivers them"
            )


def session(offer: Offer, store: Store, targets: Sequence[str]) -> AbstractContextManager[None]:
    """A Ray for these tasks: the cluster's, once its nodes are seen to be fit, else one of our own."""
    return attached.session(store, targets) if attached.address() else local.session(offer)


def targets(made: Plan) -> list[str]:
    """The tasks of which anything is to be computed."""
    return sorted({stage.target for stage in made.stages if stage.active})


def _measure(made: Plan, store: Store, console: Console) -> bool:
    """Measures what the first stage that has anything open leaves open; False where none has."""
    left = next((stage for stage in made.stages if stage.active and stage.open), None)
    if left is not None:
        measure_stage(left, made.offer, store, console)
    return left is not None


def measure_stage(left: StagePlan, offer: Offer, store: Store, console: Console) -> None:
    """Measures what a stage leaves open, and pins it. Needs a Ray to be up."""
    from orchestrator.executors.pacing import measure

    assert left.open is not None
    console.say(f"{left.name}: measuring {' and '.join(left.open.settings[0])} on this device")
    found = measure(left, offer, store)
    best = max(trial["items_per_s"] for trial in found.trials)
    chosen = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    console.say(
        f"{left.name}: {chosen}, {found.threads} threads a worker ({best:.3g} items/s on {found.where})"
    )


def _go(
    made: Plan, record: RunRecord, store: Store, spool: Spool, console: Console
) -> tuple[RunRecord, Path | None]:
    """The record as it ended, and the run's page."""
    needed = any(stage.active for stage in made.stages)
    console.say(f"run {record.run_id}" + ("" if needed else ": everything is cached"))
    from orchestrator.run import Run  # Ray reads its settings when imported, and the session makes them

    walk = Run(made, record, store, spool, console)
    with _signals(walk, console), contextlib.closing(console):
        return walk_and_report(walk, store, spool, console)


@contextlib.contextmanager
def _signals(walk: "Run", console: Console) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops the run in order; the second at once."""

    def stop(number: int, frame: Any) -> None:
        console.say("stopping: workers save their progress (again to end at once)")
        walk.request_stop()
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def plan_answer(made: Plan, found: Sequence[str]) -> dict[str, Any]:
    """The object of `plan --json`."""
    offer = made.offer
    return {
        "experiment": made.experiment.name,
        "feasible": not found,
        "problems": list(found),
        "stages": {stage.name: stage.row() for stage in made.stages},
        "seconds": made.seconds,
        "disk_bytes": sum(stage.disk_bytes for stage in made.stages),
        "offer": {
            "cpus": offer.cpus,
            "gpus": offer.gpus,
            "memory_gb": offer.memory_gb,
            "disk_gb": offer.disk_gb,
        },
    }


def show_plan(made: Plan, console: Console) -> None:
    """The table of stages, and what is offered."""
    rows = []
    for stage in made.stages:
        left = len(stage.todo) if stage.active else 0
        todo = (
            "cached" if stage.cached else f"{left} of {len(stage.shards)}" if stage.selected else "left out"
        )
        if stage.open and stage.active:
            todo += f" ({', '.join(stage.open.settings[0])} to be measured)"
        ranks = f"{stage.needs.ranks} ranks x " if stage.needs.ranks > 1 else ""
        asks = f"{stage.workers} x {ranks}{stage.needs.cpus:g} cpu, {stage.needs.memory_gb:g} GB"
        asks += f", {stage.needs.gpus:g} gpu" if stage.needs.gpus else ""
        time_left = duration(stage.seconds) if stage.active else "-"
        disk = size(stage.disk_bytes) if stage.active else "-"
        rows.append(
            [stage.name, stage.stage.options.task, todo, asks if stage.active else "-", time_left, disk]
        )
    console.table("", ["stage", "task", "shards to do", "asks", "time", "disk"], rows)
    offer = made.offer
    disk = "" if offer.disk_gb is None else f", {size(offer.disk_gb * GB)} of disk"
    console.print(
        f"{offer.where} offers {offer.cpus:g} cpus, {offer.gpus:g} gpus, {offer.memory_gb:g} GB{disk}; "
        f"estimated time: {duration(made.seconds)}"
    )


def _show_changed(made: Plan, console: Console) -> None:
    for stage in made.stages:
        if stage.source_changed:
            console.say(
                f"{stage.name}: made by other code of task {stage.stage.options.task}; "
                f"--fresh {stage.stage.base} makes it anew"
            )


def _show_result(made: Plan, record: RunRecord, store: Store, console: Console) -> None:
    for stage in made.stages:
        manifest = store.manifest(stage.key)
        if manifest and "summary.parquet" in manifest.files:
            table = store.artifact(stage.key).table("summary")
            console.print("")
            console.table(stage.name, table.column_names, [list(row.values()) for row in table.to_pylist()])
    rows = [
        [
            stage.stage,
            stage.state,
            stage.cached_shards,
            stage.computed_shards,
            stage.seconds,
            stage.artifact if stage.state in ("done", "cached") else None,
        ]
        for stage in record.stages
    ]
    console.print("")
    console.table("", ["stage", "state", "cached", "computed", "seconds", "artifact"], rows)


def _show_places(
    record: RunRecord, store: Store, uri: str, places: Mapping[str, object], console: Console
) -> None:
    """Where things lie, and what to try next."""
    console.print("")
    console.print(f"run       {record.run_id}: {record.state}")
    console.print(f"store     {store.uri}")
    for name, place in places.items():
        console.print(f"{name:10}{place}")
    console.print(f"MLflow    {uri}")
    option = f"--store {shlex.quote(store.uri)}"
    made = [stage.artifact for stage in record.stages if stage.state in ("done", "cached")]
    if uri == default_uri(home(store.uri)):
        console.print(f"next      limbeck ui {option}")
    elif uri.startswith("sqlite:"):
        console.print(f"next      limbeck ui {option} --tracking {shlex.quote(uri)}")
    if made:
        console.print(f"next      limbeck artifacts lineage {made[-1]} {option}")


def _failure(record: RunRecord, store: Store, page: Path | None) -> str:
    kept = store.failures(record.run_id)
    lines = [f"{failed.stage} {failed.shard}: {failed.failure['error']}" for failed in kept]
    stages = [stage.stage for stage in record.stages if stage.state == "failed"]
    head = f"run {record.run_id} failed in {', '.join(stages) or 'no stage'}; finished shards are kept"
    return "\n".join([head, *lines[:10], *([f"what was done so far: {page}"] if page else [])])
