"""The setting of a corpus: what text there is, which of it is learned, and how it is read."""

import hashlib
import json
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.task import Settings
from tasks.data.digest import digest_of_files
from tasks.llm_distillation.text.corpus_files import (
    EXPECTED,
    TEXT,
    Row,
    absolute,
    format_of,
    found,
    read_rows,
)
from tasks.llm_distillation.text.examples import USUAL, Example, example_of, shape_of


def _pair(value: object) -> object:
    return tuple(float(item) for item in value) if isinstance(value, list | tuple) else value


class Corpus(Settings):
    """Text. `corpus: FILE` is short for `corpus: {path: FILE}`.

    Each row is a chat (`messages`), a prompt with its response, or plain text, whichever its fields tell.
    """

    path: str
    """JSON lines (.jsonl, .jsonl.gz), Parquet or plain text (.txt, .txt.gz); a relative path is taken from the
    working directory, else from the data folder ${LIMBECK_DATA:-~/.cache/limbeck/data}; `shakespeare.txt.gz` comes
    with Limbeck. Not part of any key: the content is."""
    messages: str | None = None
    """Field of chat messages, a list of {role, content}; default `messages` or `conversations`."""
    prompt: str | None = None
    """Field of the prompt; default `prompt`, `question` or `instruction`."""
    response: str | None = None
    """Field of the response; default `response`, `answer`, `completion` or `output`."""
    text: str | None = None
    """Field of plain text; default `text`."""
    separator: str | None = Field(default=None, min_length=1)
    """Plain text files: what stands between two documents, such as "\\n\\n"; none: a file is one document."""
    template: str = "{prompt}\n"
    """What is written for a prompt where no chat template is used; `{prompt}` stands for it."""
    chat: bool | None = None
    """Whether prompt and response go through the tokenizer's chat template; none: where it has one."""
    response_only: bool = True
    """Learn and judge the responses alone; prompts are context. Of plain text every token counts."""
    split: Annotated[tuple[float, float], BeforeValidator(_pair)] = (0.0, 1.0)
    """Which share of the rows, from where to where as fractions, such as [0, 0.9] to learn from and [0.9, 1] to
    judge by; of a lone document, of its lines."""
    skip: int = Field(default=0, ge=0)
    """Rows to leave out at the beginning of the split."""
    rows: int | None = Field(default=None, ge=1)
    """Rows to take then; none: all."""
    over_long: Literal["truncate", "drop"] = "truncate"
    """What becomes of a row longer than a sequence: its end is cut off, or it is left out. One whose prompt
    alone fills the sequence is always left out; plain text is always cut into pieces that lose nothing."""
    pack: bool = True
    """Whether several rows share a sequence; none sees another."""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: object) -> object:
        given = {"path": value} if isinstance(value, str) else value
        if isinstance(given, dict) and isinstance(given.get("path"), str):
            return {**given, "path": absolute(given["path"])}
        return given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if format_of(self.path) is None:
            raise ValueError(f"{self.path}: expected {EXPECTED}: convert the file")
        start, end = self.split
        if not 0 <= start < end <= 1:
            raise ValueError(f"split {[start, end]}: expected two fractions that grow, such as [0, 0.9]")
        if "{prompt}" not in self.template:
            raise ValueError(
                f"template {self.template!r}: does not say where the prompt stands; write {{prompt}}"
            )
        return self

    @property
    def label(self) -> str:
        """A short name for tables: the file's."""
        return self.path.rpartition("/")[2].partition(".")[0]

    def content_digest(self) -> str:
        """64 hexadecimal digits that depend on the content of the file and on every setting but the path.

        Raises ValueError for a file that is missing or cannot be read.
        """
        settings = self.model_dump(mode="json", exclude={"path"}, exclude_defaults=True)
        content = digest_of_files("corpus", {f"corpus.{format_of(self.path)}": found(self.path)})
        return hashlib.sha256(json.dumps([settings, content], sort_keys=True).encode()).hexdigest()

    def examples(self) -> tuple[Example, ...]:
        """What the rows say, in their order; a row without the text it needs is an empty example. Read once a
        process for the same content.

        Raises as `content_digest`, and ValueError where the rows have not the fields that they should.
        """
        return _examples(self, self.content_digest())

    def unchanged(self, digest: str) -> tuple[Example, ...]:
        """`examples`, of the content that had this digest when the work was planned; ValueError where it changed."""
        if self.content_digest() != digest:
            raise ValueError(f"corpus {self.path}: its content changed since it was planned; run it again")
        return self.examples()

    def _read(self) -> tuple[Example, ...]:
        rows = self._rows()
        given = {part: name for part in USUAL if (name := getattr(self, part)) is not None}
        shape = shape_of(self.path, rows, given)
        return tuple(
            example_of(f"{self.path}, row {number}", row, shape) for number, row in enumerate(rows, start=1)
        )

    def _rows(self) -> list[Row]:
        rows = read_rows(found(self.path), self.separator)
        if format_of(self.path) == "txt" and len(rows) == 1:
            lines = rows[0][TEXT].splitlines(keepends=True)
            rows = [{TEXT: "".join(_part(lines, self.split))}]
        else:
            rows = _part(rows, self.split)
        last = None if self.rows is None else self.skip + self.rows
        rows = rows[self.skip : last]
        if not rows:
            raise ValueError(f"{self.path}: no rows are left; correct `split`, `skip` or `rows`")
        return rows


@lru_cache(maxsize=8)
def _examples(corpus: Corpus, digest: str) -> tuple[Example, ...]:
    return corpus._read()


def _part(items: list[Any], split: tuple[float, float]) -> list[Any]:
    """The share of `items` from and to these fractions; neighbouring shares leave nothing out."""
    start, end = (round(share * len(items)) for share in split)
    return items[start:end]
