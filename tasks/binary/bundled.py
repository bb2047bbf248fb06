"""The tables that come with scikit-learn; their targets are the names of the classes."""

import hashlib
import json
from functools import cache

import pyarrow as pa

TABLES = ("breast_cancer", "wine", "digits", "iris")
TARGET = "target"


@cache
def read(name: str) -> pa.Table:
    """The features under their names, then `target`."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    columns = dict(zip(bunch.feature_names, bunch.data.T, strict=True))
    return pa.table({**columns, TARGET: [str(bunch.target_names[label]) for label in bunch.target]})


@cache
def digest(name: str) -> str:
    """64 hexadecimal digits that depend on names and values."""
    values = {
        column: table.to_pylist() for column, table in zip(read(name).column_names, read(name), strict=True)
    }
    return hashlib.sha256(json.dumps([name, values]).encode()).hexdigest()
