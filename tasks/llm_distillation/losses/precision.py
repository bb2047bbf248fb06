"""Logits, and the sums over them, in at least float32, whatever the type of the hidden states."""

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 where that is the type already."""
    return torch.promote_types(dtype, torch.float32)


def logits_of(hidden: Tensor, head: Tensor) -> Tensor:
    """hidden (N, d) times head (V, d): (N, V). The product is rounded to the type of the two, as in the model."""
    return (hidden @ head.T).to(wide(hidden.dtype))
