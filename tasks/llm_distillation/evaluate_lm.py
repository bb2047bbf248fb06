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

from .chat import openings, samples
from .evaluate_config import ARTIFACTS, EvaluateLmConfig, Judged
from .evaluate_tables import (
    judge,
    perplexity_picture,
    response_table,
    sample_rows,
    sample_table,
    summary_table,
)
from .examples import Dialogue
from .generation import write
from .judged_models import JudgedModels, check_models
from .lm_scores import Sums, distributions, ranges, score
from .packing import Sequences, fitted, pack
from .vocabulary import padding_id

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
        examples = config.corpus.examples()
        asked = [number for number, example in enumerate(examples) if _answered(example)]
        sizes = [_characters(example) for example in examples]
        return {
            "models": config.judged,
            "tokenizer": tokenizer,
            "rows": len(examples),
            "parts": [list(part) for part in ranges(sizes, CHARACTERS)],
            "prompts": asked[: config.prompts],
        }

    @classmethod
    def shards(cls, config: EvaluateLmConfig, facts: Facts) -> Sequence[Shard]:
        found = []
        for role in facts["models"]:
            unread = MODELS - config.reads(role, beside_teacher=True) | {"sampling"}
            found += [
                Shard({"model": role, "first_row": first, "last_row": last - 1}, unread, disk_bytes=2048)
                for first, last in facts["parts"]
            ]
        for role in facts["models"]:
            unread = MODELS - config.reads(role, beside_teacher=False)
            for seed in range(config.sampling_seeds):
                for first in range(0, len(facts["prompts"]), PROMPTS):
                    prompts = facts["prompts"][first : first + PROMPTS]
                    identity = {
                        "model": role,
                        "sample": seed,
                        "first_row": prompts[0],
                        "last_row": prompts[-1],
                    }
                    size = 8 * config.sampling.new_tokens * len(prompts)
                    found.append(Shard(identity, unread, disk_bytes=size))
        return found

    def __init__(
        self, config: EvaluateLmConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts = config, facts
        seed = context.seed("before", item={"model": "before"})
        self.models = JudgedModels(config, inputs, context.device, seed)
        self.examples = config.corpus.examples()

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
        first, last = shard.identity["first_row"], shard.identity["last_row"]
        rows = [row for row in self.facts["prompts"] if first <= row <= last]
        prompts = dict(zip(rows, self._prompts(rows), strict=True))
        rows = [row for row in rows if len(prompts[row]) <= self.config.length]
        model = self.models.model(shard.identity["model"])
        saved = context.load_progress()
        texts: list[str] = [] if saved is None else list(saved.facts["texts"])

        def progress() -> Progress:
            return Progress({}, {"texts": list(texts)})

        while len(texts) < len(rows):
            batch = rows[len(texts) : len(texts) + self.config.batch]
            seeds = [
                context.seed("sample", item={"sample": shard.identity["sample"], "row": row}) for row in batch
            ]
            ids = write(
                model, [prompts[row] for row in batch], seeds, self.config.sampling,
                vocabulary=self.facts["tokenizer"]["size"], end=self.facts["tokenizer"]["eos"],
            )  # fmt: skip
            texts += self.models.tokenizer.batch_decode(ids, skip_special_tokens=True)
            context.log({"answers": len(texts)}, step=len(texts))
            context.save_progress(progress)
        columns = {"row": pa.array(rows, pa.int64()), "text": pa.array(texts, pa.string())}
        return Output(tables={"answers": pa.table(columns)})

    def _prompts(self, rows: Sequence[int]) -> list[list[int]]:
        dialogues = [example for row in rows if isinstance(example := self.examples[row], Dialogue)]
        return openings(
            [dialogue.opening for dialogue in dialogues], self.models.tokenizer, self.config.corpus
        )

    @classmethod
    def close(
        cls,
        config: EvaluateLmConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        examples = config.corpus.examples()
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


def _answered(example: object) -> bool:
    """Whether it is a prompt with a response to compare with."""
    return isinstance(example, Dialogue) and bool(example.reference)


def _characters(example: object) -> int:
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
