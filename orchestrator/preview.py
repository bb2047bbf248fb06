"""A look into an artifact for the terminal: its pictures as coloured half blocks, heads of tables, texts."""

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.style import Style
from rich.text import Text

from orchestrator.report.tables import are_samples
from orchestrator.store import Store, StoredArtifact
from orchestrator.store.artifacts import StoredFiles

_ROWS, _TEXTS, _PICTURES, _SHARDS = 5, 3, 4, 4
_TABLE_BYTES = 20_000_000
_UPPER_HALF = "\N{UPPER HALF BLOCK}"


@dataclass(frozen=True)
class Head:
    """The first rows of a table."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    total: int


@dataclass(frozen=True)
class Picture:
    """A picture at its last step."""

    name: str
    step: int
    png: bytes


def heads(artifact: StoredArtifact) -> list[Head]:
    """Of the closing step's tables, and of the first shard's."""
    places: list[tuple[str, StoredFiles]] = [("", artifact)]
    places += [(f"shard {shard.identity}: ", shard) for shard in artifact.shards[:1]]
    return [head for where, files in places for head in _heads(where, files)]


def texts(artifact: StoredArtifact) -> dict[str, list[dict[str, str]]]:
    """Document to its first samples, each field to text; of documents that hold samples."""
    found = {}
    for name in artifact.names:
        base, _, suffix = name.rpartition(".")
        if suffix == "json" and are_samples(rows := artifact.document(base)):
            found[base] = [
                {field: value for field, value in row.items() if isinstance(value, str)}
                for row in rows[:_TEXTS]
            ]
    return found


def pictures(store: Store, artifact: StoredArtifact) -> list[Picture]:
    """The last of each name, those of the closing step first, then those of the first shards."""
    last: dict[str, dict[str, Any]] = {}
    shards = (store.shard(shard.key).record.previews for shard in artifact.shards[:_SHARDS])
    for picture in itertools.chain(artifact.manifest.previews, *shards):
        if picture["name"] not in last or picture["step"] >= last[picture["name"]]["step"]:
            last[picture["name"]] = picture
    chosen = itertools.islice(last.items(), _PICTURES)
    return [Picture(name, one["step"], store.read_blob(one["blob"])) for name, one in chosen]


def half_blocks(png: bytes, width: int, height: int) -> Text:
    """A picture in at most so many columns and lines: each sign is two pixels, one above the other."""
    import numpy as np
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((width, 2 * height), Image.Resampling.BOX)
    pixels = np.asarray(image).tolist()
    text = Text(no_wrap=True)
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=False):
        for above, below in zip(upper, lower, strict=True):
            text.append(_UPPER_HALF, Style(color=_colour(above), bgcolor=_colour(below)))
        text.append("\n")
    return text


def _heads(where: str, files: StoredFiles) -> Iterator[Head]:
    for name in files.names:
        base, _, suffix = name.rpartition(".")
        if suffix in ("parquet", "arrow") and files.file(name).stat().st_size < _TABLE_BYTES:
            table = files.table(base)
            rows = [list(row.values()) for row in table.slice(0, _ROWS).to_pylist()]
            yield Head(where + base, table.column_names, rows, table.num_rows)


def _colour(pixel: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel)
