"""Decoupled knowledge distillation (Zhao et al. 2022, arXiv 2203.08679).

KL = TCKD + (1 - p_y) NCKD with p_y the teacher's probability of the true class; DKD gives the two parts weights of
their own.
"""

import torch
from pydantic import Field
from torch import Tensor

from tasks.model_distillation.losses.kd import kd
from tasks.model_distillation.losses.soft import pair
from tasks.model_distillation.losses.term import SoftTerm


class Dkd(SoftTerm):
    """Settings of DKD. The author's warm-up is a twelfth of the epochs, 20 of 240."""

    alpha: float = Field(default=1.0, ge=0)
    """Weight of the true class against all others (TCKD)."""
    beta: float = Field(default=8.0, ge=0)
    """Weight of the other classes among themselves (NCKD); the author sets it for each pair of networks."""


def dkd(
    student: Tensor, teacher: Tensor, classes: Tensor, temperature: float, *, alpha: float, beta: float
) -> Tensor:
    """alpha TCKD + beta NCKD, both times T^2, of logits (N, C) and true classes (N,): (N,)."""
    return alpha * tckd(student, teacher, classes, temperature) + beta * nckd(
        student, teacher, classes, temperature
    )


def tckd(student: Tensor, teacher: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """T^2 times the divergence of (p_y, 1 - p_y): (N,)."""
    student, teacher = pair(student, teacher)
    one, other = (_target_against_rest(logits / temperature, classes) for logits in (student, teacher))
    return temperature**2 * kd(one, other, 1.0)


def nckd(student: Tensor, teacher: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """T^2 times the divergence of the softmax over all classes but the true one: (N,)."""
    student, teacher = pair(student, teacher)
    return kd(_rest(student, classes), _rest(teacher, classes), temperature)


def _target_against_rest(logits: Tensor, classes: Tensor) -> Tensor:
    """(N, 2) logits whose softmax is (p_y, 1 - p_y)."""
    target = logits.gather(1, classes[:, None])[:, 0]
    return torch.stack([target, _rest(logits, classes).logsumexp(1)], 1)


def _rest(logits: Tensor, classes: Tensor) -> Tensor:
    """(N, C - 1): the logits of all classes but the true one."""
    places = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, places + (places >= classes[:, None]).long())
