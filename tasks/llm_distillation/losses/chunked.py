"""From hidden states to a loss in chunks, the gradient computed on the way: no whole logits tensor.

A chunk of positions goes through the student's head, a function of the chunk's logits gives sums and leaves their
gradient in the logits' place, and this goes back to the hidden states and the head at once. The backward pass only
hands on what is there (the idea of Liger's fused linear losses).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tasks.llm_distillation.losses.precision import logits_of, wide

CHUNK_MB = {"cpu": 128, "cuda": 1024}
"""Memory of a chunk's logits, of student and teacher together, by device, in MiB."""
BLOCK_ELEMENTS = {"cpu": 2**18}
"""Logits that are worked on together, so that what is made of them stays in the cache; elsewhere a whole chunk."""

RowLoss = Callable[[Tensor, slice], dict[str, Tensor]]
"""Named sums over a slice of the positions from its logits (R, V); leaves in them the gradient of `TOTAL`."""
TOTAL = "total"


class Collected(NamedTuple):
    """A parameter of a RowLoss, and the tensor to which that adds the parameter's gradient."""

    parameter: Tensor
    gradient: Tensor


def chunked(
    hidden: Tensor, head: Tensor, rows: RowLoss, plan: Sequence[slice], collected: Sequence[Collected] = ()
) -> dict[str, Tensor]:
    """The sums of `rows` over all slices of `plan`, which may overlap; `TOTAL` is differentiable, the rest is not.

    hidden (N, d) and head (V, d) of one type; sums and the head's gradient are kept in at least float32. The
    gradient is handed on once: `backward` a second time is refused, as torch does without retain_graph.
    """
    if hidden.dtype != head.dtype:
        raise ValueError(
            f"hidden states are {hidden.dtype}, the head is {head.dtype}; expected one type: cast one of them"
        )
    wanted = torch.is_grad_enabled()
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        by_hidden = torch.zeros_like(hidden) if wanted and hidden.requires_grad else None
        by_head = None
        if wanted and head.requires_grad:
            by_head = torch.zeros_like(head, dtype=wide(head.dtype))
        sums: dict[str, Tensor] = {}
        for part in plan:
            add(sums, _chunk(hidden, head, rows, part, by_hidden, by_head))
        sums.setdefault(TOTAL, hidden.new_zeros((), dtype=wide(hidden.dtype)))
    inputs = [hidden, head, *(one.parameter for one in collected)]
    gradients = [by_hidden, by_head, *(one.gradient for one in collected)]
    sums[TOTAL] = _Known.apply(sums[TOTAL], gradients, *inputs)
    return sums


def _chunk(
    hidden: Tensor, head: Tensor, rows: RowLoss, part: slice, by_hidden: Tensor | None, by_head: Tensor | None
) -> dict[str, Tensor]:
    """The sums of one slice; adds to the gradients."""
    chunk = hidden[part]
    logits = logits_of(chunk, head)
    sums = rows(logits, part)
    gradient = logits.to(head.dtype)
    if by_hidden is not None:
        by_hidden[part] += gradient @ head
    if by_head is not None:
        if by_head.dtype == head.dtype:
            by_head.addmm_(gradient.T, chunk)
        else:
            by_head += gradient.T @ chunk
    return sums


class _Known(torch.autograd.Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor | None], *inputs: Tensor) -> Tensor:
        ctx.gradients, ctx.types = gradients, [one.dtype for one in inputs]
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise ValueError("this loss went backward before; add losses up, or compute it anew")
        gradients, ctx.gradients = ctx.gradients, None
        handed = [one if one is None else one.mul_(outer.to(one.dtype)) for one in gradients]
        return (
            None,
            None,
            *(one if one is None else one.to(kind) for one, kind in zip(handed, ctx.types, strict=True)),
        )


def add(sums: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    """Adds up by name, in place."""
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value


def chunk_rows(head: Tensor, tensors: int, budget_mb: float | None = None) -> int:
    """Positions of a chunk so that `tensors` logits tensors of it fit in the budget, in MiB; at least 1."""
    budget = CHUNK_MB.get(head.device.type, CHUNK_MB["cpu"]) if budget_mb is None else budget_mb
    row = len(head) * wide(head.dtype).itemsize * tensors
    return max(1, int(budget * 2**20) // row)


def slices(size: int, step: int) -> list[slice]:
    """0 .. size in steps."""
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def blocks(logits: Tensor) -> list[slice]:
    """Slices of the rows of logits (R, V) that are best worked on together on their device."""
    elements = BLOCK_ELEMENTS.get(logits.device.type, logits.numel())
    return slices(len(logits), max(1, elements // logits.shape[-1]))
