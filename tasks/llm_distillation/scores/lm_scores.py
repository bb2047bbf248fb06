"""What a model's next-token distributions are worth: likelihood, and closeness to a teacher. Plain arithmetic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tasks.llm_distillation.text.packing import Sequences, model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 1024
"""Positions whose distributions are held at a time."""
Distributions = tuple[Tensor, Tensor | None, Tensor]
"""Logits of a model (n,V), those of the teacher (n,V) or None, and the tokens that followed (n,)."""


@dataclass(frozen=True)
class Sums:
    """Sums over `tokens` labels; they add up over batches and shards."""

    tokens: int = 0
    nll: float = 0.0
    """Negative log-likelihood, nats."""
    agreed: int = 0
    """Labels at which the likeliest token is the teacher's."""
    kl: float = 0.0
    """KL(teacher || model), nats."""

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.tokens + other.tokens, self.nll + other.nll, self.agreed + other.agreed, self.kl + other.kl
        )

    def metrics(self, taught: bool) -> dict[str, float]:
        """`perplexity`, and with `taught` `agreement` (a fraction) and `kl` (nats a token). ValueError where the
        likelihood is not finite."""
        mean = self.nll / self.tokens
        if not math.isfinite(mean) or mean > math.log(1e300):
            raise ValueError(
                f"the mean negative log-likelihood is {mean}; expected a finite one: check the model"
            )
        known = {"perplexity": math.exp(mean)}
        return (
            known | {"agreement": self.agreed / self.tokens, "kl": self.kl / self.tokens} if taught else known
        )


def score(logits: Tensor, teacher: Tensor | None, labels: Tensor) -> Sums:
    """The sums over n labels, from `Distributions`; in float32, summed in float64."""
    total = Sums()
    for start in range(0, len(labels), CHUNK):
        part = slice(start, start + CHUNK)
        log_q = logits[part].float().log_softmax(-1)
        nll = -log_q.gather(-1, labels[part, None]).double().sum()
        agreed, kl = 0, 0.0
        if teacher is not None:
            log_p = teacher[part].float().log_softmax(-1)
            agreed = int((log_p.argmax(-1) == log_q.argmax(-1)).sum())
            kl = float((log_p.exp() * (log_p - log_q)).sum(-1).double().sum())
        total += Sums(len(log_q), float(nll), agreed, kl)
    return total


def distributions(
    model: "PreTrainedModel",
    teacher: "PreTrainedModel | None",
    sequences: Sequences,
    rows: slice,
    vocabulary: int,
) -> Distributions:
    """What `score` takes: the next-token logits at all labels of these rows, cut to `vocabulary` tokens."""
    device = str(next(model.parameters()).device)
    inputs = model_inputs(sequences.ids[rows], sequences.position[rows], device)
    mask = torch.from_numpy(sequences.loss_mask[rows][:, 1:]).to(device)

    def told(speaker: "PreTrainedModel") -> Tensor:
        return speaker(**inputs).logits[:, :-1, :vocabulary][mask]

    with torch.no_grad():
        return told(model), None if teacher is None else told(teacher), inputs["input_ids"][:, 1:][mask]


def ranges(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Neighbouring items in ranges [first, last) of at most `most` in sum, a larger item alone."""
    found: list[tuple[int, int]] = []
    first, held = 0, 0
    for number, size in enumerate(sizes):
        if held and held + size > most:
            found.append((first, number))
            first, held = number, 0
        held += size
    return [*found, (first, len(sizes))] if sizes else []


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error; None for the error of a single value."""
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(np.mean(values)), spread


def named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    """Every name behind `prefix` and an underscore."""
    return {f"{prefix}_{name}": value for name, value in values.items()}
