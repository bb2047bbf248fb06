"""The forms in which a teacher's word comes: hidden states with their head, here or at other positions, top-k tokens,
sampled tokens.

Each has `take`, some of its positions, and `rows`, those of a slice as the loss reads them. Rows give the pair of
distributions over classes (all tokens; or the teacher's tokens and one class for the others) and spread a slope over
these classes back over the vocabulary. All temperatures are applied here.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tasks.llm_distillation.losses.divergences import FLOOR, Pair
from tasks.llm_distillation.losses.precision import logits_of


class Rows(Protocol):
    """A teacher at R positions."""

    def block(self, part: slice) -> "Rows": ...
    def pair(self, log_q: Tensor, q: Tensor, temperature: float) -> Pair:
        """Both distributions over the same classes (R, C) from the student's over the vocabulary (R, V)."""
        ...

    def spread(self, slope: Tensor, pair: Pair, q: Tensor) -> Tensor:
        """Slopes by the classes' log q (R, C) as slopes by the vocabulary's (R, V)."""
        ...


class Teacher(Protocol):
    """A teacher at N positions; frozen."""

    vocabulary: int | None
    """Tokens it knows; none where it is known by some tokens only."""

    def take(self, positions: Tensor) -> "Teacher": ...
    def rows(self, part: slice, vocabulary: int) -> Rows: ...


@dataclass(frozen=True)
class DenseTeacher:
    """Last hidden states (N, d_t) and the output head (V_t, d_t); logits are made chunk by chunk."""

    hidden: Tensor
    head: Tensor

    @property
    def vocabulary(self) -> int:
        return len(self.head)

    def take(self, positions: Tensor) -> "DenseTeacher":
        return DenseTeacher(self.hidden[positions], self.head)

    def rows(self, part: slice, vocabulary: int) -> "DenseRows":
        return DenseRows(logits_of(self.hidden[part], self.head[:vocabulary]))


class DenseRows(NamedTuple):
    logits: Tensor

    def block(self, part: slice) -> "DenseRows":
        return DenseRows(self.logits[part])

    def pair(self, log_q: Tensor, q: Tensor, temperature: float) -> Pair:
        z = scaled(self.logits, temperature)
        return Pair(torch.log_softmax(z, -1), log_q, torch.softmax(z, -1), q)

    def spread(self, slope: Tensor, pair: Pair, q: Tensor) -> Tensor:
        return slope


@dataclass(frozen=True)
class AlignedTeacher:
    """A teacher with another tokenizer: hidden states (M, d_t) of its own M positions, the head (V_t, d_t) of its own
    tokens, and for each of N positions of the student its partner among the M, -1 for none. For uld alone."""

    hidden: Tensor
    head: Tensor
    places: Tensor

    @property
    def vocabulary(self) -> int:
        return len(self.head)

    def take(self, positions: Tensor) -> "AlignedTeacher":
        return AlignedTeacher(self.hidden, self.head, self.places[positions])

    def rows(self, part: slice, vocabulary: int) -> "AlignedRows":
        places = self.places[part]
        paired = places >= 0
        return AlignedRows(logits_of(self.hidden[places[paired]], self.head[:vocabulary]), paired)


class AlignedRows(NamedTuple):
    """Logits (P, V_t) at those P of R positions that are `paired` (R,); the others have no part in a divergence."""

    logits: Tensor
    paired: Tensor

    def block(self, part: slice) -> "AlignedRows":
        first, last = (int(self.paired[:place].sum()) for place in (part.start, part.stop))
        return AlignedRows(self.logits[first:last], self.paired[part])

    def pair(self, log_q: Tensor, q: Tensor, temperature: float) -> Pair:
        log_p = torch.log_softmax(scaled(self.logits, temperature), -1)
        return Pair(log_p, log_q[self.paired], log_p.exp(), q[self.paired])

    def spread(self, slope: Tensor, pair: Pair, q: Tensor) -> Tensor:
        whole = torch.zeros_like(q)
        whole[self.paired] = slope
        return whole


