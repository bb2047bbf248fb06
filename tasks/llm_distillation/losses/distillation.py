"""The loss of a student: hidden states, head, labels and a teacher to sums over tokens."""

from typing import Literal, NamedTuple

from torch import Tensor

from tasks.llm_distillation.losses.chunked import TOTAL, RowLoss, add, blocks, chunk_plan, chunked
from tasks.llm_distillation.losses.dac_kl import DacRows, Gate
from tasks.llm_distillation.losses.mixture import Mixture
from tasks.llm_distillation.losses.precision import wide
from tasks.llm_distillation.losses.rows import CROSS_ENTROPY, Sums, mixture_rows
from tasks.llm_distillation.losses.teachers import DenseRows, Rows, Teacher, TopKTeacher

IGNORED = -100
"""Label of a position that counts in no loss."""
ON_ZERO_TAIL = {"reverse_kl", "symmetric_kl", "akl"}
"""Infinite where the teacher gives a token no mass and the student does."""


class LossSums(NamedTuple):
    """Sums over the valid positions of one device and micro-batch; see `reduction.mean_over_tokens`."""

    total: Tensor
    """The weighted sum of all terms, a scalar; differentiable."""
    terms: dict[str, Tensor]
    """The sum of each term without its weight, by name; for the record."""
    tokens: int
    """Valid positions."""


def distillation_loss(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    mixture: Mixture,
    teacher: Teacher | None = None,
    *,
    kd_weight: float = 1.0,
    gate: Gate | None = None,
    vocabulary: int | None = None,
    budget_mb: float | None = None,
) -> LossSums:
    """Sums of the mixture over all positions whose label is not IGNORED; logits exist chunk by chunk only.

    hidden (N, d) and head (V, d): the student's last hidden states and output head. labels (N,): the token that
    each position is to predict, so already shifted (`shifted` does it); the teacher's word at a position is about
    the same token. `kd_weight`: what `mixture.kd_weight(step)` says. `gate`: the module that
    learns the band of dac_kl, whose parameters get gradients too. `vocabulary`: tokens that count, from 0 up; the
    padding of either head beyond is cut (with uld alone the student's only, the teacher's tokens being others:
    cut its head before). `budget_mb`: memory of a chunk's logits, see `chunked.chunk_plan`.
    ValueError where sizes do not fit.
    """
    vocabulary = common_vocabulary(mixture, len(head), teacher, vocabulary)
    positions = (labels != IGNORED).nonzero().squeeze(-1)
    labels = labels[positions]
    _check_labels(labels, vocabulary)
    known = None
    if mixture.needs_teacher:
        assert teacher is not None
        known = teacher.take(positions)
        if isinstance(known, TopKTeacher) and mixture.off_support == "zero":
            known = known.without_tail()
    dac = DacRows(mixture.dac_kl, gate, kd_weight) if mixture.dac_kl else None
    rows = mixture_loss(labels, mixture, known, kd_weight, vocabulary, dac)
    row = (vocabulary + (known.vocabulary or 0 if known is not None else 0)) * wide(head.dtype).itemsize
    plan = chunk_plan(len(positions), row, head.device, budget_mb)
    used = head if vocabulary == len(head) else head[:vocabulary]  # the way back through a slice is a copy
    sums = chunked(hidden[positions], used, rows, plan, dac.collected if dac else ())
    return LossSums(sums.pop(TOTAL), sums, len(positions))


def mixture_loss(
    labels: Tensor,
    mixture: Mixture,
    teacher: Teacher | None,
    kd_weight: float,
    vocabulary: int,
    dac: DacRows | None = None,
) -> RowLoss:
    """The mixture as a function of a chunk's logits."""
    weights = {term.name: kd_weight * term.weight for term in mixture.divergences}
    weights[CROSS_ENTROPY] = mixture.cross_entropy
    of_teacher = vocabulary
    if teacher is not None and teacher.vocabulary and mixture.takes_other_tokens:
        of_teacher = teacher.vocabulary

    def block_sums(logits: Tensor, known: Rows | None, targets: Tensor) -> Sums:
        extra, sums = None, {}
        if dac:
            assert isinstance(known, DenseRows)
            extra, sums = dac(logits, known.logits, targets)
        found = mixture_rows(logits, known, targets, mixture, kd_weight)
        if extra is not None:
            logits += extra
        terms = [weights[name] * value for name, value in found.items()]
        total = sum(terms, start=sums.get(TOTAL, logits.new_zeros(())))
        return {**sums, **found, TOTAL: total}

    def rows(logits: Tensor, part: slice) -> Sums:
        said = None if teacher is None else teacher.rows(part, of_teacher)
        sums: Sums = {}
        for block in blocks(logits):
            known = None if said is None else said.block(block)
            add(sums, block_sums(logits[block], known, labels[part][block]))
        return sums

    return rows


def common_vocabulary(mixture: Mixture, student: int, teacher: Teacher | None, vocabulary: int | None) -> int:
    """Tokens that both models know and that count; ValueError where the two heads do not fit together."""
    if mixture.needs_teacher and teacher is None:
        raise ValueError(
            "the mixture has terms of a teacher, but no teacher is given; give one or leave them out"
        )
    size = student if vocabulary is None else vocabulary
    if size > student:
        raise ValueError(f"the student's head has {student} tokens, the vocabulary {size}; expected no more")
    of_teacher = teacher.vocabulary if teacher is not None else None
    if not mixture.needs_teacher or of_teacher is None or mixture.takes_other_tokens:
        return size
    if of_teacher < size or (vocabulary is None and of_teacher != student):
        raise ValueError(
            f"the teacher's head has {of_teacher} tokens, the student's {student}; expected one vocabulary: give "
            "the tokenizer's size as `vocabulary`, or use uld for two tokenizers"
        )
    return size


def check_teacher(mixture: Mixture, kind: Literal["dense", "top_k", "sampled"]) -> None:
    """ValueError where the mixture is not defined by what is known of the teacher; for planning."""
    if kind == "dense":
        return
    names = {term.name for term in mixture.divergences}
    unfit = names & {"uld"} | ({"dac_kl"} if mixture.dac_kl else set())
    why = "needs the teacher's whole distribution: use hidden states or an online teacher"
    if kind == "sampled":
        unfit |= names - {"forward_kl"}
        hot = [term.name for term in mixture.divergences if term.temperature != 1]
        unfit |= set(hot)
        why = "is not defined by sampled tokens: they give forward_kl at temperature 1"
    elif mixture.off_support == "zero" and not unfit:
        unfit = names & ON_ZERO_TAIL | {
            term.name for term in mixture.divergences if term.name == "jsd" and term.beta == 1
        }
        why = "is infinite where a top-k teacher has no mass: set off_support to bucket"
    if unfit:
        raise ValueError(f"{', '.join(sorted(unfit))} {why}")


def shifted(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """hidden (B, T, d) and labels (B, T) at their own place: (B(T - 1), d), and the token after each, (B(T - 1),)."""
    return hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()


def _check_labels(labels: Tensor, vocabulary: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < vocabulary:
        raise ValueError(
            f"labels reach from {int(labels.min())} to {int(labels.max())}; expected 0 to {vocabulary - 1}, or "
            f"{IGNORED} for positions that do not count"
        )
