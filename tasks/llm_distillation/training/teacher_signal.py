"""Where a teacher's word comes from, at the positions of a batch that `losses.shifted` gives."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from tasks.llm_distillation.losses import DenseTeacher
from tasks.llm_distillation.losses.teachers import Teacher
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
    """A frozen teacher that reads along; its logits exist chunk by chunk only."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self._model = model.requires_grad_(False)

    @torch.no_grad()
    def __call__(self, rows: np.ndarray, batch: Batch) -> DenseTeacher:
        hidden = hidden_states(self._model, batch)[:, :-1].flatten(0, 1)
        return DenseTeacher(hidden, head_of(self._model))
