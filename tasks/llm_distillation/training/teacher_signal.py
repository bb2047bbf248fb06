"""Where a teacher's word comes from, at the positions of a batch that `losses.shifted` gives."""

from typing import NamedTuple, Protocol

import numpy as np
import torch

from tasks.llm_distillation.losses import AlignedTeacher, DenseTeacher
from tasks.llm_distillation.losses.teachers import Teacher
from tasks.llm_distillation.text.retold import Retold
from tasks.llm_distillation.training.lm_step import Batch
from tasks.llm_distillation.training.teacher_reader import Reader


class Signal(Protocol):
    """A source of the teacher's word."""

    def __call__(self, rows: np.ndarray, batch: Batch) -> Teacher | None:
        """On the sequences `rows` of the corpus (below 0: none), which are `batch`; B(T - 1) positions."""
        ...


def silence(rows: np.ndarray, batch: Batch) -> None:
    """No teacher."""


class Signals(NamedTuple):
    """Where the teacher's word comes from, by whose text it is."""

    corpus: Signal
    written: Signal
    """On what the student writes; never from labels, which do not know it."""


class Speaking:
    """A frozen teacher that reads along; its logits exist chunk by chunk only. Its head is cut to the `vocabulary` of
    its tokenizer."""

    def __init__(self, reader: Reader, vocabulary: int) -> None:
        self._reader, self._vocabulary = reader, vocabulary

    @torch.no_grad()
    def __call__(self, rows: np.ndarray, batch: Batch) -> DenseTeacher:
        hidden, head = self._reader(batch.ids, batch.position)
        return DenseTeacher(hidden[:, :-1].flatten(0, 1), head[: self._vocabulary])


class Retelling:
    """A frozen teacher that reads the same text in tokens of its own, one forward pass a batch. Its head is cut to
    the `vocabulary` of its tokenizer."""

    def __init__(self, reader: Reader, retold: Retold, vocabulary: int) -> None:
        self._reader, self._retold, self._vocabulary = reader, retold, vocabulary

    @torch.no_grad()
    def __call__(self, rows: np.ndarray, batch: Batch) -> AlignedTeacher:
        told, device = self._retold(rows), batch.ids.device
        ids, position, places = (torch.from_numpy(one).to(device) for one in told)
        hidden, head = self._reader(ids, position)
        return AlignedTeacher(hidden.flatten(0, 1), head[: self._vocabulary], places.flatten())
