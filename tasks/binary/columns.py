"""The columns of a table: which are numbers, which categories, and both as arrays."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .data import TableData
from .targets import labels_of
from .words import nearest

LARGEST = np.finfo(np.float32).max
MOST_VALUES = 10_000
"""A category of more values becomes too many columns of zeros and ones."""


def table_data(
    table: pa.Table, source: str, target: str, positive: Sequence[str] | None, categorical: Sequence[str]
) -> TableData:
    """The checked table; messages name it `source`.

    Columns of text, of truth values and dictionaries are categories, and so are those in `categorical`.
    Raises ValueError with one clear line: no rows, no features, two columns of one name, no such column,
    a column of another type, a number that is not finite, and whatever `labels_of` finds.
    """
    _check_names(table, source, target, categorical)
    if table.num_rows == 0:
        raise ValueError(f"{source}: holds no rows; expected rows of both classes: fill the table")
    for field in table.schema:
        _check_type(field, source)
    labels = labels_of(plain(table[target]), source, target, positive)
    features = [name for name in table.column_names if name != target]
    chosen = {name for name in features if name in categorical or _is_category(table.schema.field(name).type)}
    numbers = [_numbers(table[name], name, source) for name in features if name not in chosen]
    categories = [_categories(table[name], name, source) for name in features if name in chosen]
    codes = _stacked([coded for coded, _ in categories], table.num_rows, np.int32)
    sizes = tuple(size for _, size in categories)
    return TableData(source, _stacked(numbers, table.num_rows, np.float64), codes, sizes, labels)


def _check_names(table: pa.Table, source: str, target: str, categorical: Sequence[str]) -> None:
    names = table.column_names
    twice = next((name for name, number in Counter(names).items() if number > 1), None)
    if twice is not None:
        raise ValueError(
            f"{source}: has {names.count(twice)} columns {twice!r}; expected every name once: rename them"
        )
    for field, wanted in [("target", target), *(("categorical", name) for name in categorical)]:
        if wanted not in names:
            raise ValueError(
                f"{source}: has no column {wanted!r}; correct `{field}`: {nearest(wanted, names)}"
            )
    if target in categorical:
        raise ValueError(f"{source}: the target {target!r} is no feature: leave it out of `categorical`")
    if len(names) == 1:
        raise ValueError(
            f"{source}: has the target {target!r} only; expected feature columns beside it: add some"
        )


def _check_type(field: pa.Field, source: str) -> None:
    kind = field.type
    if not (_is_category(kind) or _is_number(kind)):
        raise ValueError(
            f"{source}: column {field.name!r} is of the type {kind}; expected numbers, text or truth values: "
            "convert or drop it"
        )


def _is_number(kind: pa.DataType) -> bool:
    asked = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    return any(is_kind(kind) for is_kind in asked)


def _is_category(kind: pa.DataType) -> bool:
    asked = (pa.types.is_dictionary, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
    return any(is_kind(kind) for is_kind in (*asked, pa.types.is_string_view))


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values themselves where they are kept in a dictionary."""
    return pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _numbers(column: pa.ChunkedArray, name: str, source: str) -> np.ndarray:
    values = np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy())
    infinite = np.flatnonzero(np.abs(values) > LARGEST)
    if len(infinite):
        raise ValueError(
            f"{source}: column {name!r} holds {values[infinite[0]]} in row {infinite[0]} ({len(infinite)} such); "
            "expected finite numbers that float32 can hold, or nothing where one is missing: correct or empty the field"
        )
    return values


def _categories(column: pa.ChunkedArray, name: str, source: str) -> tuple[np.ndarray, int]:
    """A whole number for each value, in the order of the values as text, the largest for what is missing; and
    how many there are."""
    column = plain(column)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    encoded = pc.cast(column, pa.string()).combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if len(values) > MOST_VALUES:
        raise ValueError(
            f"{source}: column {name!r} is a category of {len(values)} values; expected {MOST_VALUES} at most, as each "
            "becomes a column: drop it where it names the rows, else group its values"
        )
    ranks = np.empty(len(values) + 1, np.int32)
    ranks[sorted(range(len(values)), key=values.__getitem__)] = np.arange(len(values))
    ranks[-1] = len(values)
    codes: np.ndarray = ranks[pc.fill_null(encoded.indices, len(values)).to_numpy()]
    return codes, len(values) + bool(encoded.null_count)


def _stacked(columns: list[np.ndarray], rows: int, kind: type) -> np.ndarray:
    return np.stack(columns, axis=1).astype(kind) if columns else np.empty((rows, 0), kind)
