"""The forms in which a teacher's word at a position is kept: its k likeliest tokens, drawn tokens, or all of it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from orchestrator.task import Settings
from tasks.llm_distillation.labels.label_loss import Truth, kept, spread
from tasks.llm_distillation.labels.level_scale import Floats, from_levels, to_levels
from tasks.llm_distillation.labels.token_codec import Sets
from tasks.llm_distillation.losses.teachers import SampledTeacher, TopKTeacher
from tasks.model_distillation import philox

ROWS = 16
"""Positions that are looked at at once, few enough to stay in a processor's cache."""


class TokenLabels(Settings):
    """How the teacher's distribution over the next token is kept; at temperature 1, losses apply theirs."""

    form: Literal["top_k", "sampled", "full"] = "top_k"
    """The k likeliest tokens with the mass of all others; tokens drawn from the teacher with their counts (unbiased,
    Anshumann et al., ACL 2025); or every log-probability in float16."""
    k: int = Field(default=128, ge=1, le=1024)
    """top_k: tokens a position."""
    step: float = Field(default=0.0065, ge=0.0005, le=1.0)
    """top_k: coarseness of the log-probabilities; each token loses about step^2 / 24 nats of KL divergence."""
    samples: int = Field(default=50, ge=1, le=1024)
    """sampled: draws a position."""

    @property
    def width(self) -> int:
        """Most tokens that a position has, of packed forms."""
        return self.k if self.form == "top_k" else self.samples


@dataclass(frozen=True)
class Taken:
    """P positions of one sequence: sets to be packed, or float16 rows (P,V); and what is lost, in nats."""

    sets: Sets | None
    rows: NDArray[np.float16] | None
    lost: tuple[float, float] | None
    """The sums of both parts of the divergence (`label_loss`); of drawn tokens, which are unbiased, none."""

    def __len__(self) -> int:
        return len(self.rows if self.sets is None else self.sets)  # type: ignore[arg-type]


def take(logits: Tensor, labels: TokenLabels, uniforms: NDArray[np.float64]) -> Taken:
    """From logits (P,V), float32; `uniforms` (P, samples) of [0,1) are what tokens are drawn with."""
    if labels.form == "top_k":
        return _top_k(logits, labels)
    logprobs = torch.log_softmax(logits, 1)
    if labels.form == "sampled":
        return Taken(_sampled(logprobs, uniforms), None, None)
    rows = logprobs.clamp_min(torch.finfo(torch.float16).min).half().cpu().numpy()
    truth = _truth(logits, logits)
    return Taken(None, rows, _lost(truth, rows.astype(np.float64), np.full(len(rows), -np.inf)))


def uniforms(
    seed: int, sequence: int, positions: NDArray[np.int64], labels: TokenLabels
) -> NDArray[np.float64]:
    """(P, samples): the draws at these positions of a sequence; they depend on nothing else. (P,0) of other forms."""
    if labels.form != "sampled":
        return np.zeros((len(positions), 0))
    turns = -(-labels.samples // 4)
    place, turn = np.repeat(positions, turns), np.tile(np.arange(turns), len(positions))
    drawn = philox.uniforms(seed, np.full(len(place), sequence), place, turn)
    return drawn.reshape(len(positions), turns * 4)[:, : labels.samples]


def teacher_of(sets: Sets, labels: TokenLabels) -> TopKTeacher | SampledTeacher:
    """What the losses read, of sets that were packed and read back."""
    ids = torch.from_numpy(np.ascontiguousarray(sets.ids)).long()
    if labels.form == "sampled":
        counts = torch.from_numpy((sets.levels + 1) * sets.valid)
        return SampledTeacher(ids, counts, torch.zeros(counts.shape))
    logprobs = torch.from_numpy(from_levels(np.ascontiguousarray(sets.levels), labels.step))
    tail = torch.from_numpy(sets.extra.view(np.float16).astype(np.float32))[:, None]
    every = torch.log_softmax(torch.cat([logprobs, tail], 1), 1)
    return TopKTeacher(ids, every[:, :-1], every[:, -1].exp())


def _truth(chosen: Tensor, logits: Tensor) -> Truth:
    """Of tokens with the logits `chosen` (P,k), among all."""
    norms, negentropies = [], []
    for rows in logits.split(ROWS):
        most = rows.amax(1, keepdim=True)
        weights = (rows - most).exp()
        total = weights.sum(1)
        norms.append(most[:, 0] + total.log())
        negentropies.append((weights * rows).sum(1) / total - norms[-1])
    norm, negentropy = (torch.cat(own).double().cpu().numpy() for own in (norms, negentropies))
    return Truth(chosen.double().cpu().numpy() - norm[:, None], negentropy, logits.shape[1])


def _top_k(logits: Tensor, labels: TokenLabels) -> Taken:
    chosen, ids = logits.topk(labels.k, dim=1)
    truth = _truth(chosen, logits)
    with np.errstate(divide="ignore"):
        tail = np.log(truth.tail).astype(np.float16)
    levels = to_levels(truth.logprobs, labels.step)
    count = np.full(len(ids), labels.k, np.int32)
    sets = Sets(ids.cpu().numpy().astype(np.int32), levels, count, tail.view(np.uint16))
    read = from_levels(levels, labels.step).astype(np.float64)
    return Taken(sets, None, _lost(truth, read, tail.astype(np.float64)))


def _lost(truth: Truth, logprobs: Floats, log_tail: Floats) -> tuple[float, float]:
    return float(kept(truth, logprobs, log_tail).sum()), float(spread(truth).sum())


def _sampled(logprobs: Tensor, uniforms: NDArray[np.float64]) -> Sets:
    """Which tokens were drawn, and how often less one."""
    ends = logprobs.double().exp().cumsum(1)
    points = torch.from_numpy(uniforms).to(ends.device) * ends[:, -1:]
    drawn = torch.searchsorted(ends, points, right=True).clamp_max(logprobs.shape[1] - 1)
    tokens = drawn.sort(1).values.cpu().numpy()
    new = np.diff(tokens, axis=1, prepend=-1) != 0
    place, rows = new.cumsum(1) - 1, np.arange(len(tokens))[:, None]
    ids, counts = np.zeros((2, *tokens.shape), np.int32)
    ids[rows, place] = tokens
    np.add.at(counts, (rows, place), 1)
    found = new.sum(1).astype(np.int32)
    return Sets(ids, np.maximum(counts - 1, 0), found, np.zeros(len(ids), np.uint16))
