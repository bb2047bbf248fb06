"""Drives the workers of one sharded stage on Ray actors: hand out, watch, retry elsewhere, put aside, close."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from orchestrator.executors.worker import OUT_OF_MEMORY, Assignment, Worker, first_line
from orchestrator.feasibility import GB, Offer
from orchestrator.plan import StagePlan
from orchestrator.task import Json

_POLL_S = 1.0
_STOP_S = 20.0
News = Mapping[str, Any]


@dataclass
class Crew:
    """One worker as the driver sees it."""

    actor: Any
    call: Any
    """The call under way: load, compute or close; None when idle."""
    shard: int | None = None
    loaded: bool = False
    closing: bool = False
    node: str = ""
    heard: tuple[str, int] = ("", 0)
    """Shard and signs of life at the last poll."""
    since: float = field(default_factory=time.monotonic)
    """Of the last sign of progress."""
    leads: bool = False
    """The actor is the foreman of a gang."""
    poll: Any = None
    polled: float = 0.0


@dataclass
class Outcome:
    """How a stage went so far."""

    computed: int = 0
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Shard label to what went wrong; a failure of the whole stage stands under its name."""
    closed: bool = False
    stopped: bool = False


class ShardedStage:
    """Call `begin`, then `handle` for each of `calls` that Ray reports ready and `tick` now and then."""

    def __init__(
        self,
        plan: StagePlan,
        assignment: Assignment,
        offer: Offer,
        workers: int,
        on_news: Callable[[str, News], None],
        on_retry: Callable[[str, str], None],
    ) -> None:
        self.plan, self.workers, self.outcome = plan, workers, Outcome()
        self._told, self._offer, self._on_news = assignment, offer, on_news
        self._on_retry = on_retry
        self._todo = deque(plan.todo)
        self._attempts: Counter[int] = Counter()
        self._avoid: dict[int, str] = {}
        self._crew: list[Crew] = []
        self._lost_idle = 0
        self._stop_at: float | None = None

    @property
    def calls(self) -> list[Any]:
        """The Ray calls to wait for."""
        return [call for crew in self._crew for call in (crew.call, crew.poll) if call is not None]

    @property
    def finished(self) -> bool:
        return not self._crew

    @property
    def busy(self) -> int:
        return sum(crew.shard is not None for crew in self._crew)

    def begin(self) -> None:
        """Starts the workers; one is enough where only the closing step is left."""
        for _ in range(min(self.workers, max(1, len(self._todo)))):
            self._hire()

    def handle(self, call: Any) -> None:
        """Takes the answer of a call that is ready."""
        crew = next((crew for crew in self._crew if call in (crew.call, crew.poll)), None)
        if crew is None:
            return None
        is_poll = call == crew.poll
        try:
            answer = ray.get(call)
        except RayTaskError as error:
            return self._fail("stage", {"error": str(error.cause), "traceback": str(error)})
        except OutOfMemoryError as error:
            return self._lost(crew, first_line(error), OUT_OF_MEMORY)
        except (RayActorError, RayError) as error:
            return self._lost(crew, first_line(error))
        if is_poll:
            return self._hear(crew, answer)
        crew.call = None
        crew.since = time.monotonic()
        if crew.closing:
            return self._closed(answer)
        if not crew.loaded:
            crew.loaded, crew.node = True, answer["node"]
        else:
            self._computed(crew, answer)
            if answer.get("class") == OUT_OF_MEMORY:
                self._replace(crew)
                return None
        return self._next(crew)

    def tick(self) -> None:
        """Polls the workers at work and gives up those that showed no progress in time."""
        now = time.monotonic()
        for crew in list(self._crew):
            if crew.call is None:
                continue
            if self._stop_at is not None and now > self._stop_at:
                self._dismiss(crew)
            elif now - crew.since > self.plan.stage.options.deadline_s:
                self._overdue(crew)
            elif crew.loaded and crew.poll is None and now - crew.polled > _POLL_S:
                crew.polled, crew.poll = now, crew.actor.poll.remote()

    def stop(self) -> None:
        """Asks every worker to save its progress and stop; those that do not in time are ended."""
        self._todo.clear()
        self.outcome.stopped = True
        self._stop_at = time.monotonic() + _STOP_S
        for crew in list(self._crew):
            if crew.shard is None:
                self._dismiss(crew)
            else:
                crew.actor.stop.remote()

    def kill(self) -> None:
        """Ends every worker now."""
        for crew in list(self._crew):
            self._dismiss(crew)

    def _hire(self) -> None:
        needs = self.plan.needs
        options = {
            "num_cpus": needs.cpus,
            "num_gpus": needs.gpus,
            "memory": int(needs.memory_gb * GB),
            "max_concurrency": 2,
            "max_restarts": 0,
            "scheduling_strategy": "DEFAULT",  # not the placement group of a trial that hires it
        }
        actor: Any = ray.remote(_RayWorker).options(**options).remote(self._told)
        self._crew.append(Crew(actor, actor.load.remote()))

    def _dismiss(self, crew: Crew) -> None:
        ray.kill(crew.actor)
        self._crew.remove(crew)

    def _replace(self, crew: Crew) -> None:
        """A fresh process in place of one whose memory is used up or torn to pieces."""
        self._dismiss(crew)
        if self._todo or (not self._crew and not self.outcome.failures and not self.outcome.stopped):
            self._hire()

    def _next(self, crew: Crew) -> None:
        """Gives an idle worker its next shard; ends it, or lets it close the stage, when there is none."""
        if self._todo:
            index = self._pick(crew.node)
            shard = self.plan.shards[index]
            crew.shard, crew.since = index, time.monotonic()
            key = self.plan.shard_keys[index]
            crew.call = crew.actor.compute.remote(key, dict(shard.identity), shard.label)
        elif len(self._crew) > 1 or self.outcome.failures or self.outcome.stopped:
            self._dismiss(crew)
        else:
            self._close(crew)

    def _pick(self, node: str) -> int:
        """The next shard, before others one that did not fail on this worker's node."""
        for position, index in enumerate(self._todo):
            if self._avoid.get(index) != node:
                del self._todo[position]
                return index
        return self._todo.popleft()

    def _close(self, crew: Crew) -> None:
        crew.closing, crew.shard, crew.since = True, None, time.monotonic()
        crew.call = crew.actor.close.remote(self.plan.key, list(self.plan.shard_keys))

    def _closed(self, answer: dict[str, Any]) -> None:
        self._on_news(answer["shard"], answer)
        if answer["state"] == "done":
            self.outcome.closed = True
            self.kill()
        else:
            self._fail("closing step", answer)

    def _computed(self, crew: Crew, answer: dict[str, Any]) -> None:
        assert crew.shard is not None
        index, crew.shard = crew.shard, None
        self._on_news(answer["shard"], answer)
        if answer["state"] == "done":
            self.outcome.computed += 1
        elif answer["state"] == "failed":
            self._failed(index, answer, crew.node)

    def _failed(self, index: int, problem: dict[str, Any], node: str) -> None:
        """Tries a shard again, elsewhere if there is an elsewhere, or puts it aside."""
        shard = self.plan.shards[index]
        self._attempts[index] += 1
        stopping = self.outcome.stopped
        if not stopping and problem.get("retry") and self._attempts[index] <= self.plan.stage.options.retries:
            self._avoid[index] = node
            self._todo.append(index)
            self._on_retry(shard.label, f"{problem['error']}; tried again")
            return
        problem = {"node": node, "attempts": self._attempts[index]} | problem
        self._put_aside(shard.label, dict(shard.identity), problem)

    def _put_aside(self, label: str, identity: Mapping[str, Json], problem: Mapping[str, Any]) -> None:
        kept = {
            name: problem[name]
            for name in ("error", "traceback", "class", "rank", "node", "attempts")
            if name in problem
        }
        self.outcome.failures[label] = {**kept, "identity": dict(identity)}

    def _fail(self, label: str, problem: Mapping[str, Any]) -> None:
        """The stage as a whole cannot go on."""
        self._put_aside(label, {}, problem)
        self._todo.clear()
        self.kill()

    def _hear(self, crew: Crew, news: News) -> None:
        """Takes what a poll brought; the worker may have gone on to another shard since."""
        crew.poll = None
        if not news:
            return
        if (news["shard"], news["beats"]) != crew.heard:
            crew.heard, crew.since = (news["shard"], news["beats"]), time.monotonic()
        self._on_news(news["shard"], news)

    def _lost(self, crew: Crew, reason: str, sort: str = "worker died") -> None:
        """A worker or its node died, or cannot be reached: its shard goes back, another takes its place."""
        self._dismiss(crew)
        if crew.shard is not None:
            problem = {"error": f"worker died: {reason}", "class": sort, "retry": True}
            self._failed(crew.shard, problem, crew.node)
        else:
            self._lost_idle += 1
        if self._lost_idle > self.plan.stage.options.retries:
            return self._fail("stage", {"error": f"workers die before they start: {reason}"})
        if self._todo or (not self._crew and not self.outcome.failures and not self.outcome.stopped):
            self._hire()
        return None

    def _overdue(self, crew: Crew) -> None:
        deadline = self.plan.stage.options.deadline_s
        if not crew.loaded and any(other.loaded for other in self._crew):
            return self._dismiss(crew)  # its node is gone or taken; the others go on
        if not crew.loaded:
            needs, offer = self.plan.needs, self._offer
            return self._fail(
                "stage",
                {
                    "error": f"no worker could be had in {deadline:g} s: asked {needs.cpus:g} cpus, {needs.gpus:g} "
                    f"gpus, {needs.memory_gb:g} GB; {offer.where} offers {offer.cpus:g} cpus, {offer.gpus:g} "
                    f"gpus, {offer.memory_gb:g} GB"
                },
            )
        return self._lost(crew, f"no progress for {deadline:g} s (deadline_s of the stage)")


class _RayWorker(Worker):
    """The worker as a Ray actor: adds only what Ray knows."""

    def load(self) -> dict[str, Any]:
        return super().load() | {"node": ray.get_runtime_context().get_node_id()}


def wait_for(stages: Iterable[ShardedStage], timeout_s: float) -> None:
    """Waits for the next answer of any stage and hands out all that are ready."""
    owners = {call: stage for stage in stages for call in stage.calls}
    if not owners:
        return
    ready, _ = ray.wait(list(owners), num_returns=1, timeout=timeout_s)
    more, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
    for call in dict.fromkeys([*ready, *more]):
        owners[call].handle(call)
