"""Artifacts of kind `responses`: what a model wrote to the prompts of a corpus, to learn from in its place.

The table `responses` is a corpus of its own once exported: `prompt` and `response`, or `messages` where a prompt is
more than one message; besides `row`, `sample` and `ended`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from orchestrator.task import Artifact
from tasks.llm_distillation.text.examples import Dialogue, Example, Turn, example_of

KIND = "responses"
TABLE = "responses"
_PAIR = {"prompt": "prompt", "response": "response"}
_CHAT = {"messages": "messages"}


def response_table(examples: Sequence[Example], written: Sequence[Mapping[str, Any]]) -> pa.Table:
    """One row an answer, from `row`, `sample`, `text` and `ended` of each."""
    told = [(_opening(examples[one["row"]]), one) for one in written]
    pairs = all([turn.role for turn in opening.turns] == ["user"] for opening, _ in told)
    rows = [
        {
            **(_pair(opening, one["text"]) if pairs else _chat(opening, one["text"])),
            "row": one["row"], "sample": one["sample"], "ended": one["ended"],
        }
        for opening, one in told
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def read_responses(artifact: Artifact) -> tuple[Example, ...]:
    """The examples that the answers make with their prompts, in order; what `sequences.packed` takes."""
    table = artifact.table(TABLE)
    shape = _PAIR if "prompt" in table.column_names else _CHAT
    return tuple(example_of(f"responses {artifact.id}", row, shape) for row in table.to_pylist())


def _opening(example: Example) -> Dialogue:
    assert isinstance(example, Dialogue)
    return example.opening


def _pair(opening: Dialogue, text: str) -> dict[str, Any]:
    return {"prompt": opening.turns[0].content, "response": text}


def _chat(opening: Dialogue, text: str) -> dict[str, Any]:
    turns = (*opening.turns, Turn("assistant", text))
    return {"messages": [{"role": turn.role, "content": turn.content} for turn in turns]}
