"""Logits, and the sums over them, in at least float32, whatever the type of the hidden states."""

import torch
from torch import Tensor

TOKENS_AT_ONCE = 512
"""Of the vocabulary, in a product on a CPU: MKL makes narrow float32 products of many rows up to 18 % faster."""
ENOUGH = 2**17
"""Elements of the hidden states from which on that pays."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 where that is the type already."""
    return torch.promote_types(dtype, torch.float32)


def logits_of(hidden: Tensor, head: Tensor) -> Tensor:
    """hidden (N, d) times head (V, d): (N, V). The product is rounded to the type of the two, as in the model."""
    on_cpu = hidden.device.type == "cpu" and hidden.dtype == torch.float32
    if on_cpu and hidden.numel() >= ENOUGH and not torch.is_grad_enabled():
        return _in_columns(hidden, head)
    return (hidden @ head.T).to(wide(hidden.dtype))


def _in_columns(hidden: Tensor, head: Tensor) -> Tensor:
    logits = hidden.new_empty(len(hidden), len(head))
    for columns, rows in zip(logits.split(TOKENS_AT_ONCE, dim=1), head.split(TOKENS_AT_ONCE), strict=True):
        torch.mm(hidden, rows.T, out=columns)
    return logits
