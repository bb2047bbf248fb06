"""Ray's actors as workers: starts and ends them, passes calls on and answers back. Decides nothing."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from orchestrator.executors.hands import Broken, Hands, Heard, Lost, News
from orchestrator.executors.worker import OUT_OF_MEMORY, Assignment, Worker, first_line
from orchestrator.feasibility import GB, Offer
from orchestrator.plan import StagePlan
from orchestrator.task import Json

_NUMBERS = count()


class Actors:
    """The workplace that Ray is. Answers come into one inbox by themselves: to hear costs the same however many
    workers there are."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[Heard] = SimpleQueue()

    def staff(self, plan: StagePlan, assignment: Assignment, offer: Offer) -> Hands:
        from orchestrator.executors.gang import GangHands

        kind = GangHands if plan.needs.ranks > 1 and plan.todo else ActorHands
        return kind(plan, assignment, offer, self._inbox)

    def hear(self, timeout_s: float) -> list[Heard]:
        try:
            heard = [self._inbox.get(timeout=timeout_s)]
        except Empty:
            return []
        return heard + [self._inbox.get() for _ in range(self._inbox.qsize())]


class ActorHands:
    """The workers of a stage, an actor each."""

    def __init__(
        self, plan: StagePlan, assignment: Assignment, offer: Offer, inbox: "SimpleQueue[Heard]"
    ) -> None:
        self._plan, self._told, self._offer, self._inbox = plan, assignment, offer, inbox
        self._actors: dict[int, Any] = {}

    def hire(self, closing: bool) -> int:
        needs = self._plan.needs
        options = {
            "num_cpus": needs.cpus,
            "num_gpus": needs.gpus,
            "memory": int(needs.memory_gb * GB),
            "max_concurrency": 2,
            "max_restarts": 0,
            "scheduling_strategy": "DEFAULT",  # not the placement group of a trial that hires it
        }
        actor: Any = ray.remote(_RayWorker).options(**options).remote(self._told)
        return self._begin(actor)

    def compute(self, worker: int, key: str, identity: Mapping[str, Json], label: str) -> None:
        self._listen(worker, self._actors[worker].compute.remote(key, dict(identity), label))

    def close(self, worker: int, key: str, shard_keys: Sequence[str]) -> None:
        self._listen(worker, self._actors[worker].close.remote(key, list(shard_keys)))

    def can_close(self, worker: int) -> bool:
        return True

    def poll(self, worker: int) -> None:
        self._listen(worker, self._actors[worker].poll.remote(), polled=True)

    def stop(self, worker: int) -> None:
        self._actors[worker].stop.remote()

    def dismiss(self, worker: int) -> None:
        ray.kill(self._actors.pop(worker))

    def _begin(self, actor: Any) -> int:
        worker = next(_NUMBERS)
        self._actors[worker] = actor
        self._listen(worker, actor.load.remote())
        return worker

    def _listen(self, worker: int, call: Any, polled: bool = False) -> None:
        stage, inbox = self._plan.name, self._inbox

        def over(done: "Future[News]") -> None:
            inbox.put(Heard(stage, worker, polled, _answer(done)))

        call.future().add_done_callback(over)


class _RayWorker(Worker):
    """The worker as a Ray actor: adds only what Ray knows."""

    def load(self) -> dict[str, Any]:
        return super().load() | {"node": ray.get_runtime_context().get_node_id()}


def _answer(done: "Future[News]") -> News | Lost | Broken:
    """What a call brought; Ray tells of a lost worker and of an error in it by exceptions."""
    error = done.exception()
    if error is None:
        return done.result()
    if isinstance(error, RayTaskError):
        return Broken(str(error.cause), str(error))
    if isinstance(error, OutOfMemoryError):
        return Lost(first_line(error), OUT_OF_MEMORY)
    if isinstance(error, RayError):
        return Lost(first_line(error))
    return Broken(f"{type(error).__name__}: {error}", "")
