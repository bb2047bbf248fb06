"""Span correlation: how neighbouring positions of a span go together, the same in student and teacher.

Source: MGSR (ACL 2026). Its equations were not at hand. Known from its reviews: spans are phrases, and the correlation
of consecutive positions within one is the elementwise product of their two distributions. The distance between the
products, the mean over pairs and words as spans are reconstructions.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from orchestrator.task import Settings
from tasks.llm_distillation.losses.chunked import TOTAL, chunk_plan, chunked
from tasks.llm_distillation.losses.precision import logits_of, wide
from tasks.llm_distillation.losses.teachers import DenseTeacher, scaled

OUTSIDE = -1
"""Span number of a position in no span."""
TENSORS = 6
"""Logits-sized tensors that a chunk holds at once."""


class SpanCorrelation(Settings):
    """Settings of the span loss (MGSR); `distance` is a reconstruction."""

    weight: float = Field(default=1.0, gt=0)
    """Factor of the mean over pairs of neighbours."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of both models before the softmax."""
    distance: Literal["l2", "l1", "cosine", "kl"] = "l2"
    """Between the products of two neighbours: squared L2, L1, one less the cosine, or KL of the products scaled to
    sum to 1. Squared L2 is tiny where distributions are flat."""


class SpanSums(NamedTuple):
    """See `reduction.mean_over_tokens`, with pairs in place of tokens."""

    total: Tensor
    """The sum over pairs, times the weight; differentiable."""
    pairs: int
    """Neighbours in one span, over all spans their length less one."""


def span_loss(
    hidden: Tensor,
    head: Tensor,
    spans: Tensor,
    teacher: DenseTeacher,
    config: SpanCorrelation,
    *,
    vocabulary: int | None = None,
    budget_mb: float | None = None,
) -> SpanSums:
    """The sum over neighbours of one span; logits exist chunk by chunk, along the sequence.

    hidden (N, d), head (V, d), teacher as in `distillation_loss`. spans (N,): the number of each position's span,
    OUTSIDE where it has none; neighbours with one number are a pair, so sequences need numbers of their own.
    """
    size = len(head) if vocabulary is None else vocabulary
    linked = (spans[1:] == spans[:-1]) & (spans[1:] != OUTSIDE)
    pairs = linked.nonzero().squeeze(-1)
    positions = torch.unique(torch.cat([pairs, pairs + 1]))
    known, together = teacher.take(positions), linked[positions[:-1]] & (positions.diff() == 1)

    def rows(logits: Tensor, part: slice) -> dict[str, Tensor]:
        said = logits_of(known.hidden[part], known.head[:size])
        leaf = logits.detach().clone().requires_grad_()
        with torch.enable_grad():
            apart = correlation(leaf, said, together[part][: len(leaf) - 1], config)
            total = config.weight * apart.sum()
            logits.copy_(torch.autograd.grad(total, leaf)[0])
        return {TOTAL: total.detach()}

    row = TENSORS * size * wide(head.dtype).itemsize
    plan = overlapping(chunk_plan(len(positions), row, head.device, budget_mb), len(positions))
    sums = chunked(hidden[positions], head[:size], rows, plan)
    return SpanSums(sums[TOTAL], len(pairs))


def correlation(student: Tensor, teacher: Tensor, together: Tensor, config: SpanCorrelation) -> Tensor:
    """The distance at each pair of neighbouring rows that is `together` (R - 1,), from logits (R, V)."""
    log_p, log_q = (torch.log_softmax(scaled(one, config.temperature), -1) for one in (teacher, student))
    log_p, log_q = ((one[:-1] + one[1:])[together] for one in (log_p, log_q))
    if config.distance == "kl":
        log_p, log_q = log_p.log_softmax(-1), log_q.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    if (
        config.distance == "cosine"
    ):  # scaled to a maximum of 1, as products are too small for float32's squares
        log_p, log_q = (one - one.detach().amax(-1, keepdim=True) for one in (log_p, log_q))
        return 1 - torch.cosine_similarity(log_p.exp(), log_q.exp(), dim=-1, eps=1e-30)
    gap = log_p.exp() - log_q.exp()
    return gap.abs().sum(-1) if config.distance == "l1" else gap.square().sum(-1)


def overlapping(plan: Sequence[slice], size: int) -> list[slice]:
    """Slices that share their last row with the next one's first, so that each pair of rows is in one."""
    return [slice(part.start, min(part.stop + 1, size)) for part in plan if part.start < size - 1]


def word_spans(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The word of each token, by its number, from the tokens' character offsets; OUTSIDE for other characters.

    For where no chunker of phrases is at hand: a span is a word, split into tokens.
    """
    words = [match.span() for match in re.finditer(r"\w+", text)]
    numbers, word = [], 0
    for start, stop in offsets:
        first = start + len(text[start:stop]) - len(text[start:stop].lstrip())
        while word < len(words) and words[word][1] <= first:
            word += 1
        inside = word < len(words) and words[word][0] <= first < words[word][1] and first < stop
        numbers.append(word if inside else OUTSIDE)
    return numbers
