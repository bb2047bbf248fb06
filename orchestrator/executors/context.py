"""What a task sees of its worker: one Context a shard. Knows the store, not Ray."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from orchestrator.store import Store
from orchestrator.task import Facts, Json, Progress, derive_seed

_HISTORY = "__history__"


class Stopped(Exception):
    """Raised inside a shard, after its progress was saved, when the run is to stop."""


class Due(IntEnum):
    """What a call of `save_progress` has to do."""

    NOTHING = 0
    SAVE = 1
    STOP = 2
    """After a save."""


class NonFiniteError(ArithmeticError):
    """A loss or metric became NaN or infinite."""


@dataclass
class History:
    """What a shard has logged. Rebuilt from its progress, so that an interrupted shard has all of it."""

    metrics: list[dict[str, Json]] = field(default_factory=list)
    """{step, values, time_ms}"""
    previews: list[dict[str, Json]] = field(default_factory=list)
    """{name, step, blob, size, time_ms}"""


class ShardContext:
    """Fulfils `orchestrator.task.Context` for one shard (or one closing step, whose key is the stage's)."""

    rank = 0
    world_size = 1

    def __init__(
        self,
        *,
        store: Store,
        key: str,
        stage: str,
        shard: str,
        stream: tuple[Json, ...],
        device: str,
        progress_s: float,
        stop: threading.Event,
    ) -> None:
        self.device = device
        self.history = History()
        self.beats = 0
        self._store, self._key, self._stream, self._stop = store, key, stream, stop
        self._shard, self._label = shard, f"{stage} {shard or 'closing step'}"
        self._progress_s, self._saved = progress_s, time.monotonic()
        self._lock = threading.Lock()
        self._sent = [0, 0]

    def seed(self, *path: str | int, item: Mapping[str, Json] | None = None) -> int:
        stream = self._stream if item is None else (*self._stream[:-1], dict(item))
        return derive_seed(*stream, *path)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"{name} is {value} at step {step} of {self._label}; lower the learning rate, "
                    "or look for bad values in the data"
                )
        with self._lock:
            values = {name: float(value) for name, value in metrics.items()}
            self.history.metrics.append({"step": step, "values": values, "time_ms": _now_ms()})
        self.beats += 1

    def preview(self, name: str, png: bytes, step: int = 0) -> None:
        blob = self._store.put_blob(png)
        with self._lock:
            self.history.previews.append(
                {"name": name, "step": step, "blob": blob.digest, "size": blob.size, "time_ms": _now_ms()}
            )
        self.beats += 1

    def save_progress(self, make: Callable[[], Progress]) -> None:
        self.beats += 1
        due = self._due()
        if due is not Due.NOTHING:
            self._publish(make())
            self._saved = time.monotonic()
        if due is Due.STOP:
            raise Stopped(self._label)

    def load_progress(self) -> Progress | None:
        saved = self._store.load_progress(self._key)
        if saved is None:
            return None
        facts = dict(saved.facts)
        with self._lock:
            self.history = History(**facts.pop(_HISTORY))
        return Progress(saved.tensors, facts)

    def _due(self) -> Due:
        if self._stop.is_set():
            return Due.STOP
        return Due.SAVE if time.monotonic() - self._saved >= self._progress_s else Due.NOTHING

    def _publish(self, made: Progress) -> None:
        self._store.save_progress(self._key, Progress(made.tensors, self._with_history(made.facts)))

    def _with_history(self, facts: Facts) -> Facts:
        return {**facts, _HISTORY: {"metrics": self.history.metrics, "previews": self.history.previews}}

    def news(self) -> dict[str, Any]:
        """Which shard it is, what it logged since the last call, and how often it gave a sign of life."""
        with self._lock:
            metrics, previews = self.history.metrics[self._sent[0] :], self.history.previews[self._sent[1] :]
            self._sent = [len(self.history.metrics), len(self.history.previews)]
        return {"shard": self._shard, "beats": self.beats, "metrics": metrics, "previews": previews}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
