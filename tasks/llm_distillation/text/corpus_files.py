"""Reading the rows of a corpus: JSON lines, Parquet or plain text, zipped or not. Messages name file and line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.data.files import data_folder, open_plain, reading

EXPECTED = "JSON lines (.jsonl, .jsonl.gz), Parquet (.parquet) or plain text (.txt, .txt.gz)"
TEXT = "text"
"""The field of a row of a plain text file."""
BUNDLED = Path(__file__).parent / "bundled"
"""What comes with Limbeck: `shakespeare.txt.gz`, 1.1 MB of his plays."""

Row = dict[str, Any]


def format_of(path: str) -> str | None:
    """`jsonl`, `parquet` or `txt`, by the name's ending; None for any other."""
    suffix = path.lower().removesuffix(".gz").rpartition(".")[2]
    zipped = path.lower().endswith(".gz")
    return suffix if suffix in ("jsonl", "txt") or (suffix == "parquet" and not zipped) else None


def absolute(path: str) -> str:
    """`path` from the working directory where the file is there, else as it was: a worker may run in another
    folder."""
    here = Path(path).expanduser().absolute()
    return str(here) if here.exists() else path


def found(path: str) -> Path:
    """A relative path is taken from the working directory, else from the data folder, else from what comes with
    Limbeck. Raises ValueError."""
    here = Path(path).expanduser().absolute()
    places = list(dict.fromkeys([here, data_folder(path, None).absolute()]))
    for place in [*places, BUNDLED / path]:
        if place.is_file():
            return place
        if place.is_dir():
            raise ValueError(f"corpus {path}: {place} is a folder; expected a file of it: name the file")
    raise ValueError(
        f"corpus {path}: found neither {' nor '.join(map(str, places))}; expected {EXPECTED}: correct `path`, or put "
        "it there"
    )


def read_rows(path: Path, separator: str | None) -> list[Row]:
    """The rows of a file in their order; a text file gives one row a document, cut at `separator`.

    Raises ValueError that names the file and the line.
    """
    kind = format_of(path.name)
    if kind == "parquet":
        return _parquet(path)
    with reading(path, EXPECTED), open_plain(path) as file:
        data = file.read()
    text = _utf8(path, data)
    if kind == "jsonl":
        return list(_json_lines(path, text))
    return [{TEXT: part} for part in (text.split(separator) if separator else [text])]


def _utf8(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: cannot be read as UTF-8 (byte {data[error.start]:#04x}); convert the file to UTF-8"
        ) from error


def _parquet(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    with reading(path, EXPECTED):
        rows: list[Row] = pq.ParquetFile(path).read().to_pylist()
    return rows


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: no JSON ({error}); expected one object a line: correct the line"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: found {type(row).__name__}, expected an object such as "
                '{"prompt": "...", "response": "..."}'
            )
        yield row
