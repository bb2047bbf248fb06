"""What is read of an artifact of token labels: any of its sequences, in any order."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from orchestrator.task import Artifact, Facts, ShardFiles
from tasks.llm_distillation.labels.label_forms import TokenLabels, teacher_of
from tasks.llm_distillation.labels.label_rows import KIND, Row, rows_to_tables
from tasks.llm_distillation.labels.token_codec import Codec, some
from tasks.llm_distillation.losses.teachers import SampledTeacher, TopKTeacher
from tasks.llm_distillation.models.vocabulary import tokenizer_facts
from tasks.llm_distillation.text.corpus import Corpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD = 16
"""Shards whose tables are held at once."""

Numbers = NDArray[np.int64]
Spoken = TopKTeacher | SampledTeacher


class Told(NamedTuple):
    """A sequence, and what the teacher said for each of its learned tokens, in their order."""

    row: Row
    spoken: Spoken


@dataclass(frozen=True, eq=False)
class KeptTokenLabels:
    """The labels of an artifact; every access reads its rows from the mapped files."""

    facts: Facts
    shards: Sequence[ShardFiles]

    @classmethod
    def of(cls, artifact: Artifact) -> "KeptTokenLabels":
        if artifact.kind != KIND:
            raise ValueError(f"{artifact.id}: is of kind {artifact.kind}, expected {KIND}; give token labels")
        return cls(artifact.facts, artifact.shards)

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return int(self.facts["length"])

    @cached_property
    def labels(self) -> TokenLabels:
        return TokenLabels.model_validate(self.facts["labels"])

    @cached_property
    def numbers(self) -> list[Numbers]:
        """Of each shard the sequences that have labels."""
        return [np.asarray(table["sequence"].to_numpy(), np.int64) for table in self._tables]

    @cached_property
    def _tables(self) -> list[pa.Table]:
        return [shard.table("labels") for shard in self.shards]

    @cached_property
    def _codecs(self) -> OrderedDict[int, Codec]:
        return OrderedDict()

    @cached_property
    def _places(self) -> dict[int, tuple[int, int]]:
        """Shard and row of each sequence."""
        return {int(n): (shard, row) for shard, own in enumerate(self.numbers) for row, n in enumerate(own)}

    def read(self, sequences: Numbers) -> list[Told | None]:
        """These sequences, in this order; none where one has no labels. ValueError where the files are damaged."""
        made: dict[int, Told] = {}
        for shard, numbers in self._by_shard(sequences).items():
            rows = [Row(self._tables[shard], self._places[number][1]) for number in numbers]
            spoken = self._spoken(shard, rows)
            made |= {n: Told(row, own) for n, row, own in zip(numbers, rows, spoken, strict=True)}
        return [made.get(int(number)) for number in sequences]

    def check(self, **expected: Any) -> None:
        """ValueError that names the first fact (`corpus_digest`, `tokenizer_digest`, `teacher_digest`, `vocabulary`,
        `length`, `labels`) that is not what is expected."""
        for name, value in expected.items():
            if self.facts[name] != value:
                raise ValueError(
                    f"token labels: {name} is {self.facts[name]}, expected {value}; give the labels that were made "
                    "for it, or make them anew"
                )

    def check_corpus(self, corpus: Corpus, tokenizer: "PreTrainedTokenizerBase", length: int) -> None:
        """ValueError that says which differs where the labels are not of this corpus, read by this tokenizer."""
        known = tokenizer_facts(tokenizer)
        self.check(
            tokenizer_digest=known["digest"],
            vocabulary=known["size"],
            length=length,
            corpus_digest=corpus.content_digest(),
        )

    def _by_shard(self, sequences: Numbers) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for number in sequences.tolist():
            if number in self._places:
                found.setdefault(self._places[number][0], []).append(number)
        return found

    def _spoken(self, shard: int, rows: Sequence[Row]) -> list[Spoken]:
        sizes = [int(row.learned.sum()) for row in rows]
        if self.labels.form == "full":
            return [
                whole(row.labels, size, self.facts["vocabulary"])
                for row, size in zip(rows, sizes, strict=True)
            ]
        sets = self._codec(shard).unpack([row.labels for row in rows], sizes)
        ends = np.cumsum(sizes)
        parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        return [teacher_of(some(sets, part), self.labels) for part in parts]

    def _codec(self, shard: int) -> Codec:
        held = self._codecs
        if shard not in held:
            held[shard] = Codec(rows_to_tables(self.shards[shard].table("tables")))
            if len(held) > HELD:
                held.popitem(last=False)
        held.move_to_end(shard)
        return held[shard]


def whole(data: bytes, positions: int, vocabulary: int) -> TopKTeacher:
    """All log-probabilities of form `full`: k is the vocabulary."""
    if len(data) != 2 * positions * vocabulary:
        raise ValueError(
            f"token labels: found {len(data)} bytes for {positions} tokens, expected {2 * positions * vocabulary}; the "
            "file is damaged, make it anew"
        )
    rows = torch.from_numpy(np.frombuffer(data, "<f2").astype(np.float32)).reshape(positions, vocabulary)
    ids = torch.arange(vocabulary).expand(positions, -1)
    return TopKTeacher(ids, torch.log_softmax(rows, 1), torch.zeros(positions))
