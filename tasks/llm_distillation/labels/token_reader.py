"""Feeds a student with token labels: shuffled, the same on any number of ranks and after any interruption.

The order of an epoch depends on seed and epoch alone. Shards are shuffled, then cut into windows of `WINDOW`, and
within each window all sequences are; so a reader holds the tables of a few shards only, however many there are.
Step s takes the next `batch_size` sequences, shared out among the ranks; what does not fill the last step is left
out of that epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import IterableDataset

from tasks.llm_distillation.labels.kept_labels import KeptTokenLabels, Numbers, Spoken, Told
from tasks.llm_distillation.losses import IGNORED
from tasks.llm_distillation.losses.teachers import SampledTeacher, TopKTeacher
from tasks.llm_distillation.training.lm_step import Batch
from tasks.model_distillation import philox
from tasks.model_distillation.label_reader import ALONE, Place
from tasks.model_distillation.prefetch import ahead

WINDOW = 8
"""Shards that are read side by side."""
TOGETHER = 32
"""Sequences that are unpacked at once: several of a shard cost little more than one."""
AHEAD = 4
"""Batches that are made ahead of the student."""


class TokenBatch(NamedTuple):
    """B sequences of T tokens, and the teacher's word on them."""

    sequences: Tensor
    """(B,) int64: their numbers in the corpus."""
    batch: Batch
    """Their tokens, the place of each in its document, and which are learned."""
    teacher: Spoken
    """At B(T - 1) positions, each row of tokens without its last; empty where the next token is not learned."""


@dataclass(frozen=True, eq=False)
class TokenReader:
    """See the module. `batch_size` counts the sequences of a step on all ranks together."""

    labels: KeptTokenLabels
    batch_size: int
    seed: int
    place: Place = ALONE

    def __post_init__(self) -> None:
        rank, ranks = self.place
        assert 0 <= rank < ranks, self.place
        number = sum(map(len, self.labels.numbers))
        if self.batch_size % ranks or self.batch_size > number:
            raise ValueError(
                f"batch_size is {self.batch_size} for {ranks} ranks and {number} sequences; expected a multiple of the "
                "ranks, and not more than there are sequences"
            )

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same on every rank."""
        return sum(map(len, self.labels.numbers)) // self.batch_size

    def order(self, epoch: int) -> Numbers:
        """The sequences of an epoch, in order."""
        numbers = self.labels.numbers
        shards = philox.permutation(self.seed, len(numbers), epoch, 1)
        windows = [shards[first : first + WINDOW] for first in range(0, len(shards), WINDOW)]
        made = []
        for turn, window in enumerate(windows):
            own = np.concatenate([numbers[shard] for shard in window])
            made.append(own[philox.permutation(self.seed, len(own), epoch, 2 + turn)])
        return np.concatenate(made)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[TokenBatch]:
        """The batches of an epoch from step `first` on, made ahead in a thread of their own."""
        return ahead(self.batches(epoch, first), AHEAD)

    def batches(self, epoch: int, first: int = 0) -> Iterator[TokenBatch]:
        """As `epoch`, in the caller's thread."""
        rank, ranks = self.place
        order = self.order(epoch)[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)
        own = order[first:, rank::ranks]
        at_once = max(1, TOGETHER // own.shape[1])
        for start in range(0, len(own), at_once):
            part = own[start : start + at_once]
            read = self.labels.read(part.ravel())
            for row, numbers in enumerate(part):
                found = read[row * len(numbers) : (row + 1) * len(numbers)]
                tokens = batch_of([own for own in found if own is not None])
                yield TokenBatch(torch.from_numpy(numbers.copy()), tokens, told(found, self.labels.length))


class TokenStream(IterableDataset[TokenBatch]):
    """The batches of one epoch for torch's DataLoader: `DataLoader(TokenStream(reader, 0), batch_size=None)`."""

    def __init__(self, reader: TokenReader, epoch: int, first: int = 0) -> None:
        self.reader, self.number, self.first = reader, epoch, first

    def __iter__(self) -> Iterator[TokenBatch]:
        return self.reader.epoch(self.number, self.first)

    def __len__(self) -> int:
        return self.reader.steps - self.first


def batch_of(found: Sequence[Told]) -> Batch:
    """Their tokens as a student takes them."""
    ids, position = (
        torch.from_numpy(np.stack([getattr(row, name) for row, _ in found])).long()
        for name in ("tokens", "position")
    )
    learned = torch.from_numpy(np.stack([row.learned for row, _ in found]))
    return Batch(ids, position, ids.masked_fill(~learned, IGNORED))


class Replayed:
    """The teacher's word as a student asks for it, by the rows of the corpus: a `teacher_signal.Signal`."""

    def __init__(self, labels: KeptTokenLabels) -> None:
        self._labels = labels

    def __call__(self, rows: Numbers, batch: Batch) -> Spoken:
        return told(self._labels.read(rows), batch.ids.shape[1])


def told(found: Sequence[Told | None], length: int) -> Spoken:
    """What the teacher said of these sequences of `length` tokens, at the positions of a batch of them.

    Where the next token is not learned, or a sequence has no labels, a position is empty: it has no tokens, and the
    mass of all others is 1, on which no loss of a student depends.
    """
    learned = np.zeros((len(found), length - 1), bool)
    for row, own in zip(learned, found, strict=True):
        row[:] = own is not None and own.row.learned[1:]
    places = torch.from_numpy(np.flatnonzero(learned))
    spoken = [own.spoken for own in found if own is not None]
    width = max((own.ids.shape[1] for own in spoken), default=1)
    placed = partial(_placed, spoken, places, (learned.size, width))
    if spoken and isinstance(spoken[0], SampledTeacher):
        return SampledTeacher(placed("ids"), placed("counts"), placed("log_probs"))
    tail = torch.ones(learned.size)
    if spoken:
        tail[places] = torch.cat([own.tail for own in spoken if own.tail is not None])
    return TopKTeacher(placed("ids"), placed("log_probs", fill=-torch.inf), tail)


def _placed(
    spoken: Sequence[Spoken], places: Tensor, shape: tuple[int, int], part: str, fill: float = 0.0
) -> Tensor:
    """A part of what was said, in its places; elsewhere `fill`."""
    parts = [getattr(own, part) for own in spoken]
    made = torch.full(shape, fill, dtype=parts[0].dtype if parts else torch.float32)
    if parts:
        made[places] = torch.cat(
            [functional.pad(own, (0, shape[1] - own.shape[1]), value=fill) for own in parts]
        )
    return made
