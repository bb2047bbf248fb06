"""The setting of a two-class problem, and how it becomes numbers in memory."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import BeforeValidator, Field, model_validator

from orchestrator.task import Settings
from tasks.data import Dataset
from tasks.data.digest import digest_of_files

from . import bundled, columns, image_pair, openml, table
from .data import BinaryData
from .sample import stratified
from .words import nearest, slug, text

FIELDS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(bundled.TABLES, ("positive", "rows")),
        "table": ("path", "target", "positive", "categorical", "rows"),
        "openml": ("id", "positive", "categorical", "rows"),
        "image_pair": ("images", "classes", "rows"),
    }
)
"""Name to the fields that go with it."""
NEEDED = MappingProxyType({"table": ("path",), "openml": ("id",), "image_pair": ("images", "classes")})


def _strings(value: object) -> object:
    """A list of strings, numbers or truth values, or one of them, as a tuple of strings."""
    values = value if isinstance(value, list | tuple) else [value]
    plain = all(isinstance(item, str | int | float) for item in values)
    return tuple(text(item) for item in values) if plain else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_strings)]


class BinaryDataset(Settings):
    """A two-class problem. `breast_cancer` is short for `{name: breast_cancer}`."""

    name: Literal["breast_cancer", "wine", "digits", "iris", "table", "openml", "image_pair"]
    """A bundled table, `table` for your own file, `openml`, or `image_pair`."""
    path: str | None = None
    """table: Parquet or CSV file; a relative path is taken from the working directory, else from the data
    folder ${LIMBECK_DATA:-~/.cache/limbeck/data}. Not part of any key: the content is."""
    target: str | None = None
    """table: column that holds the class; default `target`."""
    positive: Strings | None = Field(default=None, min_length=1)
    """Values of the target that count as +1, all others as -1. Default: with two values the larger, numbers
    being compared as numbers and text as text; with more it must be given."""
    categorical: Strings | None = None
    """More columns to take as categories; those of text, truth values and dictionaries always are."""
    id: int | None = Field(default=None, gt=0)
    """openml: number of the dataset."""
    images: Dataset | None = None
    """image_pair: the image dataset."""
    classes: Strings | None = Field(default=None, min_length=2, max_length=2)
    """image_pair: names of two classes; the first is -1, the second +1."""
    rows: int | None = Field(default=None, ge=10)
    """Number of rows kept, drawn once in the shares of the classes by a seed that the content alone decides;
    of image_pair training images, and as large a share of its test images. Default: all."""

    title: str | None = Field(default=None, min_length=1, max_length=60)
    """What tables call it; default: its name, its file's or its classes'. Not part of any shard's key."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        given = {"name": value} if isinstance(value, str) else value
        name = given.get("name") if isinstance(given, dict) else None
        if isinstance(name, str) and name not in FIELDS:
            raise ValueError(f"unknown two-class dataset {name!r}: {nearest(name, list(FIELDS))}")
        return _absolute(given)

    @model_validator(mode="after")
    def _fields_fit_the_name(self) -> Self:
        fitting = FIELDS[self.name]
        for field in type(self).model_fields:
            if field not in ("name", "title", *fitting) and getattr(self, field) is not None:
                raise ValueError(f"dataset {self.name} takes no `{field}`: leave it out, or correct `name`")
        for field in NEEDED.get(self.name, ()):
            if getattr(self, field) is None:
                raise ValueError(f"dataset {self.name} needs `{field}`: add it")
        if self.path is not None and not table.is_readable(self.path):
            raise ValueError(f"{self.path}: expected {table.EXPECTED}: convert the file")
        if self.classes is not None and self.classes[0] == self.classes[1]:
            raise ValueError(f"`classes` names {self.classes[0]!r} twice: give two classes")
        return self

    @property
    def label(self) -> str:
        """A short name for tables, in the characters [a-z0-9_.-]: the title where there is one. Two files of one
        name, or one dataset with other positive values, have the same."""
        if self.title is not None:
            return slug(self.title)
        if self.path is not None:
            return slug(self.path.rpartition("/")[2].removesuffix(".gz").rpartition(".")[0])
        if self.images is not None:
            return slug("-".join((self.images.name, *(self.classes or ()))))
        return self.name if self.id is None else f"openml-{self.id}"

    def content_digest(self) -> str:
        """64 hexadecimal digits that depend on the content of the files and on every setting but path and title.

        Raises ValueError for files that are missing or cannot be read, ConnectionError where a dataset
        cannot be downloaded.
        """
        return _digest(self, self._content())

    def load(self) -> BinaryData:
        """The checked rows; read once a process for the same content.

        Raises as `content_digest`, and ValueError with one clear line for whatever is wrong in the data.
        """
        return _load(self, self._content())

    def _content(self) -> str:
        """The digest of the content alone."""
        if self.images is not None:
            return self.images.content_digest()
        if self.name in bundled.TABLES:
            return bundled.digest(self.name)
        return digest_of_files("table", {"table": self._file()})

    def _file(self) -> Path:
        if self.id is not None:
            return openml.kept(self.id)
        assert self.path is not None, self.name
        return table.found(self.path)

    def _read(self, seed: int) -> BinaryData:
        if self.images is not None:
            assert self.classes is not None
            first, second = self.classes
            return image_pair.read(self.images, (first, second), self.rows, seed)
        content, source = self._table()
        target, categorical = self.target or "target", self.categorical or ()
        data = columns.table_data(content, source, target, self.positive, categorical)
        return data if self.rows is None else data.taken(stratified(data.labels, self.rows, seed))

    def _table(self) -> tuple[pa.Table, str]:
        """The table and what messages call it."""
        if self.name in bundled.TABLES:
            return bundled.read(self.name), self.name
        path = self._file()
        return table.read(path), str(path)


def _absolute(given: object) -> object:
    """A worker may run in another folder than the one in which the user typed the path."""
    path = given.get("path") if isinstance(given, dict) else None
    return {**given, "path": table.absolute(path)} if isinstance(path, str) else given  # type: ignore[dict-item]


def _digest(dataset: BinaryDataset, content: str) -> str:
    settings = dataset.model_dump(mode="json", exclude={"path", "images", "title"}, exclude_defaults=True)
    return hashlib.sha256(json.dumps([settings, content], sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=4)
def _load(dataset: BinaryDataset, content: str) -> BinaryData:
    return dataset._read(seed=int(content[:16], 16))
