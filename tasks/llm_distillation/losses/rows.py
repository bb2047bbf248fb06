"""The mixture of losses at a few positions at once: its sums, and its gradient by the student's logits."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tasks.llm_distillation.losses.divergences import DIVERGENCES, to_logits
from tasks.llm_distillation.losses.mixture import Divergence, Mixture
from tasks.llm_distillation.losses.teachers import Rows, scaled

CROSS_ENTROPY = "cross_entropy"
Sums = dict[str, Tensor]


def mixture_rows(
    logits: Tensor, teacher: Rows | None, labels: Tensor, mixture: Mixture, kd_weight: float
) -> Sums:
    """Each term's plain sum over R positions; leaves the gradient of the weighted sum in `logits` (R, V).

    Terms of one temperature share the softmax and the way back through it.
    """
    sums: Sums = {}
    found = []
    for temperature, terms in by_temperature(mixture).items():
        z = scaled(logits, temperature)
        log_q, q = torch.log_softmax(z, -1), torch.softmax(z, -1)  # faster than exp on a CPU
        slope = _divergences(log_q, q, teacher, terms, kd_weight, sums)
        if temperature == 1 and mixture.cross_entropy:
            slope = torch.zeros_like(q) if slope is None else slope
            sums[CROSS_ENTROPY] = _cross_entropy(log_q, labels, mixture.cross_entropy, slope)
        assert slope is not None
        found.append((slope, q, temperature))
    if not found:
        logits.zero_()
        return sums
    to_logits(*found[0], out=logits)
    for slope, q, temperature in found[1:]:
        logits += to_logits(slope, q, temperature)
    return sums


def by_temperature(mixture: Mixture) -> Mapping[float, list[Divergence]]:
    """The divergences of each temperature; the cross-entropy is one of 1."""
    groups: dict[float, list[Divergence]] = {1.0: []} if mixture.cross_entropy else {}
    for term in mixture.divergences:
        groups.setdefault(term.temperature, []).append(term)
    return groups


def _divergences(
    log_q: Tensor, q: Tensor, teacher: Rows | None, terms: list[Divergence], kd_weight: float, sums: Sums
) -> Tensor | None:
    """The weighted sum of the terms' slopes by log q (R, V), none without terms; fills in their sums."""
    if not terms:
        return None
    assert teacher is not None
    pair = teacher.pair(log_q, q, terms[0].temperature)
    slopes = None
    for term in terms:
        value, slope = DIVERGENCES[term.name](pair, term, kd_weight * term.weight)
        sums[term.name] = value.sum()
        slopes = slope if slopes is None else slopes.add_(slope)
    assert slopes is not None
    return teacher.spread(slopes, pair, q)


def _cross_entropy(log_q: Tensor, labels: Tensor, weight: float, slope: Tensor) -> Tensor:
    """Its sum; its slope is added to `slope` (R, V)."""
    places = labels.unsqueeze(-1)
    slope.scatter_add_(-1, places, slope.new_full(places.shape, -weight))
    return -log_q.gather(-1, places).sum()
