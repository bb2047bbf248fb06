"""One worker: loads a task once, computes and commits one shard after another. Knows the store, not Ray."""

import json
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.catalogue import AnyTask, import_task, source_digest
from orchestrator.errors import StoreError
from orchestrator.executors.context import NonFiniteError, ShardContext, Stopped
from orchestrator.provenance import environment, now_ms
from orchestrator.stagekeys import content_digests
from orchestrator.store import Gathered, InputRef, Manifest, Store
from orchestrator.task import Artifact, Facts, Json, Output, Shard, Task

OUT_OF_MEMORY, PEER_LOST = "out of memory", "peer lost"
_RETRIED = (OSError, StoreError)
"""Errors that another attempt may cure, as it may running out of memory or losing another rank; all others are
the same each time."""
_TRANSPORT = re.compile("gloo/|NCCL|Connection (closed|reset)|Socket Timeout|Broken pipe")
"""How torch tells that a collective call broke: by a plain RuntimeError."""


@dataclass(frozen=True)
class Assignment:
    """All that a worker is told: plain values only."""

    run_id: str
    experiment: str
    stage: str
    task: str
    target: str
    version: int
    seed: int
    config_json: str
    inputs: Mapping[str, str]
    digests: Mapping[str, str]
    """Config field to the digest of its content, as planned."""
    facts: Facts
    store_uri: str
    device: str
    gpus: float
    threads: int
    progress_s: float


