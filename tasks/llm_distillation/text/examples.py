"""What a corpus says, before any tokenizer: plain texts and dialogues; and which fields of a row hold it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.binary.words import nearest, some
from tasks.llm_distillation.text.corpus_files import TEXT, Row

USUAL = {
    "messages": ("messages", "conversations"),
    "prompt": ("prompt", "question", "instruction"),
    "response": ("response", "answer", "completion", "output"),
    "text": (TEXT,),
}
"""What a field is called where the settings do not say."""
SHAPES = (("messages",), ("prompt", "response"), ("text",))
"""Of which fields an example is made."""


@dataclass(frozen=True)
class Turn:
    """One message of a dialogue."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True)
class Dialogue:
    """Messages in turn; what the assistant says is the response."""

    turns: tuple[Turn, ...]

    @property
    def reference(self) -> str:
        """The last message where the assistant says it, else nothing."""
        return self.turns[-1].content if self.turns and self.turns[-1].role == "assistant" else ""

    @property
    def opening(self) -> "Dialogue":
        """What comes before the reference."""
        return Dialogue(self.turns[:-1]) if self.reference else self


@dataclass(frozen=True)
class Plain:
    """A text without roles."""

    text: str


Example = Dialogue | Plain


def shape_of(where: str, rows: Sequence[Row], given: Mapping[str, str]) -> dict[str, str]:
    """Which of `messages`, `prompt`, `response` and `text` the rows have, and the names of their fields.

    `given` holds the names that the settings say. Raises ValueError, which begins with `where`.
    """
    known = list(dict.fromkeys(name for row in rows[:100] for name in row))
    for part, name in given.items():
        if name not in known and name.partition(".")[0] not in known:
            raise ValueError(f"{where}: {part} {name!r}: the rows have no such field; {nearest(name, known)}")
    usual = {part: next((name for name in names if name in known), None) for part, names in USUAL.items()}
    fields = {part: name for part, name in usual.items() if name is not None} | dict(given)
    for parts in SHAPES:
        asked = given.keys() & set(parts) if given else fields.keys() & {parts[0]}
        if asked and parts[0] in fields:
            return {part: fields[part] for part in parts if part in fields}
    raise ValueError(
        f"{where}: the fields are {some(known)}; expected messages, a prompt and its response, or text: set "
        "`messages`, `prompt` and `response`, or `text`"
    )


def example_of(where: str, row: Row, shape: Mapping[str, str]) -> Example:
    """The example in a row; an empty one where a field is missing or null. Raises ValueError."""
    if "messages" in shape:
        return Dialogue(_turns(where, _value(row, shape["messages"])))
    texts = {part: _text(f"{where}: {name}", _value(row, name)) for part, name in shape.items()}
    if "text" in texts:
        return Plain(texts["text"])
    said = [
        Turn(role, texts[part])
        for role, part in (("user", "prompt"), ("assistant", "response"))
        if texts.get(part)
    ]
    return Dialogue(tuple(said) if texts["prompt"] else ())


def _value(row: Row, name: str) -> Any:
    """A field, or what lies inside it: `instances.0.output`. None where there is nothing."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _text(where: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise ValueError(f"{where}: found {type(value).__name__}, expected text: name another field")


def _turns(where: str, messages: Any) -> tuple[Turn, ...]:
    if messages is None:
        return ()
    try:
        return tuple(
            Turn(*(_text(where, message[part]) for part in ("role", "content"))) for message in messages
        )
    except (TypeError, KeyError) as error:
        raise ValueError(
            f'{where}: found {str(messages)[:60]}, expected messages such as {{"role": "user", "content": "..."}}'
        ) from error
