"""Kinds of positions: a mixture of distributions over symbols, fitted to what occurs together.

Classification EM: each position belongs to the kind that makes its symbols likeliest. What the symbols are is the
caller's: the ids of a set, or the levels of their values.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.llm_distillation.labels.lanes import Numbers

ROUNDS = 6
FITTED_ON = 30_000
"""Positions, evenly spread, that the rounds look at; all are assigned at the end."""
PRIOR = 20.0
"""How many positions' worth of the overall distribution each kind starts with."""


def kinds_of(
    symbols: Numbers, valid: NDArray[np.bool_], size: int, kinds: int, seed: int
) -> NDArray[np.int64]:
    """The kind (N,) below `kinds` of each row of `symbols` (N,k) below `size`; only `valid` (N,k) ones count."""
    if kinds == 1 or len(symbols) <= kinds:
        return np.zeros(len(symbols), np.int64)
    step = -(-len(symbols) // FITTED_ON)
    few, few_valid = symbols[::step], valid[::step]
    overall = counted(few, few_valid, np.zeros((1, 1), np.int64), size, 1) + 0.01
    overall /= overall.sum()
    chosen = np.random.default_rng(seed).choice(len(few), min(kinds, len(few)), replace=False)
    width = valid.sum() / len(valid)
    table = 3 * counted(few[chosen], few_valid[chosen], np.arange(len(chosen))[:, None], size, kinds)
    table += 2 * width * overall
    for _ in range(ROUNDS):
        kind = best(few, few_valid, np.log(table / table.sum(1, keepdims=True)))
        table = counted(few, few_valid, kind[:, None], size, kinds) + PRIOR * width * overall
    return best(symbols, valid, np.log(table / table.sum(1, keepdims=True)))


def best(
    symbols: Numbers,
    valid: NDArray[np.bool_],
    scores: NDArray[np.float64],
    offset: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """For each row the kind whose `scores` (kinds,S), summed over its symbols, plus `offset` (kinds,) are most."""
    flat = torch.from_numpy(symbols[valid].astype(np.int64))
    ends = torch.from_numpy(valid.sum(1).cumsum())
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    table = torch.from_numpy(np.ascontiguousarray(scores.T.astype(np.float32)))
    sums = torch.nn.functional.embedding_bag(flat, table, starts, mode="sum").numpy()
    return np.asarray((sums if offset is None else sums + offset).argmax(1), np.int64)


def counted(
    symbols: Numbers, valid: NDArray[np.bool_], kind: NDArray[np.int64], size: int, kinds: int
) -> NDArray[np.float64]:
    """(kinds,S): how often each kind has each symbol; `kind` in a shape that fits that of `symbols`."""
    cells = (kind * size + symbols)[valid]
    return np.bincount(cells, minlength=kinds * size).reshape(kinds, size).astype(np.float64)
