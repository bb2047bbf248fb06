"""Dual-head knowledge distillation (Yang et al. 2024, arXiv 2411.08937).

Logits are matched by a head of their own, which is dropped after training: on one head the gradients of this loss
and of cross entropy work against each other. Formulas follow the authors' code.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from tasks.model_distillation.losses.soft import pair
from tasks.model_distillation.losses.term import Term

UNITS = 200
"""Of the nonlinear head."""
HEAD_DROPOUT = 0.1


class Dhkd(Term):
    """Settings of DHKD. The authors on ImageNet: weight 0.1, a linear head, no alignment, until half of the epochs."""

    temperature: float = Field(default=2.0, gt=0)
    """Differences of logits count linearly, no longer quadratically, from about this many on."""
    form: Literal["norm", "plain"] = "norm"
    """BinaryKL-Norm, which the authors train with, or the plain BinaryKL that it is derived from."""
    head: Literal["nonlinear", "linear"] = "nonlinear"
    """The head that matches logits."""
    alignment: bool = True
    """Take out of this loss's gradient what runs against that of the rest, where they disagree."""


def binary_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the sum over classes of the divergence of sigmoid(t/T) from sigmoid(s/T), logits (..., C): (...)."""
    student, teacher = (logits / temperature for logits in pair(student, teacher))
    present, absent = (
        sign.sigmoid() * (logsigmoid(sign) - logsigmoid(other))
        for sign, other in ((teacher, student), (-teacher, -student))
    )
    return temperature**2 * (present + absent).sum(-1)


def binary_kl_norm(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the sum over classes of log cosh((s - t) / 2T), logits (..., C): (...).

    The divergence of sigmoid((s - t) / T) from 1/2, in the form that no difference makes infinite.
    """
    student, teacher = pair(student, teacher)
    half = ((student - teacher) / (2 * temperature)).abs()
    return temperature**2 * (half + softplus(-2 * half) - math.log(2)).sum(-1)


BINARY = {"norm": binary_kl_norm, "plain": binary_kl}


def aligned(task: Sequence[Tensor], distillation: Sequence[Tensor]) -> list[Tensor]:
    """The gradient to step with: that of the task plus that of distillation, the latter without its part against
    the former where their product over all weights is negative. A weight that a loss does not reach holds zeros.
    """
    product, square = _product(task, distillation), _product(task, task)
    against = (product / square.clamp(min=torch.finfo(square.dtype).tiny)).clamp(max=0)
    return [own + (other - against * own) for own, other in zip(task, distillation, strict=True)]


def head(kind: Literal["nonlinear", "linear"], features: int, classes: int) -> nn.Module:
    """From features (N, D) to the logits that this loss matches."""
    if kind == "linear":
        return nn.Linear(features, classes)
    first = [nn.Linear(features, UNITS), nn.Dropout(HEAD_DROPOUT), nn.BatchNorm1d(UNITS), nn.ReLU()]
    return nn.Sequential(*first, nn.Linear(UNITS, classes))


def _product(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(one * other).sum() for one, other in zip(first, second, strict=True)]).sum()
