"""Lets a model answer every prompt of a corpus: the text of sequence-level distillation.

Source: SeqKD (Kim and Rush 2016); sampled answers, as MiniLLM (Gu et al. 2024) compares with, rather than a beam.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import pyarrow as pa
from pydantic import Field, model_validator

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
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.model_artifact import load_artifact
from tasks.llm_distillation.models.vocabulary import check_covers, check_length, model_facts
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.writing.answering import answer, answering_engine, prompt_rows, prompts_of
from tasks.llm_distillation.writing.generation import Sampling
from tasks.llm_distillation.writing.responses import KIND, TABLE, response_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPTS = 64
"""In a shard."""


class GenerateConfig(Settings):
    """Settings of generate_responses."""

    model: LanguageModel | None = None
    """Who answers."""
    model_artifact: Annotated[str | None, Input("language_model")] = None
    """A model of an earlier stage, in place of `model`."""
    corpus: Corpus
    """Where the prompts are; responses in it are not read."""
    length: int = Field(gt=1)
    """Tokens of a prompt at most; longer ones are left out."""
    sampling: Sampling = Sampling(new_tokens=256)
    """How answers are written."""
    samples: Annotated[int, Role.PLAN] = Field(default=1, ge=1)
    """Answers to each prompt."""
    batch: int = Field(default=8, gt=0)
    """Prompts of one forward pass."""
    unended: Annotated[bool, Role.CLOSING] = False
    """Keep answers that the limit of tokens cut off, rather than leave them out."""

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.model_artifact is None):
            raise ValueError("give either `model` or `model_artifact`")
        if self.sampling.temperature == 0 and self.samples > 1:
            raise ValueError("without chance (temperature 0) all answers are the same: set `samples: 1`")
        return self


class GenerateResponses(Task[GenerateConfig]):
    """Lets a model answer every prompt of a corpus, to learn from in place of the responses there.

    One shard is one answer to each of some prompts; resumable after every batch.
    """

    version: ClassVar[int] = 1
    makes: ClassVar[str] = KIND
    Config: ClassVar[type[Settings]] = GenerateConfig
    needs: ClassVar[Needs] = Needs(memory_gb=4.0)

    @classmethod
    def describe(cls, config: GenerateConfig, inputs: Mapping[str, Facts]) -> Facts:
        facts = _model_facts(config, inputs)
        longest = config.length + config.sampling.new_tokens
        check_length("that answers (with `sampling.new_tokens`)", longest, facts["positions"])
        examples = config.corpus.examples()
        prompts = len(prompt_rows(examples, answered=False))
        if not prompts:
            raise ValueError(
                f"corpus {config.corpus.path}: has no prompts to answer; name their field as `prompt` or `messages`"
            )
        return {
            "corpus": config.corpus.content_digest(), "rows": len(examples), "prompts": prompts,
            "tokenizer": facts["tokenizer"],
        }  # fmt: skip

    @classmethod
    def shards(cls, config: GenerateConfig, facts: Facts) -> Sequence[Shard]:
        rows = prompt_rows(config.corpus.examples(), answered=False)
        parts = [rows[first : first + PROMPTS] for first in range(0, len(rows), PROMPTS)]
        size = 8 * config.sampling.new_tokens
        return [
            Shard({"sample": sample, "first_row": part[0], "last_row": part[-1]}, disk_bytes=size * len(part))
            for sample in range(config.samples)
            for part in parts
        ]

    def __init__(
        self, config: GenerateConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config = config
        own = config.sampling.engine == "transformers"
        model, self.tokenizer = _loaded(config, inputs, context.device if own else "cpu")
        self.engine = answering_engine(
            self.tokenizer, config.sampling, length=config.length, batch=config.batch, device=context.device
        )
        self.writer = self.engine.writer(model)
        self.examples = config.corpus.unchanged(facts["corpus"])
        self.rows = prompt_rows(self.examples, answered=False)

    def compute(self, shard: Shard, context: Context) -> Output:
        config, sample = self.config, shard.identity["sample"]
        first, last = shard.identity["first_row"], shard.identity["last_row"]
        rows = [row for row in self.rows if first <= row <= last]
        prompts = prompts_of(self.examples, rows, self.tokenizer, config.corpus, config.length)
        written = answer(
            self.writer,
            self.tokenizer,
            prompts,
            config.sampling,
            sample=sample,
            batch=config.batch,
            context=context,
        )
        schema = pa.schema([("row", pa.int64()), ("text", pa.string()), ("ended", pa.bool_())])
        table = pa.Table.from_pylist([asdict(one) for one in written], schema)
        return Output(
            tables={"written": table}, facts={"too_long": len(rows) - len(prompts), **self.engine.facts}
        )

    @classmethod
    def close(
        cls,
        config: GenerateConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        written = [
            {**one, "sample": shard.identity["sample"]}
            for shard in shards
            for one in shard.table("written").to_pylist()
        ]
        kept = [one for one in written if one["text"].strip() and (one["ended"] or config.unended)]
        if not kept:
            raise ValueError(
                f"none of {len(written)} answers ended within {config.sampling.new_tokens} tokens; raise "
                "`sampling.new_tokens`, or set `unended: true`"
            )
        ended = sum(one["ended"] for one in written)
        counts = {
            "too_long": sum(shard.facts["too_long"] for shard in shards), "written": len(written), "ended": ended,
            "kept": len(kept),
        }  # fmt: skip
        table = response_table(config.corpus.unchanged(facts["corpus"]), kept)
        engines = sorted({shard.facts["vllm"] for shard in shards if "vllm" in shard.facts})
        told = {"counts": counts, **({"vllm": ", ".join(engines)} if engines else {})}
        return Output(tables={TABLE: table}, facts=told, metrics={"ended": ended / len(written)})


def _model_facts(config: GenerateConfig, inputs: Mapping[str, Facts]) -> Facts:
    if config.model is None:
        return inputs["model_artifact"]
    architecture, tokenizer = config.model.config(), config.model.tokenizer()
    check_covers(config.model.label, architecture, tokenizer)
    return model_facts(architecture, tokenizer)


def _loaded(
    config: GenerateConfig, inputs: Mapping[str, Artifact], device: str
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    if config.model is None:
        return load_artifact(inputs["model_artifact"], device)
    return config.model.load(device), config.model.tokenizer()
