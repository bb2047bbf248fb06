"""Leads one gang: has Ray Train start its ranks for one shard after another, hears them, and judges how it went."""

import os
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from orchestrator.executors.worker import OUT_OF_MEMORY, PEER_LOST, Assignment, first_line
from orchestrator.feasibility import GB
from orchestrator.task import Json, Needs

_PLACING_S = 10.0
"""Ray Train does not hear a stop while it waits for a place, so it waits for no longer than this at a time."""
_STARTING_S = 120.0
"""From a place to ranks that know each other; a gang that takes longer shows no sign of life any more."""
_UNPLACED = ("WorkerGroupStartupTimeoutError", "InsufficientClusterResourcesError")
_SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{_PLACING_S:g}",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a reclaimed node is a dead rank, and is retried as one
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
Answer = dict[str, Any]


@dataclass
class _Gang:
    """What is known of the ranks of one shard."""

    label: str
    started: float = field(default_factory=time.monotonic)
    ranks: dict[int, Any] = field(default_factory=dict)
    """Their actors."""
    beats: dict[int, int] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    """In the order in which they came."""
    metrics: list[Json] = field(default_factory=list)
    """What rank 0 has logged and the driver has not asked for yet."""
    previews: list[Json] = field(default_factory=list)


class Foreman:
    """The gang as the driver sees it: to be called as a `Worker` is. `compute` is called from one thread, all
    else from others: the driver asks `poll`, `stop` and `give_up`, the ranks `enter`, `hear` and `leave`."""

    def __init__(self, assignment: Assignment, needs: Needs, deadline_s: float, offered: str) -> None:
        os.environ.update(_SETTINGS)
        self._told, self._needs, self._deadline_s, self._offered = assignment, needs, deadline_s, offered
        self._lock = threading.Lock()
        self._gang = _Gang("")
        self._stop = self._over = False

    def load(self) -> Answer:
        return {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}

    def compute(self, key: str, identity: Mapping[str, Json], label: str) -> Answer:
        """Has the gang compute one shard, which its rank 0 commits. Never raises for the shard's own errors."""
        with self._lock:
            self._gang = gang = _Gang(label)
        told: Answer = {"state": "stopped"}
        while not self._stop:
            failures = self._fit(key, identity, label)
            placed = type(failures.get(-1)).__name__ not in _UNPLACED
            if placed or time.monotonic() - gang.started > self._deadline_s:
                told = verdict(gang.answers, failures, self._needs.ranks) if placed else self._unplaced()
                break
        return {**told, "seconds": time.monotonic() - gang.started, **self.poll()}

    def poll(self) -> Answer:
        """What rank 0 has logged since the last call, and signs of life of any rank."""
        with self._lock:
            gang = self._gang
            waited = time.monotonic() - gang.started
            waiting = int(min(waited, self._deadline_s + _STARTING_S)) if not gang.ranks else 0
            news = {"metrics": gang.metrics, "previews": gang.previews}
            gang.metrics, gang.previews = [], []
            beats = waiting + len(gang.ranks) + sum(gang.beats.values()) + len(gang.answers)
            return {"shard": gang.label, "beats": beats, **news}

    def stop(self) -> None:
        """Asks the ranks to save their progress and stop."""
        self._stop = True

    def give_up(self) -> None:
        """Ends the ranks now, and those that are still to come."""
        with self._lock:
            self._stop = self._over = True
            for actor in self._gang.ranks.values():
                ray.kill(actor)

    def enter(self, rank: int, actor: Any) -> None:
        with self._lock:
            self._gang.ranks[rank] = actor
            if self._over:
                ray.kill(actor)

    def hear(self, rank: int, news: Mapping[str, Any]) -> bool:
        """Takes what a rank has to tell; answers whether it is to stop."""
        with self._lock:
            self._take(rank, news)
        return self._stop

    def leave(self, rank: int, answer: Answer) -> None:
        with self._lock:
            self._take(rank, answer)
            self._gang.answers[rank] = answer

    def _take(self, rank: int, news: Mapping[str, Any]) -> None:
        self._gang.beats[rank] = news.get("beats", 0)
        if rank == 0:
            self._gang.metrics += news.get("metrics", [])
            self._gang.previews += news.get("previews", [])

    def _fit(self, key: str, identity: Mapping[str, Json], label: str) -> dict[int, Exception]:
        """Runs the ranks to their end. Returns what Ray Train knows of failures: by rank, or under -1 its own."""
        from ray.train import ControllerError, WorkerGroupError
        from ray.train.torch import TorchConfig
        from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.v2.torch.torch_trainer import TorchTrainer

        from orchestrator.executors.rank import Part, compute_as_rank

        needs = self._needs
        resources = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": int(needs.memory_gb * GB)}
        me, patience_s = ray.get_runtime_context().current_actor, int(self._deadline_s) + 60
        with tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
            run_config = RunConfig(
                name="gang", storage_path=folder, logging_config=LoggingConfig("ERROR"),
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            )  # fmt: skip
            assert run_config.storage_context  # made and tried out now, and used never: checkpoints are ours
        trainer = TorchTrainer(
            compute_as_rank,
            train_loop_config={"part": Part(self._told, key, identity, label, patience_s, me)},
            torch_config=TorchConfig(timeout_s=patience_s),
            scaling_config=ScalingConfig(
                num_workers=needs.ranks, use_gpu=needs.gpus > 0, resources_per_worker=resources
            ),
            run_config=run_config,
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            return dict(error.worker_failures)
        except ControllerError as error:
            return {-1: error.controller_failure}
        except RayError as error:
            return {-1: error}
        return {}

    def _unplaced(self) -> Answer:
        needs = self._needs
        error = (
            f"no gang could be had in {self._deadline_s:g} s: asked {needs.ranks} ranks at once, each "
            f"{needs.cpus:g} cpus, {needs.gpus:g} gpus, {needs.memory_gb:g} GB; {self._offered}"
        )
        return {"state": "failed", "error": error, "retry": False}


def verdict(answers: Mapping[int, Answer], failures: Mapping[int, Exception], ranks: int) -> Answer:
    """How it went, from what the ranks said, in the order in which they said it, and what Ray Train saw of them.

    What rank 0 committed stands. A dead rank counts before what the others say, whose calls it broke; among
    errors the first that is a rank's own counts.
    """
    if answers.get(0, {}).get("state") == "done":
        return answers[0]
    unheard = {rank: failure for rank, failure in failures.items() if rank not in answers}
    if dead := {rank: failure for rank, failure in unheard.items() if rank >= 0}:
        rank = min(dead)
        return _lost(f"rank {rank} of {ranks} died: {first_line(dead[rank])}", dead[rank])
    failed = [answer for answer in answers.values() if answer["state"] == "failed"]
    own = [answer for answer in failed if answer["class"] != PEER_LOST] or failed
    if own:
        return own[0] | {"error": f"rank {own[0]['rank']} of {ranks}: {own[0]['error']}"}
    if unheard:
        return _lost(f"the gang was lost: {first_line(unheard[-1])}", unheard[-1])
    return answers.get(0) or _lost("the gang ended without an answer", None)


def _lost(error: str, cause: Exception | None) -> Answer:
    """A failure that another attempt may not meet. Ray Train wraps what it saw of a dead process."""
    starved = isinstance(getattr(cause, "health_check_failure", cause), OutOfMemoryError)
    return {
        "state": "failed",
        "error": error,
        "retry": True,
        "class": OUT_OF_MEMORY if starved else "rank died",
    }
