"""ND: the norm and the direction of features (Wang et al. 2023, arXiv 2305.17007), the ++ of KD++, DKD++, DIST++.

The student's penultimate feature is drawn to the direction of the teacher's mean feature of the true class, and to
a norm no smaller than the teacher's.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from tasks.model_distillation.losses.soft import wide
from tasks.model_distillation.losses.term import Term


class Nd(Term):
    """Settings of ND. The author's weight is between 0.5 and 4, without warm-up."""

    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Rate in the projector, which there is only where student and teacher differ in width."""


def nd(features: Tensor, norms: Tensor, directions: Tensor) -> Tensor:
    """1 - <s, e> / max(||s||, ||t||): (N,), between 0 and 2.

    `features` s (N, D) of the student, `norms` ||t|| (N,) of the teacher's, `directions` e (N, D) of length 1. The
    gradient flows through the maximum: where the student is the longer there is no pressure on its norm.
    """
    features, norms, directions = wide(features), wide(norms.detach()), wide(directions.detach())
    longest = torch.maximum(features.norm(dim=-1), norms)
    along = (features * directions).sum(-1)
    return 1 - along / longest.clamp(min=torch.finfo(features.dtype).tiny)


def directions(means: Tensor) -> Tensor:
    """e: the teacher's mean feature of each class (classes, D), in length 1; of one without a sample still 0."""
    return nn.functional.normalize(wide(means), dim=-1)


def projector(student: int, teacher: int, dropout: float) -> nn.Module:
    """From the student's width to the teacher's, for this loss alone; as they are where the widths agree."""
    if student == teacher:
        return nn.Identity()
    return nn.Sequential(nn.BatchNorm1d(student), nn.Dropout(dropout), nn.Linear(student, teacher))
