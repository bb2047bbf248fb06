from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tasks.llm_distillation.losses import IGNORED, DenseTeacher, divergence


class Case(NamedTuple):
    """A student and a teacher of 40 tokens, the head of the student padded by 3, of the teacher by 1."""

    hidden: Tensor
    head: Tensor
    teacher: DenseTeacher
    labels: Tensor
    vocabulary: int = 40

    @property
    def valid(self):
        return self.labels != IGNORED

    def logits(self):
        """Whole, as the plain way makes them: student's and teacher's at valid positions."""
        size = self.vocabulary
        student = self.hidden[self.valid] @ self.head[:size].T
        return student, self.teacher.hidden[self.valid] @ self.teacher.head[:size].T

    def plain(self, mixture, kd_weight=1.0):
        """The mixture's sum by autograd."""
        student, teacher = self.logits()
        total = mixture.cross_entropy * torch.nn.functional.cross_entropy(
            student, self.labels[self.valid], reduction="sum"
        )
        for term in mixture.divergences:
            logs = [(one / term.temperature).log_softmax(-1) for one in (teacher, student)]
            total = total + kd_weight * term.weight * divergence(term, *logs).sum()
        return total

    def gradients(self, total):
        return torch.autograd.grad(total, (self.hidden, self.head))


def make(positions=23, dtype=torch.float64, seed=0):
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draws, dtype=torch.float64).to(dtype)

    labels = torch.randint(0, 40, (positions,), generator=draws)
    labels[::4] = IGNORED
    teacher = DenseTeacher(normal(positions, 6), normal(41, 6))
    return Case(normal(positions, 8).requires_grad_(), normal(43, 8).requires_grad_(), teacher, labels)


@pytest.fixture
def case():
    return make()


@pytest.fixture
def long_case():
    return make(positions=32)
