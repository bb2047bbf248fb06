"""From the shards of evaluate_lm to metrics, tables and a picture. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orchestrator.task import ShardFiles
from tasks.llm_distillation.evaluate_config import EvaluateLmConfig, Judged
from tasks.llm_distillation.scores.lm_scores import Sums, mean_and_error, named
from tasks.llm_distillation.scores.rouge import exact_match, rouge_l
from tasks.llm_distillation.text.examples import Dialogue, Example
from tasks.pictures import bars


@dataclass(frozen=True)
class Answer:
    """What a model wrote for the prompt in a row, under one seed."""

    row: int
    sample: int
    text: str
    rouge_l: float
    correct: bool | None
    """Whether it comes to the reference's number; None where that is not asked."""


@dataclass(frozen=True)
class Judgement:
    """All that is known of one model."""

    role: Judged
    likelihood: dict[str, float]
    """`perplexity`, and beside a teacher `agreement` and `kl`."""
    tokens: int
    answers: tuple[Answer, ...]

    def by_sample(self, values: Sequence[float]) -> list[float]:
        """The mean over the prompts of each seed, of one value an answer."""
        seeds = sorted({answer.sample for answer in self.answers})
        groups = [
            [value for answer, value in zip(self.answers, values, strict=True) if answer.sample == seed]
            for seed in seeds
        ]
        return [sum(group) / len(group) for group in groups]

    def metrics(self) -> dict[str, float]:
        """`ROLE_perplexity`, `ROLE_agreement`, `ROLE_kl`, `ROLE_rouge_l`, `ROLE_exact_match`, the last two with
        `_se`, the standard error over the seeds where there are several."""
        found = dict(self.likelihood)
        scores = {"rouge_l": [answer.rouge_l for answer in self.answers]}
        if any(answer.correct is not None for answer in self.answers):
            scores["exact_match"] = [float(bool(answer.correct)) for answer in self.answers]
        for name, values in scores.items():
            if values:
                found[name], error = mean_and_error(self.by_sample(values))
                found |= {} if error is None else {f"{name}_se": error}
        return named(self.role, found)


def judge(
    role: Judged, config: EvaluateLmConfig, examples: Sequence[Example], shards: Sequence[ShardFiles]
) -> Judgement:
    """Puts the shards of one model together. ValueError where no label is left, or a likelihood is not finite."""
    own = [shard for shard in shards if shard.identity["model"] == role]
    sums = Sums()
    for shard in own:
        if "sample" not in shard.identity:
            sums += Sums(**shard.document("sums"))
    if not sums.tokens:
        raise ValueError(
            f"corpus {config.corpus.path}: no row has a token to judge within {config.length}; name the field of the "
            "`response`, or raise `length`"
        )
    answers = tuple(
        _answer(row["row"], shard.identity["sample"], row["text"], examples[row["row"]], config)
        for shard in own
        if "sample" in shard.identity
        for row in shard.table("answers").to_pylist()
    )
    taught = config.taught and role != "teacher"
    return Judgement(role, sums.metrics(taught), sums.tokens, answers)


def _answer(row: int, sample: int, text: str, example: Example, config: EvaluateLmConfig) -> Answer:
    assert isinstance(example, Dialogue), row
    kind, reference = config.exact_match, example.reference
    correct = None if kind is None else exact_match(text, reference, kind)
    return Answer(row, sample, text, rouge_l(text, reference), correct)


COLUMNS = {
    "perplexity": ("perplexity", 1),
    "agreement": ("agreement_%", 100),
    "kl": ("kl_nats", 1),
    "rouge_l": ("rouge_l_%", 100),
    "rouge_l_se": ("rouge_l_se_%", 100),
    "exact_match": ("exact_match_%", 100),
    "exact_match_se": ("exact_match_se_%", 100),
}
"""Metric to its column in the summary, and its factor there."""


def summary_table(judged: Sequence[Judgement]) -> pa.Table:
    """One row a model; a column that no model has is left out."""
    rows = []
    for one in judged:
        known = one.metrics()
        values = {
            title: None if (value := known.get(f"{one.role}_{name}")) is None else round(factor * value, 4)
            for name, (title, factor) in COLUMNS.items()
        }
        rows.append({"model": one.role, **values})
    kept = [title for title, _ in COLUMNS.values() if any(row[title] is not None for row in rows)]
    schema = pa.schema([("model", pa.string()), *((title, pa.float64()) for title in kept)])
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema)


def sample_rows(judged: Sequence[Judgement], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """For each prompt answered: its row, the prompt, the reference, and each model's answer under the first seed."""
    texts = {
        one.role: {answer.row: answer.text for answer in one.answers if answer.sample == 0} for one in judged
    }
    found = []
    for row in sorted({row for answered in texts.values() for row in answered}):
        example = examples[row]
        assert isinstance(example, Dialogue), row
        told = {role: answered.get(row, "") for role, answered in texts.items()}
        found.append(
            {"row": row, "prompt": example.opening.turns[-1].content, "reference": example.reference, **told}
        )
    return found


def sample_table(judged: Sequence[Judgement], examples: Sequence[Example]) -> pa.Table:
    """`sample_rows` as a table."""
    return pa.Table.from_pylist(sample_rows(judged, examples))


def response_table(judged: Sequence[Judgement]) -> pa.Table:
    """One row an answer, under every seed."""
    rows = [
        {
            "model": one.role, "row": answer.row, "sample": answer.sample, "text": answer.text,
            "rouge_l": answer.rouge_l, "correct": answer.correct,
        }
        for one in judged
        for answer in one.answers
    ]  # fmt: skip
    types = (pa.string(), pa.int64(), pa.int64(), pa.string(), pa.float64(), pa.bool_())
    return pa.Table.from_pylist(rows, pa.schema(list(zip(rows[0], types, strict=True))))


def perplexity_picture(judged: Sequence[Judgement]) -> bytes:
    """A bar for each model."""
    heights = {one.role: [(one.likelihood["perplexity"], None)] for one in judged}
    return bars(["held-out text"], heights, title="lower is better", axis="perplexity")