class Worker:
    """Calls come from two threads: `compute` and `close` from one, `poll` and `stop` from the other.

    `context` makes what the task sees of it; where that says another rank than 0, another worker commits.
    """

    def __init__(self, assignment: Assignment, context: Callable[..., ShardContext] = ShardContext) -> None:
        self._told, self._new_context = assignment, context
        self._stop = threading.Event()
        self._context: ShardContext | None = None
        self._task: Task[Any] | None = None
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(assignment.threads)

    def load(self) -> dict[str, Any]:
        """Makes ready what does not need the data; answers with the process id, for the driver's messages."""
        told = self._told
        self._store = Store.open(told.store_uri, create=False)
        self._type: AnyTask = import_task(told.target)
        self._config = self._type.Config.model_validate_json(told.config_json)
        if content_digests(self._config) != told.digests:
            raise ValueError(f"stages.{told.stage}: the data changed after the plan was made; run again")
        self._inputs: dict[str, Artifact] = {
            name: self._store.artifact(artifact) for name, artifact in told.inputs.items()
        }
        return {"pid": os.getpid()}

    def compute(self, key: str, identity: Mapping[str, Json], label: str) -> dict[str, Any]:
        """Computes and commits one shard. Never raises for the shard's own errors: they are data."""
        started = time.monotonic()
        context = self._open(key, label, (self._told.seed, self._told.task, dict(identity)))
        try:
            if not self._store.has_shard(key):
                output = self._loaded(context).compute(Shard(identity), context)
                _check_finite(output, label)
                if context.rank == 0:
                    self._commit(key, identity, label, output, context, time.monotonic() - started)
            return self._answer(context, "done", time.monotonic() - started)
        except Stopped:
            return self._answer(context, "stopped", time.monotonic() - started)
        except Exception as error:  # noqa: BLE001  a failed shard is data; the driver decides
            return self._answer(context, "failed", time.monotonic() - started) | describe_error(error)

    def close(self, key: str, shard_keys: Sequence[str]) -> dict[str, Any]:
        """Runs the closing step over the committed shards and publishes the manifest."""
        started = time.monotonic()
        context = self._open(key, "", (self._told.seed, self._told.task, "closing"))
        try:
            self._threads()
            found = self._store.gather(shard_keys)
            shards = self._store.gathered_shards(found)
            output = self._type.close(self._config, self._inputs, self._told.facts, shards, context)
            _check_finite(output, "closing step")
            manifest = self._manifest(key, shard_keys, output, context, found, started)
            self._store.publish(manifest)
            return self._answer(context, "done", time.monotonic() - started)
        except Exception as error:  # noqa: BLE001  as above
            return self._answer(context, "failed", time.monotonic() - started) | describe_error(error)

    def poll(self) -> dict[str, Any]:
        """What the shard at work has logged since the last call."""
        return self._context.news() if self._context else {}

    def stop(self) -> None:
        """Asks the shard at work to save its progress and stop."""
        self._stop.set()

    def _open(self, key: str, label: str, stream: tuple[Json, ...]) -> ShardContext:
        self._context = self._new_context(
            store=self._store, key=key, stage=self._told.stage, shard=label, stream=stream,
            device=self._told.device, progress_s=self._told.progress_s, stop=self._stop,
        )  # fmt: skip
        return self._context

    def _loaded(self, context: ShardContext) -> Task[Any]:
        self._threads()
        if self._task is None:
            self._task = self._type(self._config, self._inputs, self._told.facts, context)
        return self._task

    def _threads(self) -> None:
        import torch

        torch.set_num_threads(self._told.threads)
        if 0 < self._told.gpus < 1 and torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(self._told.gpus)

    def _commit(
        self,
        key: str,
        identity: Mapping[str, Json],
        label: str,
        output: Output,
        context: ShardContext,
        seconds: float,
    ) -> None:
        history = self._store.put_blob(json.dumps(context.history.metrics).encode())
        provenance = {
            "seconds": seconds, "created": now_ms(), "run_id": self._told.run_id, "ranks": context.world_size,
            **environment(),
        }  # fmt: skip
        self._store.commit_shard(
            key, dict(identity), label, output,
            history=history, previews=context.history.previews, provenance=provenance,
        )  # fmt: skip
        self._store.drop_progress(key)

    def _manifest(
        self,
        key: str,
        shard_keys: Sequence[str],
        output: Output,
        context: ShardContext,
        found: Gathered,
        started: float,
    ) -> Manifest:
        told = self._told
        inputs = {
            name: InputRef(id=artifact, digest=self._store.artifact(artifact).digest)
            for name, artifact in told.inputs.items()
        }
        provenance = {
            "created": now_ms(), "stage": told.stage, "experiment": told.experiment, "run_id": told.run_id,
            "source": source_digest(told.target), "shard_seconds": [] if found.file else list(found.seconds),
            "seconds": sum(found.seconds) + time.monotonic() - started, **environment(),
        }  # fmt: skip
        return self._store.make_manifest(
            key=key, kind=self._type.makes, task=told.task, version=told.version,
            config=json.loads(told.config_json), seed=told.seed, inputs=inputs, facts=told.facts,
            output=output, shard_keys=shard_keys, previews=context.history.previews, provenance=provenance,
            gathered=found,
        )  # fmt: skip

    def _answer(self, context: ShardContext, state: str, seconds: float) -> dict[str, Any]:
        return {"state": state, "seconds": seconds, **context.news()}


def _check_finite(output: Output, label: str) -> None:
    for file, tensors in output.tensors.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise NonFiniteError(f"{label}: tensor {name!r} of {file!r} has values that are not finite")
    for name, value in output.metrics.items():
        if value != value or value in (float("inf"), float("-inf")):
            raise NonFiniteError(f"{label}: metric {name!r} is {value}")


def first_line(error: BaseException) -> str:
    """The first line of its message that says something, else its name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def describe_error(error: Exception) -> dict[str, Any]:
    """A failure as data: error, traceback, class, and whether another attempt may cure it."""
    passing = isinstance(error, _RETRIED) and not isinstance(error, FileNotFoundError)
    starved = _is_out_of_memory(error)
    alone = isinstance(error, RuntimeError) and _TRANSPORT.search(str(error)) is not None
    advice = "; ask for more by resources.memory_gb, or for fewer workers" if starved else ""
    return {
        "error": f"{type(error).__name__}: {error}{advice}",
        "traceback": traceback.format_exc(),
        "retry": passing or starved or alone,
        "class": OUT_OF_MEMORY if starved else PEER_LOST if alone else "error",
    }


def _is_out_of_memory(error: Exception) -> bool:
    """torch has a type of its own for a GPU's memory, and none for the machine's."""
    told = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return told or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
