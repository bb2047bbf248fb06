"""Samples to sequences of one length. Several share a sequence, and none sees another.

The leak that packing invites is closed by the positions: they start anew with each document, and from that
transformers builds a block-diagonal mask, given no attention mask and no cache (`model_inputs`). `check_sealed`
makes sure that a model does so.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from orchestrator.task import Facts
from tasks.llm_distillation.text.chat import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PADDING = -1
"""The document number of padding."""


@dataclass(frozen=True)
class Sequences:
    """N sequences of T tokens; padding stands at their ends alone."""

    ids: np.ndarray
    """(N,T) int32: token ids."""
    loss_mask: np.ndarray
    """(N,T) bool: which tokens are labels, each predicted from the one before it in its own document."""
    document: np.ndarray
    """(N,T) int32: the document that a token belongs to, counted from 0 in the order of the corpus; -1 for
    padding."""
    position: np.ndarray
    """(N,T) int32: its place in its document; 0 for padding."""
    counts: Facts
    """How many `rows`, `empty`, `over_long`, `truncated` and `dropped` ones, `documents`, `sequences`, `tokens`
    (without padding), `labels`, `padding`."""

    def __len__(self) -> int:
        return len(self.ids)


def model_inputs(ids: np.ndarray, position: np.ndarray, device: str) -> dict[str, Any]:
    """What a causal model is called with, from rows of `ids` and `position` (B,T): `model(**model_inputs(...))`.

    Each token sees the earlier ones of its own document. Nothing else may be passed: an attention mask or a
    cache would let documents see each other.
    """
    tensors = {"input_ids": ids, "position_ids": position}
    return {name: torch.from_numpy(rows.astype(np.int64)).to(device) for name, rows in tensors.items()} | {
        "use_cache": False
    }


def fitted(samples: Sequence[Sample], length: int, over_long: str) -> tuple[list[Sample], dict[str, int]]:
    """Samples of at most `length` tokens, and the counts of what was done; see `Corpus.over_long`."""
    kept: list[Sample] = []
    counts = dict.fromkeys(("empty", "over_long", "truncated", "dropped"), 0)
    for sample in samples:
        if not sample.learned[1:].any():
            counts["empty"] += 1
        elif len(sample.ids) <= length:
            kept.append(sample)
        elif sample.plain:
            counts["over_long"] += 1
            kept += [_cut(sample, start, length) for start in range(0, len(sample.ids), length)]
        else:
            counts["over_long"] += 1
            short = _cut(sample, 0, length)
            keeps = over_long == "truncate" and short.learned[1:].any()
            counts["truncated" if keeps else "dropped"] += 1
            kept += [short] if keeps else []
    return kept, counts


def pack(
    documents: Sequence[Sample], length: int, padding: int, counts: Facts, together: bool = True
) -> Sequences:
    """Best-fit decreasing; sequences follow the order of their first documents. `padding` is the id that fills.

    With `together` off each document has a sequence of its own.
    """
    sizes = [len(document.ids) for document in documents]
    bins = best_fit(sizes, length) if together else [[number] for number in range(len(sizes))]
    shape = (len(bins), length)
    ids, loss_mask = np.full(shape, padding, np.int32), np.zeros(shape, bool)
    document, position = np.full(shape, PADDING, np.int32), np.zeros(shape, np.int32)
    for row, members in enumerate(bins):
        start = 0
        for number in members:
            place = np.s_[row, start : start + sizes[number]]
            ids[place], document[place] = documents[number].ids, number
            loss_mask[place], position[place] = documents[number].learned, np.arange(sizes[number])
            start += sizes[number]
    loss_mask &= position > 0
    totals = {
        "documents": len(documents), "sequences": len(bins), "tokens": sum(sizes),
        "labels": int(loss_mask.sum()), "padding": ids.size - sum(sizes),
    }  # fmt: skip
    return Sequences(ids, loss_mask, document, position, {**counts, **totals})


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `sizes` in bins of `capacity`: from the largest on, each into the bin with the least room that
    holds it. Bins and their members in ascending order."""
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        size = sizes[number]
        assert size <= capacity, f"size {size} of {capacity}"
        at = bisect.bisect_left(rooms, (size, 0))
        room, chosen = rooms.pop(at) if at < len(rooms) else (capacity, len(bins))
        if chosen == len(bins):
            bins.append([])
        bins[chosen].append(number)
        bisect.insort(rooms, (room - size, chosen))
    return sorted(sorted(members) for members in bins)


def check_sealed(model: "PreTrainedModel", name: str) -> None:
    """ValueError where a document of `model` sees the one before it in its sequence; one short call."""
    ids = np.array([[1, 2, 3, 4], [2, 1, 3, 4]])
    position = np.array([[0, 1, 0, 1]] * 2)
    device = str(next(model.parameters()).device)
    with torch.no_grad():
        first, second = model(**model_inputs(ids, position, device)).logits[:, 2:].float()
    if not torch.allclose(first, second, atol=1e-3):
        raise ValueError(
            f"model {name}: documents in one sequence see each other, since its architecture does not follow "
            "position_ids; set `pack: false`"
        )


def _cut(sample: Sample, start: int, length: int) -> Sample:
    part = np.s_[start : start + length]
    return Sample(sample.ids[part], sample.learned[part], sample.plain)
