"""Asks a language model once for its next-token distributions over a corpus, and keeps them small.

Sources: sequence-wise caches of top-k logits as DistillKit and others keep them; drawn tokens: Anshumann et al.,
Sparse Logit Sampling (ACL 2025). How they are packed is our own: see `token_codec`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Tag, model_validator
from torch import Tensor

from orchestrator.task import (
    Artifact,
    Context,
    Facts,
    Input,
    Needs,
    Output,
    Role,
    Settings,
    Shard,
    ShardFiles,
    Task,
)
from tasks.llm_distillation.labels.kept_labels import KeptTokenLabels
from tasks.llm_distillation.labels.label_forms import TokenLabels, take, uniforms
from tasks.llm_distillation.labels.label_rows import (
    KIND,
    set_aside_rows,
    table_bytes,
    tables_to_rows,
    to_rows,
)
from tasks.llm_distillation.labels.labelled import Labelled
from tasks.llm_distillation.labels.teacher_clock import TeacherClock
from tasks.llm_distillation.labels.told_rows import told_rows
from tasks.llm_distillation.models import model_artifact
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.learnt_tokenizer import LearntTokenizer
from tasks.llm_distillation.models.model_artifact import load_artifact
from tasks.llm_distillation.models.origins import origins
from tasks.llm_distillation.models.vocabulary import (
    check_covers,
    check_length,
    check_same_tokens,
    model_facts,
    tokenizer_facts,
)
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.packing import check_sealed, model_inputs
from tasks.llm_distillation.text.sequences import sequences

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GAIN = 1.1
"""Bytes that a token of a set takes, about, to plan by."""
MOST_BYTES = 4 << 30
"""A worker holds a shard's labels before they are packed."""


def _reading(value: object) -> str:
    learnt = value.keys() & LearntTokenizer.model_fields if isinstance(value, dict) else None
    return "learnt" if learnt or isinstance(value, LearntTokenizer) else "model"


Reading = Annotated[
    Annotated[LanguageModel, Tag("model")] | Annotated[LearntTokenizer, Tag("learnt")],
    Discriminator(_reading),
]


class TokenLabelConfig(Settings):
    """Settings of token_labels."""

    corpus: Corpus
    """What the teacher reads."""
    teacher: LanguageModel | None = None
    """Who labels it."""
    teacher_artifact: Annotated[str | None, Input(model_artifact.KIND)] = None
    """A teacher of an earlier stage, in place of `teacher`."""
    tokenizer: Reading | None = None
    """With `teacher_artifact`, to count the sequences by before the teacher is there: a model that is there already
    and has the same tokenizer, or the settings of initial_lm's."""
    length: int = Field(gt=1)
    """Tokens of a sequence."""
    labels: TokenLabels = TokenLabels()
    """In what form its word is kept."""
    sequences_per_shard: Annotated[int, Role.PLAN] = Field(default=256, gt=0)
    """Sequences of a shard; a shard has tables of its own, so larger ones are packed a little better."""
    batch_size: int = Field(default=4, gt=0)
    """Sequences that the teacher reads at once."""

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if (self.teacher is None) == (self.teacher_artifact is None):
            raise ValueError("give either `teacher` or `teacher_artifact`")
        if (self.tokenizer is None) != (self.teacher_artifact is None):
            raise ValueError("`tokenizer` belongs to `teacher_artifact`: give both or neither")
        return self

    @property
    def reading(self) -> LanguageModel | LearntTokenizer:
        """Whose tokenizer the corpus is read with."""
        known = self.teacher or self.tokenizer
        assert known is not None
        return known


