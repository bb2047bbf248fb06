"""Divergences between next-token distributions, each with its derivative in closed form.

One table maps the names to them. p is the teacher's distribution, q the student's, both over the last axis, at
the term's temperature. Every function returns the value at each position and its slope d value / d log q with all
log q taken as independent; `to_logits` turns a slope into the gradient by the student's logits. Values may also be
differentiated by autograd: both ways agree, and the tests hold them to it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.llm_distillation.losses.mixture import Divergence

FLOOR = -1e30
"""Stands for log 0, so that 0 * log 0 is 0."""


class Pair(NamedTuple):
    """Teacher p and student q over the same classes (..., C), and their logarithms."""

    log_p: Tensor
    log_q: Tensor
    p: Tensor
    q: Tensor


Found = tuple[Tensor, Tensor]
"""Value (...), slope (..., C)."""


def pair_of(log_p: Tensor, log_q: Tensor) -> Pair:
    """Of log-probabilities (..., C); -inf is taken as a class without mass."""
    log_p, log_q = log_p.clamp_min(FLOOR), log_q.clamp_min(FLOOR)
    return Pair(log_p, log_q, log_p.exp(), log_q.exp())


def divergence(term: Divergence, log_p: Tensor, log_q: Tensor) -> Tensor:
    """The term's value at each position (...) from log-probabilities (..., C); differentiable, weight left out."""
    return DIVERGENCES[term.name](pair_of(log_p, log_q), term)[0]


def to_logits(slope: Tensor, q: Tensor, temperature: float) -> Tensor:
    """The gradient by logits z of which log q = log_softmax(z / temperature)."""
    return (slope - q * slope.sum(-1, keepdim=True)).div_(temperature)


def forward_kl(pair: Pair, term: Divergence) -> Found:
    """KL(p || q)."""
    log_p, log_q, p, _ = pair
    return (p * (log_p - log_q)).sum(-1), -p


def reverse_kl(pair: Pair, term: Divergence) -> Found:
    """KL(q || p)."""
    log_p, log_q, _, q = pair
    ratio = log_q - log_p
    value = (q * ratio).sum(-1)
    return value, q * (ratio + 1)


def jsd(pair: Pair, term: Divergence) -> Found:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (GKD, Agarwal et al. 2024).

    The mixture is one of probabilities. As in TRL beta 0 is exactly KL(p || q) and beta 1 exactly KL(q || p),
    although the divergence itself goes to 0 there; divided by beta (1 - beta) it goes to just these two.
    """
    beta = term.beta
    if beta in (0.0, 1.0):
        return (reverse_kl if beta else forward_kl)(pair, term)
    log_p, log_q, p, q = pair
    log_m = mixture_log(beta, p, q)
    student = q * (log_q - log_m)
    value = beta * (p * (log_p - log_m)).sum(-1) + (1 - beta) * student.sum(-1)
    scale = 1 / (beta * (1 - beta)) if term.normalised else 1.0
    return value * scale, student * ((1 - beta) * scale)


def skew_kl(pair: Pair, term: Divergence) -> Found:
    """KL(p || lam p + (1 - lam) q) (DistiLLM, Ko et al. 2024)."""
    log_p, _, p, q = pair
    log_m = mixture_log(term.share, p, q)
    value = (p * (log_p - log_m)).sum(-1)
    return value, p * q * (-log_m).exp() * (term.share - 1)


def skew_reverse_kl(pair: Pair, term: Divergence) -> Found:
    """KL(q || (1 - lam) p + lam q) (DistiLLM, Ko et al. 2024)."""
    _, log_q, p, q = pair
    log_m = mixture_log(1 - term.share, p, q)
    ratio = log_q - log_m
    return (q * ratio).sum(-1), q * (ratio + 1 - term.share * q * (-log_m).exp())


def symmetric_kl(pair: Pair, term: Divergence) -> Found:
    """(1 - lam) KL(p || q) + lam KL(q || p) (DistiLLM's code)."""
    return blend(1 - term.share, term.share, pair, term)


def tvd(pair: Pair, term: Divergence) -> Found:
    """Total variation distance, sum |p - q| / 2."""
    gap = pair.q - pair.p
    return gap.abs().sum(-1) / 2, pair.q * gap.sign() / 2


def akl(pair: Pair, term: Divergence) -> Found:
    """Adaptive KL (Wu et al. 2024): forward and reverse KL, weighed by |p - q| over the teacher's head and tail.

    The tail is the least likely classes, as long as their mass together is less than alpha. Weights are not
    differentiated.
    """
    p, q = pair.p.detach(), pair.q.detach()
    ascending, order = p.sort(-1)
    in_tail = ascending.cumsum(-1) < term.alpha
    gap = (ascending - q.gather(-1, order)).abs_()
    tail = (gap * in_tail).sum(-1)
    tiny = torch.finfo(p.dtype).tiny
    share = tail / gap.sum(-1).clamp_min(tiny)
    return blend(1 - share, share, pair, term)


def uld(pair: Pair, term: Divergence) -> Found:
    """Universal logit distillation (Boizard et al. 2024): sum |p_(k) - q_(k)| over both sorted downwards.

    The only one for two tokenizers: p (..., V_t) and q (..., V_s) may differ in size, the shorter is padded
    with zeros.
    """
    longest = max(pair.p.shape[-1], pair.q.shape[-1])
    ranked, order = pair.q.sort(-1, descending=True)
    gap = padded(ranked, longest) - padded(pair.p.sort(-1, descending=True).values, longest)
    signs = gap[..., : pair.q.shape[-1]].sign()
    slope = torch.empty_like(pair.q).scatter_(-1, order, ranked * signs)
    return gap.abs().sum(-1), slope


def mixture_log(share: float, p: Tensor, q: Tensor) -> Tensor:
    """log(share p + (1 - share) q); finite also where neither has mass."""
    mixed = share * p + (1 - share) * q
    return mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()


def blend(forward: Tensor | float, reverse: Tensor | float, pair: Pair, term: Divergence) -> Found:
    """Forward and reverse KL with these weights, numbers or one for each position (...)."""
    (value, slope), (value_back, slope_back) = forward_kl(pair, term), reverse_kl(pair, term)
    return forward * value + reverse * value_back, _last(forward) * slope + _last(reverse) * slope_back


def _last(weight: Tensor | float) -> Tensor | float:
    return weight.unsqueeze(-1) if isinstance(weight, Tensor) else weight


def padded(values: Tensor, size: int) -> Tensor:
    """With zeros up to `size` along the last axis."""
    return torch.nn.functional.pad(values, (0, size - values.shape[-1]))


DIVERGENCES: Mapping[str, Callable[[Pair, Divergence], Found]] = MappingProxyType(
    {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jsd": jsd,
        "skew_kl": skew_kl,
        "skew_reverse_kl": skew_reverse_kl,
        "symmetric_kl": symmetric_kl,
        "tvd": tvd,
        "akl": akl,
        "uld": uld,
    }
)
