"""The setting `dataset:` of an experiment, and how it becomes images in memory."""

import difflib
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, Self

from pydantic import field_validator, model_validator

from orchestrator.task import Settings

from . import cifar, digits, fashion_mnist, idx, image_folder, npz, parquet
from .digest import digest_of_arrays, digest_of_files
from .image_data import ImageData, Loaded
from .validate import validate


class Reader(Protocol):
    """What each reader module offers. `split` is "train" or "test"."""

    def files(self, dataset: "Dataset", split: str) -> dict[str, Path]:
        """The files of a split by a label that does not depend on the folder they lie in."""
        ...

    def read(self, dataset: "Dataset", split: str) -> Loaded: ...


READERS: MappingProxyType[str, Reader] = MappingProxyType(
    {
        "digits": digits,
        "fashion_mnist": fashion_mnist,
        "cifar10": cifar,
        "cifar100": cifar,
        "npz": npz,
        "parquet": parquet,
        "idx": idx,
        "image_folder": image_folder,
    }
)
OWN = ("npz", "parquet", "idx", "image_folder")
"""Formats of the user's own data, which `train` and `test` point to."""
SPLITS = ("train", "test")


class Dataset(Settings):
    """A labelled image dataset. `dataset: digits` is short for `dataset: {name: digits}`."""

    name: Literal["digits", "fashion_mnist", "cifar10", "cifar100", "npz", "parquet", "idx", "image_folder"]
    """A named dataset, or the format of your own."""
    train: str | None = None
    """Your own training data: a file, for parquet also a folder or a pattern, for image_folder a folder."""
    test: str | None = None
    """Your own test data."""
    root: str | None = None
    """Folder that holds a named dataset's files; without it ${LIMBECK_DATA:-~/.cache/limbeck/data}/NAME, where
    they are downloaded to if they are missing."""
    image_column: str | None = None
    """Parquet: the column of encoded images, where more than one could be."""
    label_column: str | None = None
    """Parquet: the column of labels, where it is not `label`, `labels` or the only integer column."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        given = {"name": value} if isinstance(value, str) else value
        name = given.get("name") if isinstance(given, dict) else None
        if isinstance(name, str) and name not in READERS:
            raise ValueError(f"unknown dataset {name!r}: {_nearest(name)}")
        return given

    @field_validator("train", "test", "root")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """A worker may run in another folder than the one in which the user typed the path."""
        return None if path is None else str(Path(path).expanduser().absolute())

    @model_validator(mode="after")
    def _fields_fit_the_name(self) -> Self:
        own = self.name in OWN
        fitting = {"train": own, "test": own, "root": self.name not in (*OWN, "digits")}
        fitting |= {"image_column": self.name == "parquet", "label_column": self.name == "parquet"}
        for field, fits in fitting.items():
            if getattr(self, field) is not None and not fits:
                raise ValueError(f"dataset {self.name} takes no `{field}`: leave it out")
        if own and (self.train is None or self.test is None):
            missing = "train" if self.train is None else "test"
            raise ValueError(f"dataset {self.name} needs `train` and `test`: add `{missing}: PATH`")
        if own and self.train == self.test:
            raise ValueError(f"`train` and `test` are both {self.train}: give data kept apart for testing")
        return self

    def path(self, split: str) -> Path:
        """Where the user's own data of a split lies."""
        path = {"train": self.train, "test": self.test}[split]
        assert path is not None, self.name
        return Path(path)

    def content_digest(self) -> str:
        """64 hexadecimal digits that depend on the content of the files, not on where they lie.

        Raises ValueError for files that are missing or cannot be read, ConnectionError where a named
        dataset cannot be downloaded.
        """
        files = {f"{split}/{label}": path for split in SPLITS for label, path in self._files(split).items()}
        return digest_of_files(self.name, files) if files else digest_of_arrays(self.name, self._read())

    def load(self) -> ImageData:
        """The checked images; read once a process for the same content.

        Raises as `content_digest`, and ValueError with one clear line for whatever is wrong in the data.
        """
        return _load(self, self.content_digest())

    def _files(self, split: str) -> dict[str, Path]:
        return READERS[self.name].files(self, split)

    def _read(self) -> ImageData:
        return validate(*(READERS[self.name].read(self, split) for split in SPLITS))


@lru_cache(maxsize=4)
def _load(dataset: Dataset, digest: str) -> ImageData:
    return dataset._read()


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, READERS, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(READERS)}"
