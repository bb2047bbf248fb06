"""Runs one task as a gang of gloo processes on this machine, without Ray: describe -> shards -> compute -> close.

    artifact = run_gang(DistillLm, {...}, {"teacher": teacher}, ranks=2, folder=tmp_path)

Progress and shards lie in a store in `folder`, as in a real run. To kill and resume: the same folder again,
with any number of ranks, after a run that `kill_after` ended. With ranks=1 it is one worker, as outside a
gang. The first call costs the import of torch in a server process, each later one a fork.
"""

import json
import multiprocessing as mp
import os
import socket
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from orchestrator.executors.collective import GangContext, control_group
from orchestrator.executors.context import ShardContext
from orchestrator.keys import digest
from orchestrator.store import CommittedShard, Store
from orchestrator.task import Facts, Json, Output, Role, Settings, Shard, Task
from tests.tasks.harness import KilledError, MemoryContext, MemoryFiles

_PATIENCE_S = 60.0
"""How long a rank waits for another."""
_STARTER = mp.get_context("forkserver")
_STARTER.set_forkserver_preload(
    ["torch", "safetensors.torch", "pyarrow.parquet", "orchestrator.executors.collective"]
)


@dataclass(frozen=True)
class _Job:
    """What every rank is told."""

    task: type[Task[Any]]
    config: Settings
    inputs: Mapping[str, MemoryFiles]
    facts: Facts
    folder: str
    seed: int
    ranks: int
    port: int
    progress_s: float
    kill_after: int | None


def run_gang(
    task: type[Task[Any]],
    config: Mapping[str, Json] | Settings,
    inputs: Mapping[str, MemoryFiles] | None = None,
    *,
    ranks: int,
    folder: Path,
    seed: int = 0,
    progress_s: float = 0.0,
    kill_after: int | None = None,
    timeout_s: float = 120.0,
) -> MemoryFiles:
    """The finished artifact; `config` may leave out the fields that name inputs.

    Progress is saved at every `save_progress` that comes `progress_s` after the last; `kill_after` raises
    KilledError on all ranks at that save of a shard. An error of a rank is raised here, its traceback a note.
    """
    inputs = dict(inputs or {})
    if not isinstance(config, Settings):
        config = task.Config(**{name: name for name in inputs}, **config)
    facts = task.describe(config, {name: artifact.facts for name, artifact in inputs.items()})
    store = Store.open(str(folder / "store"))
    job = _Job(task, config, inputs, facts, store.uri, seed, ranks, _free_port(), progress_s, kill_after)
    _compute_on_all(job, timeout_s)
    finished = [_in_memory(store.shard(_key(job, shard)), store) for shard in task.shards(config, facts)]
    used = MemoryContext([seed, task.__name__, "closing"], {})
    output = task.close(config, inputs, facts, finished, used)
    return MemoryFiles(
        output,
        shards=finished,
        kind=task.makes,
        described=facts,
        curves=used.curves,
        previews=used.previews,
    )


def _compute_on_all(job: _Job, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    pipes = [_STARTER.Pipe(duplex=False) for _ in range(job.ranks)]
    started = [
        _STARTER.Process(target=_rank, args=(rank, job, sends), daemon=True)
        for rank, (_, sends) in enumerate(pipes)
    ]
    try:
        for process, (_, sends) in zip(started, pipes, strict=True):
            process.start()
            sends.close()
        waiting = {hears: rank for rank, (hears, _) in enumerate(pipes)}
        while waiting:
            ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"ranks {sorted(waiting.values())} do not end within {timeout_s:g} s")
            for hears in ready:
                _take(hears, waiting.pop(hears))
    finally:
        for process in started:
            process.kill()
            process.join()


def _take(hears: Connection, rank: int) -> None:
    try:
        error = hears.recv()
    except EOFError:
        raise RuntimeError(f"rank {rank} died") from None
    if error is not None:
        raise error


def _rank(rank: int, job: _Job, sends: Connection) -> None:
    """One rank, from its process's start to its end."""
    try:
        _compute(rank, job)
        sends.send(None)
    except Exception as error:  # noqa: BLE001  the parent raises it
        error.add_note(f"rank {rank}: {traceback.format_exc()}")
        sends.send(error)


def _compute(rank: int, job: _Job) -> None:
    torch.set_num_threads(1)
    env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job.ranks, "LOCAL_WORLD_SIZE": job.ranks}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": job.port}
    os.environ.update({name: str(value) for name, value in env.items()})
    store, group = Store.open(job.folder), None
    if job.ranks > 1:
        dist.init_process_group("gloo")
        group = control_group(_PATIENCE_S)
    worker = None
    for shard in job.task.shards(job.config, job.facts):
        key = _key(job, shard)
        if store.has_shard(key):
            continue
        context = _context(job, store, key, shard, group)
        worker = worker or job.task(job.config, job.inputs, job.facts, context)
        output = worker.compute(shard, context)
        if rank == 0:
            _commit(store, key, shard, output, context)


def _context(
    job: _Job, store: Store, key: str, shard: Shard, group: dist.ProcessGroup | None
) -> ShardContext:
    told = {
        "store": store, "key": key, "stage": job.task.__name__, "shard": shard.label, "device": "cpu",
        "stream": (job.seed, job.task.__name__, dict(shard.identity)), "progress_s": job.progress_s,
        "stop": threading.Event(),
    }  # fmt: skip
    context = GangContext(group=group, **told) if group else ShardContext(**told)
    if job.kill_after is not None:
        _kill_after(job.kill_after, context, group)
    return context


def _kill_after(saves: int, context: ShardContext, group: dist.ProcessGroup | None) -> None:
    save, left = context.save_progress, iter(range(saves - 1, -1, -1))

    def save_or_die(make: Any) -> None:
        save(make)
        if next(left) == 0:
            if group:
                dist.barrier(group=group)  # rank 0 has published
            raise KilledError

    context.save_progress = save_or_die


def _commit(store: Store, key: str, shard: Shard, output: Output, context: ShardContext) -> None:
    history = store.put_blob(json.dumps(context.history.metrics).encode())
    store.commit_shard(
        key, dict(shard.identity), shard.label, output, history=history, previews=context.history.previews
    )
    store.drop_progress(key)


def _in_memory(shard: CommittedShard, store: Store) -> MemoryFiles:
    names: Sequence[tuple[str, str]] = [(Path(name).stem, Path(name).suffix) for name in shard.names]
    record = shard.record
    output = Output(
        tensors={name: shard.tensors(name) for name, kind in names if kind == ".safetensors"},
        tables={name: shard.table(name) for name, kind in names if kind in (".parquet", ".arrow")},
        documents={name: shard.document(name) for name, kind in names if kind == ".json"},
        facts=shard.facts,
        metrics=shard.metrics,
    )
    history = json.loads(store.read_blob(record.history.digest)) if record.history else []
    previews = [(one["name"], one["step"], store.read_blob(one["blob"])) for one in record.previews]
    curves = [(entry["step"], entry["values"]) for entry in history]
    return MemoryFiles(output, shard.identity, curves=curves, previews=previews)


def _key(job: _Job, shard: Shard) -> str:
    fields = type(job.config).model_fields
    values = job.config.model_dump(mode="json", exclude_unset=True)
    settings = {name: value for name, value in values.items() if Role.PLAN not in fields[name].metadata}
    return digest([job.task.__name__, settings, job.seed, dict(shard.identity)])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
