"""The training of a student over all ranks: steps, judgements, and a state that it can go on from."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from orchestrator.task import Context, Facts, Progress
from tasks.llm_distillation.distill_config import DistillConfig
from tasks.llm_distillation.labels.token_reader import Replayed
from tasks.llm_distillation.losses import mean_over_tokens
from tasks.llm_distillation.losses.teachers import SampledTeacher, Teacher, TopKTeacher
from tasks.llm_distillation.text.packing import Sequences
from tasks.llm_distillation.text.words import pairs, words
from tasks.llm_distillation.training.best_by import HELD_OUT
from tasks.llm_distillation.training.lm_plan import filled, learning_rate, passes, rows_of_step
from tasks.llm_distillation.training.lm_step import Batch, Learner, LossHead, Purpose, Sums, batch_of
from tasks.llm_distillation.training.on_policy import Origin
from tasks.llm_distillation.training.teacher_signal import Signal, Signals
from tasks.llm_distillation.training.written_texts import Writing
from tasks.llm_distillation.training.zero import Optimization, ZeroModel
from tasks.model_distillation.prefetch import ahead

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOTAL, JUDGED = "loss", "held_out_loss"
BEST = "best/"
AHEAD = 2
"""Steps whose labels are read before their turn."""
PREFIX = "student."
"""Of the student's parameters in the Learner."""


@dataclass
class State:
    """Where a training stands, beside its weights."""

    step: int = 0
    """Steps done."""
    best: dict[str, float] = field(default_factory=dict)
    """The best judgement on the held-out sequences so far; empty before the first."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """The student's trained weights of that moment, on rank 0, where `keep` is `best`."""

    @classmethod
    def of(cls, saved: Progress | None, rank: int) -> "State":
        if saved is None:
            return cls()
        best = {
            name.removeprefix(BEST): value for name, value in saved.tensors.items() if name.startswith(BEST)
        }
        return cls(saved.facts["step"], dict(saved.facts["best"]), best if rank == 0 else {})

    def progress(self) -> tuple[dict[str, Tensor], Facts]:
        """What a resumed run needs of it: tensors, on rank 0, and facts."""
        best = {f"{BEST}{name}": value for name, value in self.best_weights.items()}
        return best, {"step": self.step, "best": self.best}


class Pass(NamedTuple):
    """One forward pass: tokens, and what the teacher says of them."""

    batch: Batch
    teacher: Teacher | None


class Lesson(NamedTuple):
    """What this rank learns from in one step."""

    step: int
    passes: Iterable[Pass]
    tokens: int
    """Labelled tokens of all ranks."""
    pairs: int
    """Neighbouring tokens of one word, of all ranks; 0 where nobody asks."""
    purpose: Purpose


