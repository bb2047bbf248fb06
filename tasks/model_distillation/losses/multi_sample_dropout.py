"""Multi-sample dropout (Inoue 2019, arXiv 1905.09788): several dropout masks of the features in the same step.

The head, which they share, is applied to each; losses are averaged, not logits. In tests there is no dropout.
"""

from pydantic import Field
from torch import Tensor
from torch.nn.functional import dropout

from orchestrator.task import Settings


class MultiSampleDropout(Settings):
    """Settings of multi-sample dropout."""

    samples: int = Field(default=8, ge=1)
    """Masks in a step; 1 is ordinary dropout."""
    rate: float = Field(default=0.5, ge=0, lt=1)
    """Share of the features that a mask takes out."""


def masked(features: Tensor, samples: int, rate: float) -> Tensor:
    """(M * N, D) from features (N, D): M copies of the batch one after another, each under a mask of its own.

    Masks are drawn from torch's global random numbers as nn.Dropout draws them. Loss over the whole, divided by its
    length, is the mean of the losses.
    """
    copies = features.expand(samples, *features.shape).reshape(-1, *features.shape[1:])
    return dropout(copies, rate, training=True)


def repeated(values: Tensor, samples: int) -> Tensor:
    """Labels or the teacher's logits (N, ...) beside what `masked` makes: (M * N, ...)."""
    return values.expand(samples, *values.shape).reshape(-1, *values.shape[1:])
