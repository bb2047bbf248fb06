"""One rank of a gang, as Ray Train runs it: a worker that computes with others and tells its foreman how it goes."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import torch.distributed as dist

from orchestrator.executors.collective import GangContext, control_group
from orchestrator.executors.worker import Assignment, Worker, describe_error
from orchestrator.task import Json

_TELL_S = 1.0


class RankFailed(Exception):
    """Ends the gang; why, the foreman was told before."""


@dataclass(frozen=True)
class Part:
    """What every rank of a gang is told."""

    assignment: Assignment
    key: str
    """Of the shard."""
    identity: Mapping[str, Json]
    label: str
    patience_s: int
    """How long a rank waits for another. The foreman gives a gang up before that."""
    foreman: Any
    """The actor to talk to."""


def compute_as_rank(told: Mapping[str, Part]) -> None:
    """Computes the shard together with the other ranks; rank 0 commits it. Raises RankFailed to end them all."""
    part, rank = told["part"], dist.get_rank()
    actor = ray.get_runtime_context().current_actor
    ray.get(part.foreman.enter.remote(rank, actor))
    answer = _compute(part, rank) | {"rank": rank, "node": ray.get_runtime_context().get_node_id()}
    ray.get(part.foreman.leave.remote(rank, answer))
    if answer["state"] == "failed":
        raise RankFailed(answer["error"])


def _compute(part: Part, rank: int) -> dict[str, Any]:
    worker = Worker(part.assignment, partial(GangContext, group=control_group(part.patience_s)))
    try:
        worker.load()
    except Exception as error:  # noqa: BLE001  the gang's failure is data, as a shard's is
        return {"state": "failed", "pid": os.getpid(), **describe_error(error)}
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(worker, part.foreman, rank, over), daemon=True)
    teller.start()
    answer = worker.compute(part.key, part.identity, part.label)
    over.set()
    teller.join()  # so that news keep their order
    return answer


def _tell(worker: Worker, foreman: Any, rank: int, over: threading.Event) -> None:
    """Tells the foreman what is new, and hears from it whether to stop."""
    while not over.wait(_TELL_S):
        if ray.get(foreman.hear.remote(rank, worker.poll())):
            worker.stop()
