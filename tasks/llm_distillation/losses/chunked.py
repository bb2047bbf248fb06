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

CHUNK_MB = {"cpu": 336, "cuda": 1024}
"""Memory of a chunk's logits, of student and teacher together, by device, in MiB."""
BLOCK_ELEMENTS = 2**17
"""Logits that one thread of a CPU works on together, so that what is made of them stays in the cache."""
SHARED_BLOCK_ELEMENTS = 2**19
"""The same for several threads, which wait for each other after every operation: fewer and longer ones."""

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
    gradients = _Gradients(hidden, head)
    sums = {TOTAL: hidden.new_zeros((), dtype=wide(hidden.dtype))}
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        for part in plan:
            add(sums, _chunk(gradients, rows, part))
    inputs = [hidden, head, *(one.parameter for one in collected)]
    known = [*gradients.whole(), *(one.gradient for one in collected)]
    sums[TOTAL] = _Known.apply(sums[TOTAL], known, *inputs)
    return sums


class _Gradients:
    """By the hidden states and the head, of the chunks so far; only where they are asked for."""

    def __init__(self, hidden: Tensor, head: Tensor) -> None:
        self.hidden, self.head = hidden, head
        wanted = torch.is_grad_enabled()
        self.by_hidden = torch.zeros_like(hidden) if wanted and hidden.requires_grad else None
        self.by_head: Tensor | None = None
        self.of_head = wanted and head.requires_grad

    def add(self, part: slice, logits: Tensor) -> None:
        """`logits` is the gradient by the logits of a slice, in the head's type."""
        if self.by_hidden is not None:
            self.by_hidden[part] += logits @ self.head
        if self.of_head and self.by_head is None:
            self.by_head = (logits.T @ self.hidden[part]).to(wide(logits.dtype))
        elif self.by_head is not None and self.by_head.dtype == logits.dtype:
            self.by_head.addmm_(logits.T, self.hidden[part])
        elif self.by_head is not None:
            self.by_head += logits.T @ self.hidden[part]

    def whole(self) -> tuple[Tensor | None, Tensor | None]:
        """Zeros for the head where there was no chunk, as ranks that share it wait for each other's."""
        if self.of_head and self.by_head is None:
            self.by_head = torch.zeros_like(self.head)
        return self.by_hidden, self.by_head


def _chunk(gradients: _Gradients, rows: RowLoss, part: slice) -> dict[str, Tensor]:
    """The sums of one slice; a function of its own, so that its logits are gone before the next's are made."""
    logits = logits_of(gradients.hidden[part], gradients.head)
    sums = rows(logits, part)
    gradients.add(part, logits.to(gradients.head.dtype))
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


def chunk_plan(positions: int, row_bytes: int, device: torch.device, budget_mb: float | None) -> list[slice]:
    """Slices of equal size (the last may be shorter) whose logits fit in the budget, in MiB; at least one row each.

    Chunks of less than some hundred rows make slow matrix products: do not be too mean.
    """
    budget = CHUNK_MB.get(device.type, CHUNK_MB["cpu"]) if budget_mb is None else budget_mb
    most = max(1, int(budget * 2**20) // row_bytes)
    chunks = max(1, -(-positions // most))
    return slices(positions, max(1, -(-positions // chunks)))


def slices(size: int, step: int) -> list[slice]:
    """0 .. size in steps."""
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def blocks(logits: Tensor) -> list[slice]:
    """Slices of the rows of logits (R, V) that are best worked on together on their device."""
    if logits.device.type != "cpu":
        return [slice(0, len(logits))]
    threads = torch.get_num_threads()  # a softmax over the last axis gives each thread whole rows
    elements = BLOCK_ELEMENTS if threads == 1 else SHARED_BLOCK_ELEMENTS
    return slices(len(logits), max(threads, elements // logits.shape[-1]))
