"""One forward pass of a student: tokens to the sums of its loss, without a whole logits tensor."""

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tasks.llm_distillation.losses import (
    IGNORED,
    AlignedTeacher,
    DenseTeacher,
    Gate,
    Mixture,
    SpanCorrelation,
    TopKTeacher,
    distillation_loss,
    shifted,
    span_loss,
)
from tasks.llm_distillation.losses.dac_kl import DAC_KL, KEPT_CLASSES, KEPT_MASS
from tasks.llm_distillation.losses.precision import logits_of
from tasks.llm_distillation.losses.rows import CROSS_ENTROPY
from tasks.llm_distillation.losses.spans import OUTSIDE
from tasks.llm_distillation.losses.teachers import Teacher
from tasks.llm_distillation.text.packing import Sequences
from tasks.llm_distillation.training.best_by import AGREEMENT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Purpose = Literal["learn", "learn_written", "judge"]
"""What a forward pass is for: learning from the corpus; from what the student wrote, whose tokens are no labels
of a cross-entropy; judging, where the cross-entropy is always told."""
SPANS, ALIGNED = "span_correlation", "aligned"
TOGETHER = 256
"""Positions whose logits are made at once where models are compared."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Of logits, between a model and its hidden states times its head, by number format."""


class Batch(NamedTuple):
    """B sequences of T tokens on a device."""

    ids: Tensor
    """(B,T) int64."""
    position: Tensor
    """(B,T) int64: place in its own document."""
    labels: Tensor
    """(B,T) int64: the token itself where it is to be learned, else IGNORED."""
    words: Tensor | None = None
    """(B,T) int64: the word of each token, see `words`; only for the span loss."""


class Sums(NamedTuple):
    """Over the labelled tokens of a batch."""

    total: Tensor
    """The loss; differentiable."""
    terms: dict[str, Tensor]
    """Its parts without their weights, for the record; where it is judged, the cross-entropy and `agreement`,
    the number of tokens that student and teacher both hold likeliest."""