class Training:
    """One student under way on this rank. Every method is a collective call."""

    def __init__(
        self,
        config: DistillConfig,
        learner: Learner,
        sequences: Sequences,
        tokenizer: "PreTrainedTokenizerBase",
        signals: Signals,
        steps: int,
        context: Context,
        saved: Progress | None,
        writing: Writing | None,
    ) -> None:
        self._config, self._sequences, self._signals = config, sequences, signals
        self._steps, self._context, self._writing = steps, context, writing
        self._tokenizer = tokenizer
        self._words = None if config.spans is None else words(sequences, tokenizer)
        self.state = State.of(saved, context.rank)
        self._model = ZeroModel(
            learner.train(),
            config.zero,
            _optimization(config, context.world_size),
            context.device,
            None if saved is None else saved.tensors,
            self.state.step,
            indivisible=(LossHead,),
        )

    def run(self) -> dict[str, float]:
        """Trains to the end; the judgement on the kept student by the held-out sequences, empty without any."""
        found: dict[str, float] = {}
        for lesson in self._lessons():
            self._context.log(self._learn(lesson), step=lesson.step + 1)
            self.state.step += 1
            if self._is_due():
                found = self._judge()
            self._context.save_progress(self._progress)
        if self._config.held_out and not found:  # killed after the last step
            found = self._judge()
        return self.state.best if self._config.keep == "best" else found

    def weights(self) -> dict[str, Tensor]:
        """The student's trained weights by name in fp32, on rank 0; empty elsewhere."""
        if self._config.keep == "best":
            return self.state.best_weights
        return _of_student(self._model.weights())

    def close(self) -> None:
        """Ends DeepSpeed's part; the training cannot go on."""
        self._model.close()

    @property
    def _learned(self) -> int:
        """Sequences that are learned from."""
        return len(self._sequences) - self._config.held_out

    def _is_due(self) -> bool:
        every = self._config.evaluate_every
        last = self.state.step == self._steps
        return bool(self._config.held_out) and (last or (every is not None and self.state.step % every == 0))

    def _progress(self) -> Progress:
        best, facts = self.state.progress()
        written, about = ({}, {}) if self._writing is None else self._writing.progress()
        return Progress(tensors={**self._model.state(), **best, **written}, facts={**facts, **about})

    def _lessons(self) -> Iterator[Lesson]:
        """All that are left; labels are read ahead of the student, where it is known for which steps."""
        steps = range(self.state.step, self._steps)
        foreknown = self._writing is None or not self._writing.keeps
        if not (foreknown and isinstance(self._signals.corpus, Replayed)):
            return (self._lesson(step) for step in steps)
        of_corpus = (self._lesson(step) for step in steps if self._origin(step) == "corpus")
        read = ahead((lesson._replace(passes=list(lesson.passes)) for lesson in of_corpus), AHEAD)
        return (next(read) if self._origin(step) == "corpus" else self._lesson(step) for step in steps)

    def _learn(self, lesson: Lesson) -> dict[str, float]:
        """One update of the weights; the mean loss of its tokens and its parts."""
        config = self._config
        lr = learning_rate(
            lesson.step, self._steps, lr=config.lr, warmup=config.warmup_steps, schedule=config.schedule
        )
        kd_weight = config.objective.kd_weight(lesson.step)
        sums: dict[str, Tensor] = {}
        for batch, teacher in lesson.passes:
            said = self._model(
                batch, teacher, kd_weight, lesson.tokens / max(1, lesson.pairs), lesson.purpose
            )
            self._model.backward(mean_over_tokens(said.total, lesson.tokens))
            finite = self._model.step(lr)
            _add(sums, said)
        means = self._means(sums, lesson.tokens)
        if not (finite and math.isfinite(means[TOTAL])):
            raise ValueError(
                f"step {lesson.step + 1}: loss {means[TOTAL]} or its gradient is not finite; lower lr ({config.lr}) or "
                f"raise warmup_steps ({config.warmup_steps})"
            )
        kind = "written" if lesson.purpose == "learn_written" else "train"
        return {f"{kind}_{name}": value for name, value in means.items()} | {"lr": lr}

    def _origin(self, step: int) -> Origin:
        return "corpus" if self._writing is None else self._writing.origin(step, self._steps)

    def _lesson(self, step: int) -> Lesson:
        config, context = self._config, self._context
        origin = self._origin(step)
        if origin != "corpus":
            return self._written_lesson(step, anew=origin == "written")
        rows = rows_of_step(step, config.batch, self._learned, lambda epoch: context.seed("order", epoch))
        parts = passes(rows, context.rank, context.world_size, config.micro_batch)
        tokens = int(self._sequences.loss_mask[rows].sum())
        found = 0 if self._words is None else pairs(self._words[rows])
        read = self._passes(self._signals.corpus, self._sequences, self._words, parts)
        return Lesson(step, read, tokens, found, "learn")

    def _written_lesson(self, step: int, anew: bool) -> Lesson:
        assert self._writing is not None
        if anew:
            with self._model.whole() as learner:
                texts = self._writing.write(step, learner.student)
        else:
            texts = self._writing.replay(step)
        sequences = self._writing.sequences(texts) if texts else self._sequences
        numbers = None if self._words is None else words(sequences, self._tokenizer)
        counts = [0, 0]
        if texts:
            counts = [int(sequences.loss_mask.sum()), 0 if numbers is None else pairs(numbers)]
        of_all = torch.tensor(counts, device=self._context.device)
        torch.distributed.all_reduce(of_all)
        share = -(-self._config.batch // self._context.world_size)
        parts = filled(np.arange(len(texts)), share, self._config.micro_batch)
        judged = self._passes(self._signals.written, sequences, numbers, parts)
        return Lesson(step, judged, *of_all.tolist(), "learn_written")

    @torch.no_grad()
    def _judge(self) -> dict[str, float]:
        """Means over the labelled tokens of the held-out sequences; keeps the weights that are best by them."""
        config, context = self._config, self._context
        held_out = np.arange(self._learned, len(self._sequences))
        sums: dict[str, Tensor] = {}
        parts = passes(held_out, context.rank, context.world_size, _size(config, context.world_size))
        tokens = int(self._sequences.loss_mask[held_out].sum())
        span_weight = 0.0 if self._words is None else tokens / max(1, pairs(self._words[held_out]))
        for batch, teacher in self._passes(self._signals.corpus, self._sequences, self._words, parts):
            _add(sums, self._model(batch, teacher, 1.0, span_weight, "judge"))
        means = self._means(sums, tokens)
        means["perplexity"] = math.exp(min(means["cross_entropy"], 700.0))
        found = {HELD_OUT + name: value for name, value in means.items()}
        context.log(found, step=self.state.step)
        if config.keep == "best" and config.best_by.better(found, self.state.best):
            self.state.best, self.state.best_weights = found, _of_student(self._model.weights())
        if self._writing is not None:
            self._writing.judged(found[JUDGED])
        return found

    def _passes(
        self, signal: Signal, sequences: Sequences, numbers: np.ndarray | None, parts: Iterable[np.ndarray]
    ) -> Iterator[Pass]:
        for rows in parts:
            batch = batch_of(sequences, rows, self._context.device, numbers)
            yield Pass(batch, _there(signal(rows, batch), self._context.device))

    def _means(self, sums: Mapping[str, Tensor], tokens: int) -> dict[str, float]:
        """Sums of this rank to means over the tokens of all."""
        whole = torch.stack([value.double() for value in sums.values()])
        torch.distributed.all_reduce(whole)
        return dict(zip(sums, (whole / tokens).tolist(), strict=True))


def _optimization(config: DistillConfig, ranks: int) -> Optimization:
    parts = passes(np.arange(config.batch), 0, ranks, config.micro_batch)
    return Optimization(
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        clip=config.clip,
        micro_batch=len(parts[0]),
        accumulation=len(parts),
        precision=config.precision,
    )


def _size(config: DistillConfig, ranks: int) -> int:
    """Sequences of a forward pass."""
    return config.micro_batch or -(-config.batch // ranks)


def _add(sums: dict[str, Tensor], said: Sums) -> None:
    for name, value in {TOTAL: said.total.detach(), **said.terms}.items():
        sums[name] = sums[name] + value if name in sums else value


def _there(teacher: Teacher | None, device: str) -> Teacher | None:
    """Labels come from files, into main memory."""
    if not isinstance(teacher, TopKTeacher | SampledTeacher):
        return teacher
    parts = {part.name: getattr(teacher, part.name) for part in fields(teacher)}
    return replace(teacher, **{name: of if of is None else of.to(device) for name, of in parts.items()})


def _of_student(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what only the loss has."""
    own = [name for name in weights if name.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): weights[name] for name in own}
