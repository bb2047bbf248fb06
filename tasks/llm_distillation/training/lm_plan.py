"""What each step learns from and how fast: the same whatever the number of ranks. Pure."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

EMPTY = -1
"""In place of a sequence, where ranks have unequal parts."""


def total_steps(sequences: int, batch: int, epochs: float | None, steps: int | None) -> int:
    """Updates of the weights; `epochs` are rounded to whole batches, at least one."""
    if steps is not None:
        return steps
    assert epochs is not None
    return max(1, round(epochs * sequences / batch))


def rows_of_step(step: int, batch: int, sequences: int, seed: Callable[[int], int]) -> np.ndarray:
    """Which sequences step `step` (from 0) learns from, (batch,): epoch after epoch without a gap, each in the
    order that its `seed(epoch)` gives."""
    places = np.arange(step * batch, (step + 1) * batch)
    return np.array([_order(seed(int(place) // sequences), sequences)[place % sequences] for place in places])


def passes(rows: np.ndarray, rank: int, ranks: int, micro_batch: int | None) -> list[np.ndarray]:
    """A rank's part of the rows in forward passes. All ranks have as many, of the same sizes: where a rank has
    fewer rows, EMPTY ones fill up."""
    return filled(rows[rank::ranks], -(-len(rows) // ranks), micro_batch)


def filled(own: np.ndarray, share: int, micro_batch: int | None) -> list[np.ndarray]:
    """The rows `own`, at most `share` of them, in forward passes that have `share` rows together."""
    rows = np.full(share, EMPTY)
    rows[: len(own)] = own
    size = min(micro_batch or share, share)
    return [rows[start : start + size] for start in range(0, share, size)]


def learning_rate(step: int, steps: int, *, lr: float, warmup: int, schedule: str) -> float:
    """Of step `step` of `steps`, counted from 0."""
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
    return lr * (1 - done) if schedule == "linear" else lr


@lru_cache(maxsize=4)
def _order(seed: int, sequences: int) -> np.ndarray:
    return torch.randperm(sequences, generator=torch.Generator().manual_seed(seed)).numpy()