class LabelTokens(Task[TokenLabelConfig]):
    """Labels every learned token of a corpus. One shard is a range of sequences; resumable after every batch."""

    version: ClassVar[int] = 1
    makes: ClassVar[str] = KIND
    Config: ClassVar[type[Settings]] = TokenLabelConfig
    needs: ClassVar[Needs] = Needs(memory_gb=4.0)

    @classmethod
    def describe(cls, config: TokenLabelConfig, inputs: Mapping[str, Facts]) -> Facts:
        known, labels = _known_teacher(config, inputs), config.labels
        vocabulary = known["tokenizer"]["size"]
        check_length("of the teacher", config.length, known["positions"])
        if labels.form == "top_k" and labels.k > vocabulary:
            raise ValueError(f"labels: k is {labels.k}, but the vocabulary has {vocabulary} tokens; lower k")
        found = sequences(config.corpus, config.reading.tokenizer(), config.length)
        digest = {} if config.teacher is None else {"teacher_digest": config.teacher.content_digest()}
        facts = {
            **digest,
            **origins(config.corpus, config.teacher),
            "corpus_digest": config.corpus.content_digest(),
            "tokenizer_digest": known["tokenizer"]["digest"],
            "teacher": known,
            "vocabulary": vocabulary,
            "length": config.length,
            "labels": labels.model_dump(mode="json"),
            "sequences": len(found),
            "learned": int(found.loss_mask.sum()),
        }
        _check_memory(cls.shards(config, facts)[0], labels)
        return facts

    @classmethod
    def shards(cls, config: TokenLabelConfig, facts: Facts) -> Sequence[Shard]:
        number, most = facts["sequences"], config.sequences_per_shard
        labels = facts["learned"] / number * bytes_a_label(config.labels, facts["vocabulary"])
        each = labels + config.length * (2 if facts["vocabulary"] <= 1 << 16 else 4)
        ranges = [range(first, min(first + most, number)) for first in range(0, number, most)]
        return [
            Shard(identity={"first": own[0], "last": own[-1]}, disk_bytes=int(each * len(own)))
            for own in ranges
        ]

    def __init__(
        self, config: TokenLabelConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts, self.device = config, facts, context.device
        self.model = _loaded(config, inputs, context.device)
        self.sequences = sequences(config.corpus, config.reading.tokenizer(), config.length)

    def compute(self, shard: Shard, context: Context) -> Output:
        first, last = shard.identity["first"], shard.identity["last"]
        state, clock = Labelled.resume(context.load_progress()), TeacherClock()
        for start in range(first + state.done, last + 1, self.config.batch_size):
            numbers = np.arange(start, min(start + self.config.batch_size, last + 1))
            for number, logits in zip(numbers.tolist(), self._read(numbers, clock), strict=True):
                self._label(state, number, logits, context)
            state.done += len(numbers)
            context.log(state.losses, step=state.done)
            context.save_progress(state.progress)
        output = self._finish(state, context.seed("tables"))
        context.log(clock.paces(), step=state.done)
        return output

    def _read(self, numbers: NDArray[np.int64], clock: TeacherClock) -> Tensor:
        """Logits (B,T,vocabulary) of these sequences, without the padding of the vocabulary."""
        given = model_inputs(self.sequences.ids[numbers], self.sequences.position[numbers], self.device)
        with torch.inference_mode(), clock.teacher(numbers.size * self.config.length, self.device):
            return self.model(**given).logits[..., : self.facts["vocabulary"]]

    def _label(self, state: Labelled, number: int, logits: Tensor, context: Context) -> None:
        """Adds one sequence, or puts it aside. Each label comes from the place before its token."""
        places = np.flatnonzero(self.sequences.loss_mask[number]) - 1
        chosen = logits[torch.from_numpy(places).to(logits.device)].float()
        reason = _unfit(chosen)
        if reason is not None:
            state.aside.append((number, reason))
            return
        drawn = uniforms(context.seed("draws", item={}), number, places, self.config.labels)
        state.add(number, take(chosen, self.config.labels, drawn))

    def _finish(self, state: Labelled, seed: int) -> Output:
        """The files of the shard. ValueError where not one of its sequences has labels."""
        if not state.numbers:
            raise ValueError(
                f"no sequence has labels, beginning with {state.aside[0][0]}: {state.aside[0][1]}; check the teacher"
            )
        vocabulary = self.facts["vocabulary"]
        packed, tables = state.packed(vocabulary, seed)
        rows = to_rows(self.sequences, np.array(state.numbers), packed, vocabulary)
        kept = {} if tables is None else {"tables": tables_to_rows(tables)}
        size = sum(map(len, packed)) + sum(table_bytes(own) for own in kept.values())
        facts = {
            "positions": sum(state.sizes),
            "label_bytes": size,
            "set_aside": [list(own) for own in state.aside],
        }
        metrics = {**state.losses, "bytes_per_token": size / sum(state.sizes)}
        return Output(tables=kept, mapped={"labels": rows}, facts=facts, metrics=metrics)

    @classmethod
    def close(
        cls,
        config: TokenLabelConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        metrics = summary(shards)
        aside = [(number, reason) for shard in shards for number, reason in shard.facts["set_aside"]]
        tables = {
            "set_aside": set_aside_rows(aside),
            "summary": pa.table({name: [value] for name, value in metrics.items()}),
        }
        return Output(
            tables=tables, facts={"teacher_digest": teacher_digest(config, inputs)}, metrics=metrics
        )

    @classmethod
    def rows(cls, artifact: Artifact) -> Iterator[pa.Table]:
        return told_rows(KeptTokenLabels.of(artifact))


def summary(shards: Sequence[ShardFiles]) -> dict[str, float]:
    """Divergences over all labelled tokens, bytes a token with all tables, and how many there are."""
    positions = np.array([shard.facts["positions"] for shard in shards], np.float64)
    names = ("kl", "kl_kept") if "kl" in shards[0].metrics else ()
    means = {
        name: float(positions @ [shard.metrics[name] for shard in shards] / positions.sum()) for name in names
    }
    size = sum(shard.facts["label_bytes"] for shard in shards)
    aside = sum(len(shard.facts["set_aside"]) for shard in shards)
    counts = {"tokens": float(positions.sum()), "set_aside": float(aside)}
    return {**means, "bytes_per_token": float(size / positions.sum()), **counts}


def bytes_a_label(labels: TokenLabels, vocabulary: int) -> float:
    """What a position takes, about, before it is made."""
    if labels.form == "full":
        return 2.0 * vocabulary
    return 4 + GAIN * (labels.k if labels.form == "top_k" else labels.samples / 2)


def teacher_digest(config: TokenLabelConfig, inputs: Mapping[str, Artifact]) -> str:
    """Of the teacher's weights and tokenizer."""
    return inputs["teacher_artifact"].id if config.teacher is None else config.teacher.content_digest()


def _known_teacher(config: TokenLabelConfig, inputs: Mapping[str, Facts]) -> Facts:
    tokenizer = config.reading.tokenizer()
    if config.teacher is not None:
        check_covers(config.teacher.label, config.teacher.config(), tokenizer)
        return model_facts(config.teacher.config(), tokenizer)
    own = {"tokenizer": tokenizer_facts(tokenizer)}
    check_same_tokens(inputs["teacher_artifact"], own, ("teacher_artifact", "tokenizer"))
    return inputs["teacher_artifact"]


def _loaded(config: TokenLabelConfig, inputs: Mapping[str, Artifact], device: str) -> "PreTrainedModel":
    if config.teacher is not None:
        model = config.teacher.load(device)
    else:
        model = load_artifact(inputs["teacher_artifact"], device)[0]
    if config.corpus.pack:
        check_sealed(model, "of the teacher")
    return model


def _unfit(logits: Tensor) -> str | None:
    """Why these logits cannot be labels."""
    if not len(logits):
        return "none of its tokens is a label"
    bad = int((~logits.sum(1).isfinite()).sum())
    return f"the teacher's logits are not finite at {bad} of {len(logits)} labels" if bad else None


def _check_memory(shard: Shard, labels: TokenLabels) -> None:
    if labels.form == "full" and shard.disk_bytes > MOST_BYTES:
        raise ValueError(
            f"labels: with form full a shard has {shard.disk_bytes >> 20:,} MiB, expected at most "
            f"{MOST_BYTES >> 20:,}; lower sequences_per_shard, or keep top_k"
        )
