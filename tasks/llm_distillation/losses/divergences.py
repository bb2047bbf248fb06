"""Divergences between next-token distributions, each with its derivative in closed form.

One table maps the names to them. p is the teacher's distribution, q the student's, both over the last axis, at
the term's temperature. Every function returns the value at each position and its slope d value / d log q, with all
log q taken as independent, times `scale`; `to_logits` turns a slope into the gradient by the student's logits.
Values may also be differentiated by autograd: both ways agree, and the tests hold them to it.
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
Weight = Tensor | float
"""A number, or one for each position (...)."""


def pair_of(log_p: Tensor, log_q: Tensor) -> Pair:
    """Of log-probabilities (..., C); -inf is taken as a class without mass."""
    log_p, log_q = log_p.clamp_min(FLOOR), log_q.clamp_min(FLOOR)
    return Pair(log_p, log_q, log_p.exp(), log_q.exp())


def divergence(term: Divergence, log_p: Tensor, log_q: Tensor) -> Tensor:
    """The term's value at each position (...) from log-probabilities (..., C); differentiable, weight left out."""
    return DIVERGENCES[term.name](pair_of(log_p, log_q), term, 1.0)[0]


def to_logits(slope: Tensor, q: Tensor, temperature: float, out: Tensor | None = None) -> Tensor:
    """The gradient by logits z of which log q = log_softmax(z / temperature); `out` may be what it is written to."""
    gradient = torch.addcmul(slope, q, slope.sum(-1, keepdim=True), value=-1, out=out)
    return gradient if temperature == 1 else gradient.div_(temperature)


def forward_kl(pair: Pair, term: Divergence, scale: float) -> Found:
    """KL(p || q)."""
    log_p, log_q, p, _ = pair
    return (p * (log_p - log_q)).sum(-1), p * -scale


def reverse_kl(pair: Pair, term: Divergence, scale: float) -> Found:
    """KL(q || p)."""
    log_p, log_q, _, q = pair
    weighted = q * (log_q - log_p)
    return weighted.sum(-1), (weighted + q) * scale


def jsd(pair: Pair, term: Divergence, scale: float) -> Found:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (GKD, Agarwal et al. 2024).

    The mixture is one of probabilities. As in TRL beta 0 is exactly KL(p || q) and beta 1 exactly KL(q || p),
    although the divergence itself goes to 0 there; divided by beta (1 - beta) it goes to just these two.
    """
    beta = term.beta
    if beta in (0.0, 1.0):
        return (reverse_kl if beta else forward_kl)(pair, term, scale)
    log_p, log_q, p, q = pair
    log_m = mixture(beta, p, q).log()
    student = q * (log_q - log_m)
    norm = 1 / (beta * (1 - beta)) if term.normalised else 1.0
    value = beta * (p * (log_p - log_m)).sum(-1) + (1 - beta) * student.sum(-1)
    return value * norm, student * ((1 - beta) * norm * scale)


def skew_kl(pair: Pair, term: Divergence, scale: float) -> Found:
    """KL(p || lam p + (1 - lam) q) (DistiLLM, Ko et al. 2024)."""
    log_p, _, p, q = pair
    mixed = mixture(term.share, p, q)
    return (p * (log_p - mixed.log())).sum(-1), p * q / mixed * ((term.share - 1) * scale)


def skew_reverse_kl(pair: Pair, term: Divergence, scale: float) -> Found:
    """KL(q || (1 - lam) p + lam q) (DistiLLM, Ko et al. 2024)."""
    _, log_q, p, q = pair
    mixed = mixture(1 - term.share, p, q)
    weighted = q * (log_q - mixed.log())
    return weighted.sum(-1), (weighted + q - q * q / mixed * term.share) * scale


def symmetric_kl(pair: Pair, term: Divergence, scale: float) -> Found:
    """(1 - lam) KL(p || q) + lam KL(q || p) (as DistiLLM's code has it)."""
    return blend(1 - term.share, term.share, pair, term, scale)


def tvd(pair: Pair, term: Divergence, scale: float) -> Found:
    """Total variation distance, sum |p - q| / 2."""
    gap = pair.q - pair.p
    return gap.abs().sum(-1) / 2, pair.q * gap.sign() * (scale / 2)


def akl(pair: Pair, term: Divergence, scale: float) -> Found:
    """Adaptive KL (Wu et al. 2024): forward and reverse KL, weighed by |p - q| over the teacher's head and tail.

    The tail is the least likely classes, as long as their mass together is less than alpha. Weights are not
    differentiated.
    """
    p, q = pair.p.detach(), pair.q.detach()
    ascending, order = p.sort(-1)
    gap = (ascending - q.gather(-1, order)).abs_()
    tail = (gap * (ascending.cumsum(-1) < term.alpha)).sum(-1)
    share = tail / gap.sum(-1).clamp_min(torch.finfo(p.dtype).tiny)
    return blend(1 - share, share, pair, term, scale)


def uld(pair: Pair, term: Divergence, scale: float) -> Found:
    """Universal logit distillation (Boizard et al. 2024): sum |p_(k) - q_(k)| over both sorted downwards.

    The only one for two tokenizers: p (..., V_t) and q (..., V_s) may differ in size, the shorter is padded
    with zeros.
    """
    longest = max(pair.p.shape[-1], pair.q.shape[-1])
    ranked, order = pair.q.sort(-1, descending=True)
    gap = padded(ranked, longest) - padded(pair.p.sort(-1, descending=True).values, longest)
    signs = gap[..., : pair.q.shape[-1]].sign()
    return gap.abs().sum(-1), torch.empty_like(pair.q).scatter_(-1, order, ranked * signs * scale)


def mixture(share: float, p: Tensor, q: Tensor) -> Tensor:
    """share p + (1 - share) q, kept from 0, so that it may be divided by and its logarithm is finite."""
    mixed = share * p + (1 - share) * q
    return mixed.clamp_min(torch.finfo(mixed.dtype).tiny)


def blend(forward: Weight, reverse: Weight, pair: Pair, term: Divergence, scale: float) -> Found:
    """Forward and reverse KL with these weights."""
    (value, slope), (value_back, slope_back) = forward_kl(pair, term, scale), reverse_kl(pair, term, scale)
    return forward * value + reverse * value_back, _last(forward) * slope + _last(reverse) * slope_back


def _last(weight: Weight) -> Weight:
    return weight.unsqueeze(-1) if isinstance(weight, Tensor) else weight


def padded(values: Tensor, size: int) -> Tensor:
    """With zeros up to `size` along the last axis."""
    return torch.nn.functional.pad(values, (0, size - values.shape[-1]))


Method = Callable[[Pair, Divergence, float], Found]
DIVERGENCES: Mapping[str, Method] = MappingProxyType(
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
