"""What the driver asks of workers and hears from them. Behind it stand Ray's actors, or what simulates them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.executors.worker import Assignment
from orchestrator.feasibility import Offer
from orchestrator.plan import StagePlan
from orchestrator.task import Json

News = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker, or its node, died or cannot be reached."""

    reason: str
    sort: str = "worker died"
    """The class of failure."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A worker failed outside of any shard: the stage cannot go on."""

    error: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one call."""

    stage: str
    worker: int
    polled: bool
    """Word from the midst of the work; else the end of load, compute or close."""
    answer: News | Lost | Broken


class Hands(Protocol):
    """The workers of one stage, by number. Every call returns at once; what comes of it is heard at the
    workplace. Of a worker that was dismissed anything that is still heard means nothing."""

    def hire(self, closing: bool) -> int:
        """A new worker, which begins to load; its number is nobody else's. `closing`: no shard is left."""
        ...

    def compute(self, worker: int, key: str, identity: Mapping[str, Json], label: str) -> None: ...
    def close(self, worker: int, key: str, shard_keys: Sequence[str]) -> None: ...
    def can_close(self, worker: int) -> bool: ...
    def poll(self, worker: int) -> None: ...
    def stop(self, worker: int) -> None:
        """Asks it to save its progress and stop."""
        ...

    def dismiss(self, worker: int) -> None:
        """Ends it now."""
        ...


class Workplace(Protocol):
    """Where the stages of a run find their workers."""

    def staff(self, plan: StagePlan, assignment: Assignment, offer: Offer) -> Hands: ...

    def hear(self, timeout_s: float) -> list[Heard]:
        """Waits for an answer of any stage's worker, and returns all that are there."""
        ...
