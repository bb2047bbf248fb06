"""What is lost between a teacher and its labels: the KL divergence of what is read back.

Defined once, for every way of packing: KL(p || q) over the whole vocabulary, in nats, where p is the teacher's
distribution and q what is read: the log-probabilities of k tokens, and the mass of all others spread evenly over
them, together scaled to sum to 1. It falls into two parts that add up:

    kept     the divergence over k + 1 classes, the k tokens and all others: what packing loses
    spread   p's mass outside the k tokens times its divergence from an even spread: what leaving tokens out loses,
             the same for every way of packing the same k
"""

from dataclasses import dataclass

import numpy as np

from tasks.llm_distillation.labels.level_scale import Floats

LEAST = 1e-300


@dataclass(frozen=True)
class Truth:
    """A teacher at N positions, as far as the loss of k tokens depends on it; natural logarithms, float64."""

    logprobs: Floats
    """(N,k): of the k tokens."""
    negentropy: Floats
    """(N,): the sum of p log p over the vocabulary."""
    vocabulary: int

    @property
    def tail(self) -> Floats:
        """(N,): the mass outside the k tokens."""
        every = self.logprobs.shape[1] == self.vocabulary
        return np.maximum(1 - np.exp(self.logprobs).sum(1), 0) * (not every)


def kept(truth: Truth, logprobs: Floats, log_tail: Floats) -> Floats:
    """(N,), see the module; `logprobs` (N,k) in the order of the truth's, `log_tail` (N,) may be -inf."""
    p, tail = np.exp(truth.logprobs), truth.tail
    norm = np.log(np.exp(logprobs).sum(1) + np.exp(log_tail))
    inside = (p * (truth.logprobs - logprobs)).sum(1)
    known = np.log(np.maximum(tail, LEAST)) - np.maximum(log_tail, np.log(LEAST))
    return inside + tail * known + norm


def spread(truth: Truth) -> Floats:
    """(N,), see the module."""
    tail, others = truth.tail, truth.vocabulary - truth.logprobs.shape[1]
    if not others:
        return np.zeros(len(tail))
    outside = truth.negentropy - (np.exp(truth.logprobs) * truth.logprobs).sum(1)
    return outside - tail * np.log(np.maximum(tail, LEAST) / others)
