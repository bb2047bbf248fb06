"""Softened probabilities and their divergence, in logarithms throughout, so that nothing overflows or vanishes."""

import torch
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values if values.dtype == torch.float64 else values.float()


def pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both wide, the teacher cut off from the gradient. ValueError where the shapes differ: to broadcast, or to
    compare a padded vocabulary with a plain one, would be a silent mistake."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student gives {tuple(student.shape)}, the teacher {tuple(teacher.shape)}; expected the same shape: "
            "cut padded classes off, and do not squeeze an axis"
        )
    return wide(student), wide(teacher.detach())


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(z / T) over the last axis."""
    return (logits / temperature).log_softmax(-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last axis, from logarithms; a class with p = 0 adds nothing."""
    p = log_p.exp()
    return (p * (log_p.where(p > 0, torch.zeros_like(log_p)) - log_q)).sum(-1)
