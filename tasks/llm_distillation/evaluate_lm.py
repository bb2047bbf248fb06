"""Judges a student language model beside its teacher and controls: on text it has not seen, and by what it writes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar

import pyarrow as pa

from orchestrator.task import (
    Artifact,
    Context,
    Facts,
    Needs,
    Output,
    Progress,
    Settings,
    Shard,
    ShardFiles,
    Task,
)
from tasks.llm_distillation.evaluate_config import ARTIFACTS, EvaluateLmConfig, Judged
from tasks.llm_distillation.models.origins import origins
from tasks.llm_distillation.models.vocabulary import padding_id
from tasks.llm_distillation.scores.evaluate_tables import (
    judge,
    perplexity_picture,
    response_table,
    sample_rows,
    sample_table,
    summary_table,
)
from tasks.llm_distillation.scores.judged_models import JudgedModels, check_models
from tasks.llm_distillation.scores.lm_scores import Sums, distributions, ranges, score
from tasks.llm_distillation.text.chat import samples
from tasks.llm_distillation.text.examples import Dialogue, Example
from tasks.llm_distillation.text.packing import Sequences, fitted, pack
from tasks.llm_distillation.writing.answering import answer, prompt_rows, prompts_of

CHARACTERS = 200_000
"""Of text in a shard of likelihoods; a longer row is one of its own."""
PROMPTS = 32
"""In a shard of answers."""
MODELS = frozenset({*ARTIFACTS, "teacher", "teacher_artifact", "before"})
"""The fields that name models."""


class EvaluateLm(Task[EvaluateLmConfig]):
    """Judges a student language model beside its teacher, itself before training, and other controls.

    One shard is one model on some rows of the corpus (likelihood, closeness to the teacher), or one model's
    answers to some prompts under one seed; resumable after every batch.
    """

    version: ClassVar[int] = 1
    makes: ClassVar[str] = "lm_scores"
    Config: ClassVar[type[Settings]] = EvaluateLmConfig
    needs: ClassVar[Needs] = Needs(memory_gb=4.0)

    @classmethod
    def describe(cls, config: EvaluateLmConfig, inputs: Mapping[str, Facts]) -> Facts:
        tokenizer = check_models(config, inputs)
        return {
            "models": config.judged, "tokenizer": tokenizer, "corpus": config.corpus.content_digest(),
            "rows": len(config.corpus.examples()), "prompts": len(_asked(config)),
            **origins(config.corpus, config.teacher),
        }  # fmt: skip

    @classmethod
    def shards(cls, config: EvaluateLmConfig, facts: Facts) -> Sequence[Shard]:
        parts = ranges([_characters(example) for example in config.corpus.examples()], CHARACTERS)
        prompts = _asked(config)
        asked = [prompts[first : first + PROMPTS] for first in range(0, len(prompts), PROMPTS)]
        return [_likelihood_shard(config, role, *part) for role in config.judged for part in parts] + [
            _answer_shard(config, role, seed, rows)
            for role in config.judged
            for seed in range(config.sampling_seeds)
            for rows in asked
        ]

    def __init__(
        self, config: EvaluateLmConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts = config, facts
        seed = context.seed("before", item={"model": "before"})
        self.models = JudgedModels(config, inputs, context.device, seed)
        self.examples, self.asked = config.corpus.unchanged(facts["corpus"]), _asked(config)

    def compute(self, shard: Shard, context: Context) -> Output:
        answers = "sample" in shard.identity
        return self._answers(shard, context) if answers else self._likelihood(shard, context)

    def _likelihood(self, shard: Shard, context: Context) -> Output:
        role: Judged = shard.identity["model"]
        text = self._sequences(shard)
        model = self.models.model(role)
        teacher = self.models.teacher if self.config.taught and role != "teacher" else None
        saved = context.load_progress()
        start, sums = (0, Sums()) if saved is None else (saved.facts["next"], Sums(**saved.facts["sums"]))

        def progress() -> Progress:
            return Progress({}, {"next": start, "sums": asdict(sums)})

        while start < len(text):
            rows = slice(start, start + self.config.batch)
            sums += score(*distributions(model, teacher, text, rows, self.facts["tokenizer"]["size"]))
            start = rows.stop
            context.log({"nll": sums.nll / max(1, sums.tokens)}, step=sums.tokens)
            context.save_progress(progress)
        return Output(documents={"sums": asdict(sums), "counts": dict(text.counts)})

    def _sequences(self, shard: Shard) -> Sequences:
        rows = slice(shard.identity["first_row"], shard.identity["last_row"] + 1)
        corpus, tokenizer = self.config.corpus, self.models.tokenizer
        found = samples(self.examples[rows], tokenizer, corpus)
        documents, counts = fitted(found, self.config.length, corpus.over_long)
        return pack(
            documents, self.config.length, padding_id(tokenizer), {"rows": len(found), **counts}, corpus.pack
        )

    def _answers(self, shard: Shard, context: Context) -> Output:
        config, tokenizer = self.config, self.models.tokenizer
        first, last = shard.identity["first_row"], shard.identity["last_row"]
        rows = [row for row in self.asked if first <= row <= last]
        prompts = prompts_of(self.examples, rows, tokenizer, config.corpus, config.length)
        written = answer(
            self.models.writer(shard.identity["model"]), tokenizer, prompts, config.sampling,
            sample=shard.identity["sample"], batch=config.batch, context=context,
        )  # fmt: skip
        rows, texts = [one.row for one in written], [one.text for one in written]
        columns = {"row": pa.array(rows, pa.int64()), "text": pa.array(texts, pa.string())}
        return Output(tables={"answers": pa.table(columns)})

    @classmethod
    def close(
        cls,
        config: EvaluateLmConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        examples = config.corpus.unchanged(facts["corpus"])
        judged = [judge(role, config, examples, shards) for role in facts["models"]]
        context.preview("perplexity", perplexity_picture(judged))
        tables = {"summary": summary_table(judged)}
        if any(one.answers for one in judged):
            tables |= {"samples": sample_table(judged, examples), "responses": response_table(judged)}
        return Output(
            tables=tables,
            documents={"samples": sample_rows(judged, examples)[: config.shown]},
            facts={"counts": _counts(shards, facts["models"][0])},
            metrics={name: value for one in judged for name, value in one.metrics().items()},
        )


def _likelihood_shard(config: EvaluateLmConfig, role: Judged, first: int, last: int) -> Shard:
    unread = MODELS - config.reads(role, beside_teacher=True) | {"sampling"}
    return Shard({"model": role, "first_row": first, "last_row": last - 1}, unread, disk_bytes=2048)


def _answer_shard(config: EvaluateLmConfig, role: Judged, seed: int, rows: Sequence[int]) -> Shard:
    unread = MODELS - config.reads(role, beside_teacher=False)
    size = 8 * config.sampling.new_tokens * len(rows)
    return Shard({"model": role, "sample": seed, "first_row": rows[0], "last_row": rows[-1]}, unread, size)


def _asked(config: EvaluateLmConfig) -> list[int]:
    """The rows whose prompts are answered."""
    return prompt_rows(config.corpus.examples(), answered=True)[: config.prompts]


def _characters(example: Example) -> int:
    return (
        sum(len(turn.content) for turn in example.turns)
        if isinstance(example, Dialogue)
        else len(example.text)
    )


def _counts(shards: Sequence[ShardFiles], role: Judged) -> dict[str, int]:
    """What was done with the rows, over the shards of one model."""
    own = [
        shard.document("counts")
        for shard in shards
        if shard.identity["model"] == role and "sample" not in shard.identity
    ]
    return {name: sum(counts[name] for counts in own) for name in own[0]}
