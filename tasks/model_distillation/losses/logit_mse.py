"""Squared difference of logits (Ba and Caruana 2014, arXiv 1312.6184; Kim et al. 2021, arXiv 2105.08919)."""

from torch import Tensor

from tasks.model_distillation.losses.soft import pair
from tasks.model_distillation.losses.term import Term


class LogitMse(Term):
    """Settings of the squared difference of logits."""


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the classes of (s - t)^2, of logits (..., C): (...).

    Half of it, for logits whose mean over the classes is taken out, is what KD tends to at high temperature.
    """
    student, teacher = pair(student, teacher)
    return (student - teacher).square().mean(-1)