class Learner(nn.Module):
    """A student and the head of its loss: what ZeRO trains."""

    def __init__(
        self,
        student: "PreTrainedModel",
        objective: Mixture,
        vocabulary: int,
        spans: SpanCorrelation | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.loss = LossHead(head_of(student), objective, vocabulary, spans)

    def forward(
        self, batch: Batch, teacher: Teacher | None, kd_weight: float, span_weight: float, purpose: Purpose
    ) -> Sums:
        """`span_weight`: factor of the sum over pairs of neighbours, as it is divided by the number of tokens later."""
        hidden, labels = shifted(hidden_states(self.student, batch), batch.labels)
        words = None if batch.words is None else batch.words[:, 1:].flatten()
        return self.loss(hidden, labels, words, teacher, kd_weight, span_weight, purpose)


class LossHead(nn.Module):
    """The loss from hidden states. A module of its own that owns the head's weight, so that ZeRO stage 3 makes the
    weight whole while it is needed, forward and backward."""

    def __init__(
        self, weight: nn.Parameter, objective: Mixture, vocabulary: int, spans: SpanCorrelation | None
    ) -> None:
        super().__init__()
        self.weight, self._spans = weight, spans
        self.gate = _gate(objective)
        self._weight_of_text, self._vocabulary = objective.cross_entropy, vocabulary
        self._objectives: dict[Purpose, Mixture] = {
            "learn": objective,
            "learn_written": objective.model_copy(update={"cross_entropy": 0.0}),
            "judge": objective.model_copy(update={"cross_entropy": 1.0}),
        }

    def forward(
        self,
        hidden: Tensor,
        labels: Tensor,
        words: Tensor | None,
        teacher: Teacher | None,
        kd_weight: float,
        span_weight: float,
        purpose: Purpose,
    ) -> Sums:
        objective = self._objectives[purpose]
        head, vocabulary = self.weight.to(hidden.dtype), self._vocabulary
        total, sums, _ = distillation_loss(
            hidden,
            head,
            labels,
            objective,
            teacher,
            kd_weight=kd_weight,
            gate=self.gate,
            vocabulary=vocabulary,
        )
        none = torch.zeros_like(total)
        terms = {name: sums.get(name, none) for name in terms_of(objective)}
        if isinstance(teacher, AlignedTeacher):
            terms[ALIGNED] = (teacher.places[labels != IGNORED] >= 0).sum()
        if self._spans is not None:
            assert words is not None
            assert isinstance(teacher, DenseTeacher)
            found = span_loss(hidden, head, words, teacher, self._spans, vocabulary=vocabulary)
            total = total + kd_weight * span_weight * found.total
            terms[SPANS] = span_weight * found.total.detach() / self._spans.weight
        if purpose == "judge":
            total = total + (self._weight_of_text - 1) * terms[CROSS_ENTROPY]
            if isinstance(teacher, DenseTeacher | TopKTeacher):
                terms[AGREEMENT] = agreement(hidden, head[:vocabulary], labels, teacher)
        return Sums(total, terms)


def terms_of(objective: Mixture) -> list[str]:
    """Names of its parts; those that a batch without labels has not count nothing."""
    names = [term.name for term in objective.divergences]
    names += [DAC_KL, KEPT_MASS, KEPT_CLASSES] if objective.dac_kl else []
    return [*names, CROSS_ENTROPY] if objective.cross_entropy else names


def _gate(objective: Mixture) -> Gate | None:
    """The gate of DAC-KL, which learns with the student; always the same one at first."""
    if objective.dac_kl is None or objective.dac_kl.band is not None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gate(objective.dac_kl)


def batch_of(sequences: Sequences, rows: np.ndarray, device: str, words: np.ndarray | None = None) -> Batch:
    """These rows of the sequences, and of their words; of a row below 0 nothing is to be learned."""
    ids, position = (array[rows].astype(np.int64) for array in (sequences.ids, sequences.position))
    learned = sequences.loss_mask[rows] & (rows >= 0)[:, None]
    tensors = [ids, position, np.where(learned, ids, IGNORED)]
    if words is not None:
        tensors.append(np.where(learned, words[rows], OUTSIDE))
    return Batch(*(torch.from_numpy(array).to(device) for array in tensors))


def hidden_states(model: "PreTrainedModel", batch: Batch) -> Tensor:
    """(B,T,d): what the output head is applied to. Documents do not see each other."""
    said = model.base_model(input_ids=batch.ids, position_ids=batch.position, use_cache=False)
    return said.last_hidden_state


def head_of(model: "PreTrainedModel") -> nn.Parameter:
    """The weight (V,d) of its output head."""
    head = model.get_output_embeddings().weight
    assert isinstance(head, nn.Parameter)
    return head


def check_plain_head(model: "PreTrainedModel", name: str) -> None:
    """ValueError where the logits are something else than hidden states times the head; one short call."""
    ids = torch.tensor([[1, 2, 3]], device=head_of(model).device)
    batch = Batch(ids, torch.arange(3, device=ids.device)[None], ids)
    with torch.no_grad():
        made = logits_of(hidden_states(model, batch)[0], head_of(model))
        said = model(input_ids=ids, use_cache=False).logits[0]
    allowed = TOLERANCE[head_of(model).dtype]
    if not torch.allclose(made, said.to(made.dtype), rtol=allowed, atol=allowed):
        raise ValueError(
            f"model {name}: its logits are not its last hidden states times its head (a bias, a scale or a cap is "
            "put on them); expected a model without: take another"
        )


@torch.no_grad()
def agreement(hidden: Tensor, head: Tensor, labels: Tensor, teacher: DenseTeacher | TopKTeacher) -> Tensor:
    """At how many labelled positions the student's likeliest token is the teacher's."""
    positions = (labels != IGNORED).nonzero().squeeze(-1)
    chosen, known = hidden[positions], teacher.take(positions)
    same = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for part in chunks(len(positions)):
        same += (logits_of(chosen[part], head).argmax(-1) == _likeliest(known, part, len(head))).sum()
    return same


def chunks(positions: int) -> list[slice]:
    """Slices of so many positions whose logits are made together."""
    return [slice(start, start + TOGETHER) for start in range(0, positions, TOGETHER)]


def _likeliest(teacher: DenseTeacher | TopKTeacher, part: slice, vocabulary: int) -> Tensor:
    if isinstance(teacher, DenseTeacher):
        return logits_of(teacher.hidden[part], teacher.head[:vocabulary]).argmax(-1)
    best = teacher.log_probs[part].argmax(-1, keepdim=True)
    return teacher.ids[part].gather(-1, best).squeeze(-1)
