"""Leads the workers of one sharded stage: what goes to whom next, what is tried again, what has failed, whose
time is up. Pure: knows neither Ray nor the store. The work per answer is the same for any number of shards."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.executors.hands import Broken, Hands, Heard, Lost, News
from orchestrator.executors.worker import OUT_OF_MEMORY
from orchestrator.feasibility import Offer
from orchestrator.plan import StagePlan
from orchestrator.task import Json

_POLL_S = 1.0
_POLLS_A_SECOND = 100
"""At most, over all workers of a stage, unless its deadline is too short for that."""
_LOOKS_A_DEADLINE = 4
_STOP_S = 20.0
_KEPT_FAILURES = 1000
"""Why a shard failed is kept of so many."""


@dataclass
class Crew:
    """One worker as the driver sees it."""

    at_work: bool = True
    """It loads, computes or closes."""
    shard: int | None = None
    loaded: bool = False
    closing: bool = False
    node: str = ""
    heard: tuple[str, int] = ("", 0)
    """Shard and signs of life at the last poll."""
    since: float = field(default_factory=time.monotonic)
    """Of the last sign of progress."""
    asked: bool = False
    """A poll is under way."""
    polled: float = 0.0


@dataclass
class Outcome:
    """How a stage went so far."""

    computed: int = 0
    failed: int = 0
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Shard label to what went wrong, for the first ones; a failure of the whole stage stands under its name."""
    closed: bool = False
    stopped: bool = False


class Todo:
    """The shards that nobody computes yet, in order; after them those that failed, away from where they did."""

    def __init__(self, indices: Iterable[int]) -> None:
        self._fresh, self._again = deque(indices), dict[str, deque[int]]()

    def __bool__(self) -> bool:
        return bool(self._fresh or self._again)

    def __len__(self) -> int:
        return len(self._fresh) + sum(map(len, self._again.values()))

    def put_back(self, index: int, node: str) -> None:
        """A shard that failed on `node`."""
        self._again.setdefault(node, deque()).append(index)

    def take(self, node: str) -> int:
        """The next one for a worker on `node`: before others one that did not fail there."""
        if self._fresh:
            return self._fresh.popleft()
        failed_on = next((other for other in self._again if other != node), node)
        found = self._again[failed_on].popleft()
        if not self._again[failed_on]:
            del self._again[failed_on]
        return found

    def clear(self) -> None:
        self._fresh.clear()
        self._again.clear()


