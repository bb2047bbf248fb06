"""How much of a shard's time its teacher takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class TeacherClock:
    """How long the teacher takes, and how long all does."""

    def __init__(self) -> None:
        self._begun, self._seconds, self._tokens = time.perf_counter(), 0.0, 0

    @contextmanager
    def teacher(self, tokens: int, device: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        self._seconds += time.perf_counter() - begun
        self._tokens += tokens

    def paces(self) -> dict[str, float]:
        """Tokens a second, and of the teacher alone; nothing where it read none."""
        if not self._tokens:
            return {}
        whole = time.perf_counter() - self._begun
        return {
            "tokens_per_second": self._tokens / whole,
            "teacher_tokens_per_second": self._tokens / self._seconds,
        }
