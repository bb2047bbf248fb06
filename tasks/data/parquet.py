"""`parquet`: as Hugging Face datasets are written: a column of encoded images and one of labels."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .decode import decode
from .files import existing, reading
from .image_data import Loaded

if TYPE_CHECKING:
    from .dataset import Dataset

EXPECTED = "a Parquet file, a folder of them or a pattern such as data/train-*.parquet"
LABEL_NAMES = ("label", "labels")


def files(dataset: "Dataset", split: str) -> dict[str, Path]:
    """Position, and the columns where the user names them, to path; in the order of the file names."""
    columns = json.dumps([dataset.image_column, dataset.label_column])
    return {f"{columns}/{index:06d}": path for index, path in enumerate(_paths(dataset.path(split)))}


def read(dataset: "Dataset", split: str) -> Loaded:
    paths = _paths(dataset.path(split))
    image_column, label_column = _columns(dataset, paths[0])
    encoded: list[bytes] = []
    sources: list[str] = []
    labels = []
    for path in paths:
        with reading(path, f"a Parquet file with the columns {image_column} and {label_column}"):
            table = pq.ParquetFile(path).read(columns=[image_column, label_column])
        encoded += _encoded(table[image_column], path)
        sources += [f"{path} row {row}" for row in range(table.num_rows)]
        labels.append(_labels(table[label_column], path))
    images = decode(encoded, sources)
    source = str(dataset.path(split))
    return Loaded(source, images, np.concatenate(labels), _class_names(paths[0], label_column))


def _paths(path: Path) -> list[Path]:
    if "*" in path.name:
        found = sorted(path.parent.glob(path.name))
    elif path.is_dir():
        found = sorted(path.rglob("*.parquet"))
    else:
        return [existing(path, EXPECTED)]
    if not found:
        raise ValueError(f"{path}: no Parquet file is there; expected {EXPECTED}: correct the path")
    return found


def _columns(dataset: "Dataset", path: Path) -> tuple[str, str]:
    """The names of the image and the label column: those the user gave, else the only ones that can be."""
    with reading(path, "a Parquet file"):
        schema = pq.read_schema(path)
    images = [field.name for field in schema if _holds_images(field.type)]
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    usual = [name for name in LABEL_NAMES if name in schema.names]
    image_column = _chosen(dataset.image_column, images, "image_column", schema, path)
    label_column = _chosen(dataset.label_column, usual[:1] or integers, "label_column", schema, path)
    return image_column, label_column


def _chosen(asked: str | None, fitting: list[str], setting: str, schema: pa.Schema, path: Path) -> str:
    known = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if asked is not None and asked not in schema.names:
        raise ValueError(f"{path}: has no column {asked!r}; its columns are {known}: correct `{setting}`")
    if asked is None and len(fitting) != 1:
        raise ValueError(
            f"{path}: {len(fitting)} of its columns can be the {setting.removesuffix('_column')}s: {known}; expected "
            f"one column of encoded images and one of integer labels: name it in `{setting}`"
        )
    return asked or fitting[0]


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _encoded(column: pa.ChunkedArray, path: Path) -> list[bytes]:
    if not _holds_images(column.type):
        raise ValueError(
            f"{path}: the image column is of the type {column.type}; expected encoded images, binary or a struct "
            "with `bytes`: name another in `image_column`"
        )
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    if column.null_count:
        row = column.to_pylist().index(None)
        raise ValueError(
            f"{path}: row {row} holds no image bytes; expected an encoded image in every row: embed them"
        )
    encoded: list[bytes] = column.to_pylist()
    return encoded


def _labels(column: pa.ChunkedArray, path: Path) -> np.ndarray:
    if column.null_count:
        row = column.to_pylist().index(None)
        raise ValueError(
            f"{path}: row {row} has no label; expected a whole number in every row: fill or drop it"
        )
    return np.asarray(column.to_numpy())


def _class_names(path: Path, label_column: str) -> tuple[str, ...] | None:
    """The names that Hugging Face keeps with the schema, where there are any."""
    metadata = pq.read_schema(path).metadata or {}
    if b"huggingface" not in metadata:
        return None
    with reading(path, "a Parquet file with readable Hugging Face metadata"):
        feature = json.loads(metadata[b"huggingface"])["info"]["features"].get(label_column, {})
        names = feature.get("names")
        return tuple(str(name) for name in names) if names else None