class ShardedStage:
    """Call `begin`, then `handle` for all that is heard of its workers, and `tick` a few times a second."""

    def __init__(
        self,
        plan: StagePlan,
        hands: Hands,
        offer: Offer,
        workers: int,
        on_news: Callable[[str, News], None],
        on_retry: Callable[[str, str], None],
    ) -> None:
        self.plan, self.workers, self.outcome = plan, workers, Outcome()
        self._hands, self._offer, self._on_news, self._on_retry = hands, offer, on_news, on_retry
        self._todo = Todo(plan.todo)
        self._attempts: Counter[int] = Counter()
        self._crew: dict[int, Crew] = {}
        self._lost_idle = 0
        self._stop_at: float | None = None

    @property
    def finished(self) -> bool:
        return not self._crew

    @property
    def busy(self) -> int:
        return sum(crew.shard is not None for crew in self._crew.values())

    def begin(self) -> None:
        """Starts the workers; one is enough where only the closing step is left."""
        for _ in range(min(self.workers, max(1, len(self._todo)))):
            self._hire()

    def handle(self, heard: Heard) -> None:
        """Takes what a worker answered, or what became of it."""
        crew = self._crew.get(heard.worker)
        if crew is None:
            return None
        match heard.answer:
            case Broken(error, traceback):
                return self._fail("stage", {"error": error, "traceback": traceback})
            case Lost(reason, sort):
                return self._lost(heard.worker, reason, sort)
            case news if heard.polled:
                return self._hear(crew, news)
            case news:
                return self._answered(heard.worker, crew, news)

    def tick(self) -> None:
        """Polls the workers at work and gives up those that showed no progress in time."""
        now, deadline = time.monotonic(), self.plan.stage.options.deadline_s
        poll_s = min(
            max(_POLL_S, len(self._crew) / _POLLS_A_SECOND), max(_POLL_S, deadline / _LOOKS_A_DEADLINE)
        )
        for worker, crew in list(self._crew.items()):
            if not crew.at_work or worker not in self._crew:
                continue
            if self._stop_at is not None and now > self._stop_at:
                self._dismiss(worker)
            elif now - crew.since > deadline:
                self._overdue(worker)
            elif crew.loaded and not crew.asked and now - crew.polled > poll_s:
                crew.polled, crew.asked = now, True
                self._hands.poll(worker)

    def stop(self) -> None:
        """Asks every worker to save its progress and stop; those that do not in time are ended."""
        self._todo.clear()
        self.outcome.stopped = True
        self._stop_at = time.monotonic() + _STOP_S
        for worker, crew in list(self._crew.items()):
            if crew.shard is None:
                self._dismiss(worker)
            else:
                self._hands.stop(worker)

    def kill(self) -> None:
        """Ends every worker now."""
        for worker in list(self._crew):
            self._dismiss(worker)

    def _hire(self) -> None:
        self._crew[self._hands.hire(closing=not self._todo)] = Crew()

    def _dismiss(self, worker: int) -> None:
        self._hands.dismiss(worker)
        del self._crew[worker]

    def _answered(self, worker: int, crew: Crew, answer: News) -> None:
        """The end of a call: the worker is idle, and gets something to do or goes."""
        crew.at_work, crew.since = False, time.monotonic()
        if crew.closing:
            return self._closed(answer)
        if not crew.loaded:
            crew.loaded, crew.node = True, answer["node"]
        else:
            self._computed(crew, answer)
            if answer.get("class") == OUT_OF_MEMORY:
                return self._replace(worker)
        return self._next(worker, crew)

    def _replace(self, worker: int) -> None:
        """A fresh process in place of one whose memory is used up or torn to pieces."""
        self._dismiss(worker)
        self._refill()

    def _refill(self) -> None:
        if self._todo or (not self._crew and not self.outcome.failures and not self.outcome.stopped):
            self._hire()

    def _next(self, worker: int, crew: Crew) -> None:
        """Gives an idle worker its next shard; ends it, or lets it close the stage, when there is none."""
        if self._todo:
            index = self._todo.take(crew.node)
            shard = self.plan.shards[index]
            crew.at_work, crew.shard, crew.since = True, index, time.monotonic()
            self._hands.compute(worker, self.plan.shard_keys[index], shard.identity, shard.label)
        elif len(self._crew) > 1 or self.outcome.failures or self.outcome.stopped:
            self._dismiss(worker)
        elif self._hands.can_close(worker):
            crew.at_work, crew.closing, crew.since = True, True, time.monotonic()
            self._hands.close(worker, self.plan.key, self.plan.shard_keys)
        else:
            self._dismiss(worker)
            self._hire()

    def _closed(self, answer: News) -> None:
        self._on_news(answer["shard"], answer)
        if answer["state"] == "done":
            self.outcome.closed = True
            self.kill()
        else:
            self._fail("closing step", answer)

    def _computed(self, crew: Crew, answer: News) -> None:
        assert crew.shard is not None
        index, crew.shard = crew.shard, None
        self._on_news(answer["shard"], answer)
        if answer["state"] == "done":
            self.outcome.computed += 1
        elif answer["state"] == "failed":
            self._failed(index, answer, crew.node)

    def _failed(self, index: int, problem: News, node: str) -> None:
        """Tries a shard again, elsewhere if there is an elsewhere, or puts it aside."""
        shard = self.plan.shards[index]
        self._attempts[index] += 1
        stopping = self.outcome.stopped
        if not stopping and problem.get("retry") and self._attempts[index] <= self.plan.stage.options.retries:
            self._todo.put_back(index, node)
            self._on_retry(shard.label, f"{problem['error']}; tried again")
            return
        problem = {"node": node, "attempts": self._attempts[index], **problem}
        self._put_aside(shard.label, shard.identity, problem)

    def _put_aside(self, label: str, identity: Mapping[str, Json], problem: News) -> None:
        kept = {
            name: problem[name]
            for name in ("error", "traceback", "class", "rank", "node", "attempts")
            if name in problem
        }
        self.outcome.failed += 1
        if len(self.outcome.failures) < _KEPT_FAILURES or not identity:
            self.outcome.failures[label] = {**kept, "identity": dict(identity)}

    def _fail(self, label: str, problem: News) -> None:
        """The stage as a whole cannot go on."""
        self._put_aside(label, {}, problem)
        self._todo.clear()
        self.kill()

    def _hear(self, crew: Crew, news: News) -> None:
        """Takes what a poll brought; the worker may have gone on to another shard since."""
        crew.asked = False
        if not news:
            return
        if (news["shard"], news["beats"]) != crew.heard:
            crew.heard, crew.since = (news["shard"], news["beats"]), time.monotonic()
        self._on_news(news["shard"], news)

    def _lost(self, worker: int, reason: str, sort: str = "worker died") -> None:
        """A worker or its node died, or cannot be reached: its shard goes back, another takes its place."""
        crew = self._crew[worker]
        self._dismiss(worker)
        if crew.shard is not None:
            problem = {"error": f"worker died: {reason}", "class": sort, "retry": True}
            self._failed(crew.shard, problem, crew.node)
            return self._refill()
        self._lost_idle += 1
        if self._lost_idle <= self.plan.stage.options.retries:
            return self._refill()
        if any(other.loaded for other in self._crew.values()):
            return None  # there is something about its node; the others go on
        return self._fail("stage", {"error": f"workers die before they start: {reason}"})

    def _overdue(self, worker: int) -> None:
        deadline, crew = self.plan.stage.options.deadline_s, self._crew[worker]
        if not crew.loaded and any(other.loaded for other in self._crew.values()):
            return self._dismiss(worker)  # its node is gone or taken; the others go on
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
        return self._lost(worker, f"no progress for {deadline:g} s (deadline_s of the stage)")
