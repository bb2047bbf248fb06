"""DIST: what matters is how a teacher ranks, not its exact probabilities (Huang et al. 2022, arXiv 2205.10536)."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tasks.model_distillation.losses.soft import log_probabilities, pair
from tasks.model_distillation.losses.term import SoftTerm

ROUNDING = 8
"""Deviations of no more than this many roundings are none."""


class Dist(SoftTerm):
    """Settings of DIST."""

    beta: float = Field(default=1.0, ge=0)
    """Weight of the relations between classes (a row of probabilities each)."""
    gamma: float = Field(default=1.0, ge=0)
    """Weight of the relations between samples (a column each)."""


def dist(student: Tensor, teacher: Tensor, temperature: float, *, beta: float, gamma: float) -> Tensor:
    """T^2 (beta (1 - mean correlation of rows) + gamma (1 - mean correlation of columns)), a scalar.

    Of the softened probabilities of logits (N, C), by Pearson's correlation. A column is a class over the whole
    batch, so the value belongs to the batch. A row or column that is constant has the correlation 0.
    """
    student, teacher = pair(student, teacher)
    p, q = (log_probabilities(logits, temperature).exp() for logits in (student, teacher))
    between_classes = 1 - correlation(p, q).mean()
    between_samples = 1 - correlation(p.T, q.T).mean()
    return temperature**2 * (beta * between_classes + gamma * between_samples)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's over the last axis; 0 where either is constant."""
    return cosine_similarity(_deviations(first), _deviations(second), dim=-1)


def _deviations(values: Tensor) -> Tensor:
    """From the mean of the last axis, the largest one 1, so that squares of tiny probabilities do not vanish; 0 where
    they are rounding errors. The correlation does not see scale, so its gradient does not either."""
    centred = values - values.mean(-1, keepdim=True)
    size, largest = (part.detach().abs().amax(-1, keepdim=True) for part in (values, centred))
    varies = largest > ROUNDING * torch.finfo(values.dtype).eps * size
    return centred / largest.where(varies, torch.ones_like(largest)) * varies
