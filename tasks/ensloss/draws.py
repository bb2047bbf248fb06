"""Derivatives of random classification losses (EnsLoss, Dai 2025, arXiv 2409.00908, Algorithm 1).

Stochastic gradients see a loss phi of the margin only through its derivative phi'. A derivative belongs to a
convex, calibrated loss that is bounded below if it does not decrease with the margin, is negative, and rises
to 0 fast enough. So each batch draws derivatives, puts them in the order of the margins, and lets them fade
beyond margin 1: no loss is ever written down.
"""

import torch
from torch import Generator, Tensor

FLOOR = 1e-6
"""What every derivative lies below 0 at least, so that the loss is calibrated."""
TAIL_FROM = 1.0
"""Margin beyond which derivatives are divided by the margin."""


def draw_normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Standard normal numbers, float32, on the CPU: the same stream for every device and precision."""
    return torch.randn(shape, generator=generator)


def draw_lambda(generator: Generator) -> float:
    """A lambda uniform in (-1, 1), as for `redraw`."""
    return float(torch.rand((), generator=generator)) * 2 - 1


def inverse_box_cox(normal: Tensor, lam: float) -> Tensor:
    """exp(z) for lambda 0, else max(0, 1 + lambda z) to the power 1 / lambda; infinite where that base is 0 and
    lambda negative."""
    return normal.exp() if lam == 0 else (1 + lam * normal).clamp(min=0) ** (1 / lam)


def derivatives(margins: Tensor, normal: Tensor, lam: float = 0.0) -> Tensor:
    """A random phi' at each of `margins` (..., B), from standard normal numbers of the same shape.

    Along the last axis: negative, never decreasing in the margin, at least -1 - FLOOR, and no more than
    1 / margin in size (plus FLOOR) beyond margin 1. In the type of the margins; ordered in float32 at least,
    because bfloat16 would tie them.
    """
    wide = margins.detach().to(torch.promote_types(margins.dtype, torch.float32))
    sizes = inverse_box_cox(normal.to(wide), lam).clamp(max=1)
    ordered = (-sizes).sort(dim=-1).values
    places = wide.argsort(dim=-1, stable=True)
    matched = torch.empty_like(wide).scatter_(-1, places, ordered)
    faded = torch.where(wide > TAIL_FROM, matched / wide.clamp(min=TAIL_FROM), matched)
    return (faded - FLOOR).to(margins.dtype)
