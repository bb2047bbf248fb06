"""How good a classifier is: accuracy, agreement with the teacher, likelihood, calibration."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from orchestrator.task import Json

BINS = 15
"""Of the calibration error (Guo et al. 2017, arXiv 1706.04599)."""


@dataclass(frozen=True)
class Bins:
    """Samples by their confidence, the probability of the class that is chosen, in bins of equal width."""

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    """Mean of each bin; 0 in an empty one."""
    accuracy: tuple[float, ...]
    """Of each bin; 0 in an empty one."""

    @property
    def calibration_error(self) -> float:
        """ECE: mean over the samples of the difference between confidence and accuracy of their bin."""
        gaps = (abs(a - c) * n for n, c, a in zip(self.count, self.confidence, self.accuracy, strict=True))
        return sum(gaps) / sum(self.count)


@dataclass(frozen=True)
class Scores:
    """On one set of samples; shares are fractions."""

    accuracy: float
    agreement: float | None
    """Share of the samples on which student and teacher choose the same class; None without a teacher."""
    nll: float
    """Mean negative log likelihood of the true classes, nats."""
    bins: Bins

    @property
    def ece(self) -> float:
        """Expected calibration error over 15 bins."""
        return self.bins.calibration_error

    def named(self) -> dict[str, float]:
        """As metrics."""
        agreement = {} if self.agreement is None else {"agreement": self.agreement}
        return {"accuracy": self.accuracy, **agreement, "nll": self.nll, "ece": self.ece}

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, told: Json) -> "Scores":
        bins = Bins(**{name: tuple(values) for name, values in told["bins"].items()})
        return cls(**{**told, "bins": bins})


def score(logits: Tensor, classes: Tensor, chosen_by_teacher: Tensor | None = None) -> Scores:
    """Of logits (N, C) and true classes (N,); `chosen_by_teacher` (N,) are the teacher's classes."""
    logits, chosen = logits.double(), logits.argmax(1)
    agreement = None if chosen_by_teacher is None else _mean(chosen == chosen_by_teacher)
    return Scores(
        accuracy=_mean(chosen == classes),
        agreement=agreement,
        nll=float(cross_entropy(logits, classes)),
        bins=binned(logits.softmax(1).amax(1), chosen == classes),
    )


def binned(confidence: Tensor, right: Tensor, bins: int = BINS) -> Bins:
    """Confidences in (0, 1] and whether the choice was right, both (N,); a border belongs to the bin below it."""
    place = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    counts, sums, rights = (
        torch.bincount(place, weights, minlength=bins).double()
        for weights in (None, confidence.double(), right.double())
    )
    filled = counts.clamp(min=1)
    means = ((part / filled).tolist() for part in (sums, rights))
    return Bins(tuple(int(count) for count in counts), *(tuple(part) for part in means))


def _mean(right: Tensor) -> float:
    return float(right.double().mean())
