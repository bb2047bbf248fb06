"""Where a teacher's word comes from, at the positions of a batch that `losses.shifted` gives."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from tasks.llm_distillation.losses import AlignedTeacher, DenseTeacher
from tasks.llm_distillation.losses.teachers import Teacher
from tasks.llm_distillation.text.packing import model_inputs
from tasks.llm_distillation.text.retold import Retold
from tasks.llm_distillation.training.lm_step import Batch, head_of, hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Signal(Protocol):
    """A source of the teacher's word."""

    def __call__(self, rows: np.ndarray, batch: Batch) -> Teacher | None:
        """On the sequences `rows` of the corpus (below 0: none), which are `batch`; B(T - 1) positions."""
        ...


def silence(rows: np.ndarray, batch: Batch) -> None:
    """No teacher."""


class Speaking:
    """A frozen teacher that reads along; its logits exist chunk by chunk only. Its head is cut to the `vocabulary` of
    its tokenizer."""

    def __init__(self, model: "PreTrainedModel", vocabulary: int) -> None:
        self._model, self._vocabulary = model.requires_grad_(False), vocabulary

    @torch.no_grad()
    def __call__(self, rows: np.ndarray, batch: Batch) -> DenseTeacher:
        hidden = hidden_states(self._model, batch)[:, :-1].flatten(0, 1)
        return DenseTeacher(hidden, head_of(self._model)[: self._vocabulary])


class Retelling:
    """A frozen teacher that reads the same text in tokens of its own, one forward pass a batch. Its head is cut to
    the `vocabulary` of its tokenizer."""

    def __init__(self, model: "PreTrainedModel", retold: Retold, vocabulary: int) -> None:
        self._model, self._retold, self._vocabulary = model.requires_grad_(False), retold, vocabulary

    @torch.no_grad()
    def __call__(self, rows: np.ndarray, batch: Batch) -> AlignedTeacher:
        told, device = self._retold(rows), batch.ids.device
        hidden = self._model.base_model(**model_inputs(told.ids, told.position, str(device)))
        head = head_of(self._model)[: self._vocabulary]
        places = torch.from_numpy(told.places).flatten().to(device)
        return AlignedTeacher(hidden.last_hidden_state.flatten(0, 1), head, places)