@dataclass(frozen=True)
class TopKTeacher:
    """The k likeliest tokens of each position, ids (N, k) and log-probabilities (N, k), and the mass of all others.

    `tail` (N,): none computes it as 1 less the sum. A place with log-probability -inf is empty. Ids of a position
    differ from one another, empty places aside. With a temperature t, p^(1/t) is scaled to sum to 1, the tail as
    if it were one token: exact for what is known, a guess for the tail.
    """

    ids: Tensor
    log_probs: Tensor
    tail: Tensor | None = None

    vocabulary = None

    def take(self, positions: Tensor) -> "TopKTeacher":
        tail = None if self.tail is None else self.tail[positions]
        return TopKTeacher(self.ids[positions], self.log_probs[positions], tail)

    def without_tail(self) -> "TopKTeacher":
        """Says that the k tokens are all there are: they are scaled to sum to 1."""
        return TopKTeacher(self.ids, self.log_probs, torch.zeros_like(self.log_probs[:, 0]))

    def rows(self, part: slice, vocabulary: int) -> "SparseRows":
        ids, log_p = known_ids(self.ids[part], vocabulary), self.log_probs[part]
        log_p = log_p.to(torch.promote_types(log_p.dtype, torch.float32))
        if self.tail is not None:
            tail = self.tail[part].to(log_p.dtype)
        else:  # nothing is left of a whole vocabulary, not even a rounding error
            tail = (1 - log_p.exp().sum(-1)) * (log_p.shape[-1] < vocabulary)
        log_tail = tail.clamp_min(torch.finfo(log_p.dtype).tiny).log()
        return SparseRows(ids, torch.cat([log_p, log_tail[:, None]], -1), None)


@dataclass(frozen=True)
class SampledTeacher:
    """Tokens drawn from the teacher's distribution at temperature 1: ids, how often each, log-probabilities (N, k).

    Value and gradient of the forward KL are unbiased: the mean over draws of log p - log q (sampling KD, ACL 2025).
    No other divergence is defined by them. A place with count 0 is empty. The log-probabilities are the teacher's
    own; where they are unknown give zeros, and the value is the cross-entropy, which differs by a constant.
    """

    ids: Tensor
    counts: Tensor
    log_probs: Tensor

    vocabulary = None

    def take(self, positions: Tensor) -> "SampledTeacher":
        return SampledTeacher(self.ids[positions], self.counts[positions], self.log_probs[positions])

    def rows(self, part: slice, vocabulary: int) -> "SparseRows":
        ids = known_ids(self.ids[part], vocabulary)
        log_p, counts = self.log_probs[part], self.counts[part]
        log_p = log_p.to(torch.promote_types(log_p.dtype, torch.float32))
        share = counts.to(log_p.dtype) / counts.sum(-1, keepdim=True)
        log_p = log_p.masked_fill(counts == 0, FLOOR)
        none = log_p.new_zeros(len(log_p), 1)
        classes = torch.cat([log_p, none + FLOOR], -1)
        return SparseRows(ids, classes, torch.cat([share, none], -1))


class SparseRows(NamedTuple):
    """ids (R, k); log-probabilities (R, k + 1), the last of all other tokens; their weights where not exp of it."""

    ids: Tensor
    log_probs: Tensor
    shares: Tensor | None

    def block(self, part: slice) -> "SparseRows":
        shares = None if self.shares is None else self.shares[part]
        return SparseRows(self.ids[part], self.log_probs[part], shares)

    def pair(self, log_q: Tensor, q: Tensor, temperature: float) -> Pair:
        log_p = self.log_probs
        if self.shares is None:
            log_p = torch.log_softmax(scaled(log_p, temperature), -1).clamp_min(FLOOR)
        known = self._known(q)
        chosen = log_q.gather(-1, self.ids).masked_fill(self._empty(), FLOOR)
        others = q.scatter_add(-1, self.ids, -known).sum(-1, keepdim=True)
        log_others = others.clamp_min(torch.finfo(q.dtype).tiny).log()
        p = log_p.exp() if self.shares is None else self.shares
        return Pair(log_p, torch.cat([chosen, log_others], -1), p, torch.cat([known, others], -1))

    def spread(self, slope: Tensor, pair: Pair, q: Tensor) -> Tensor:
        mass = pair.q[:, -1:]
        others = torch.where(mass > 0, slope[:, -1:] / mass, 0)
        return (q * others).scatter_add_(-1, self.ids, slope[:, :-1] - self._known(q) * others)

    def _empty(self) -> Tensor:
        return self.log_probs[:, :-1] <= FLOOR

    def _known(self, q: Tensor) -> Tensor:
        """The student's probability of each of the k tokens; 0 in empty places."""
        return q.gather(-1, self.ids).masked_fill(self._empty(), 0)


def scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits / temperature


def known_ids(ids: Tensor, vocabulary: int) -> Tensor:
    """As int64; ValueError where one is not of the vocabulary."""
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise ValueError(
            f"the cached teacher's tokens reach from {int(ids.min())} to {int(ids.max())}; expected 0 to "
            f"{vocabulary - 1}: is it of another tokenizer?"
        )
    return ids.long()
