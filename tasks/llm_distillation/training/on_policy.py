"""Students that learn from what they write themselves: when, and how the text is corrected. Pure.

Sources: GKD (Agarwal et al. 2024, arXiv 2306.13649), the share of written batches; DistiLLM (Ko et al. 2024,
arXiv 2402.03898), the replay buffer and its growing threshold; SCRG, the sequence correction of MGSR (arXiv
2407.10068). SCRG's equations were read in reviews of the paper alone: what is done where no token disagrees, and
at the end token, is a reconstruction.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from orchestrator.task import Settings
from tasks.llm_distillation.losses.precision import logits_of
from tasks.llm_distillation.text.packing import PADDING, Sequences
from tasks.llm_distillation.training.lm_step import chunks
from tasks.llm_distillation.writing.generation import Sampling

Origin = Literal["corpus", "written", "replayed"]


class Buffer(Settings):
    """DistiLLM's buffer of written texts. The share of steps without the corpus starts at `share` and grows by
    `growth` whenever the held-out loss has not fallen; ever more of these steps replay old texts."""

    capacity: int = Field(default=1000, gt=0)
    """Texts that it holds; the oldest make room."""
    growth: float = Field(default=0.1, ge=0, le=1)
    """What the share grows by, up to 1."""
    margin: float = Field(default=0.0, ge=0)
    """The loss has not fallen if it is at least the one before plus this."""


class OnPolicy(Settings):
    """The student writes after the corpus's prompts, and the teacher judges every token. Cross-entropy is learned
    on the corpus's own texts only."""

    share: float = Field(default=0.5, ge=0, le=1)
    """Fraction of steps that learn from written text (lambda in GKD)."""
    sampling: Sampling = Sampling(temperature=0.9)
    """How the student writes."""
    prompt_tokens: int = Field(default=16, gt=0)
    """Plain text, which has no prompts: tokens of a document that are given."""
    buffer: Buffer | None = None
    """DistiLLM: keep and replay written texts; none: each is learned once."""
    corrections: int = Field(default=0, ge=0)
    """SCRG: so often the worst token is replaced by the teacher's choice and the rest written anew; 0: never."""


def origin(draw: float, share: float, done: float, filled: bool) -> Origin:
    """What a step learns from, by a number drawn from [0, 1). `done`: the fraction of all steps that is over, 0
    where nothing is replayed. `filled`: whether the buffer is full. DistiLLM, algorithm 1."""
    if draw < share * (1 - done) or (draw < share and not filled):
        return "written"
    return "replayed" if draw < share else "corpus"


def grown(share: float, loss: float, before: float | None, buffer: Buffer) -> float:
    """The share after a judgement of `loss`, where the one `before` it is known."""
    if before is None or loss < before + buffer.margin:
        return share
    return min(1.0, share + buffer.growth)


def prompts_of(sequences: Sequences, rows: range, at_least: int) -> list[list[int]]:
    """What is given of each document in these rows: the tokens before its first learned one; of plain text, which
    is learned from its start, the first `at_least`. Documents too short for that are left out."""
    found = []
    for row in rows:
        documents = sequences.document[row]
        for document in dict.fromkeys(documents[documents != PADDING].tolist()):
            own = documents == document
            learned = sequences.loss_mask[row][own].nonzero()[0]
            if len(learned) == 0:
                continue
            given = int(learned[0]) if learned[0] > 1 else at_least
            if given < own.sum():
                found.append(sequences.ids[row][own][:given].tolist())
    return found


def token_divergence(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], vocabulary: int
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) (N,) at N positions and the teacher's likeliest token (N,), each model by its hidden
    states (N, d) and head (V, d); logits exist chunk by chunk."""
    divergence, likeliest = [], []
    for part in chunks(len(student[0])):
        log_q, log_p = (
            logits_of(hidden[part], head[:vocabulary]).log_softmax(-1) for hidden, head in (student, teacher)
        )
        divergence.append((log_p.exp() * (log_p - log_q)).sum(-1))
        likeliest.append(log_p.argmax(-1))
    return torch.cat(divergence), torch.cat(likeliest)


def error_place(divergence: Tensor, written: Tensor, likeliest: Tensor) -> int | None:
    """Where a text (n,) is worst: the largest divergence among the tokens that are not the teacher's choice; None
    where the teacher would have written the same (the paper leaves this open: the text stays as it is)."""
    wrong = written != likeliest
    if not wrong.any():
        return None
    return int(divergence.masked_fill(~wrong, -torch.inf).argmax())
