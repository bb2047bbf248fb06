"""Which rows are positive."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .words import nearest, some, text


def labels_of(
    column: pa.ChunkedArray, source: str, target: str, positive: Sequence[str] | None
) -> np.ndarray:
    """float32 (N,): +1 for the values in `positive`, -1 for all others.

    Without `positive` it is the larger of the two values: numbers are compared as numbers, text as text.
    Raises ValueError with one clear line: a row without a value, one value only, more than two without
    `positive`, a positive value that no row has, no row that is not positive.
    """
    _check_filled(column, source, target)
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    used = np.unique(codes)
    found = {int(code): encoded.dictionary[int(code)].as_py() for code in used}
    chosen = _chosen(_sorted(found.values()), source, target, positive)
    wanted = [code for code, value in found.items() if text(value) in chosen]
    return np.where(np.isin(codes, wanted), 1, -1).astype(np.float32)


def _check_filled(column: pa.ChunkedArray, source: str, target: str) -> None:
    missing = pc.is_null(column, nan_is_null=True).to_numpy()
    if missing.any():
        raise ValueError(
            f"{source}: the target {target!r} is missing in row {int(missing.argmax())} ({missing.sum()} such); "
            "expected a value in every row: fill or drop it"
        )


def _sorted(values: Any) -> list[str]:
    found = list(values)
    numeric = all(isinstance(value, int | float) for value in found)
    return [text(value) for value in (sorted(found) if numeric else sorted(found, key=str))]


def _chosen(found: list[str], source: str, target: str, positive: Sequence[str] | None) -> set[str]:
    """The values that count as positive, of those found in sorted order."""
    if len(found) < 2:
        raise ValueError(
            f"{source}: the target {target!r} is {found[0]} in every row, one class only; expected two: add rows "
            "of another class, or correct `target`"
        )
    if positive is None and len(found) > 2:
        raise ValueError(
            f"{source}: the target {target!r} has {len(found)} values ({some(found)}); expected two, or `positive`: "
            "name the values that count as +1 in `positive`, or correct `target`"
        )
    chosen = found[-1:] if positive is None else list(positive)
    unknown = next((value for value in chosen if value not in found), None)
    if unknown is not None:
        raise ValueError(
            f"{source}: no row has the value {unknown!r} in the target {target!r}; correct `positive`: "
            f"{nearest(unknown, found)}"
        )
    if len(set(chosen)) == len(found):
        raise ValueError(
            f"{source}: `positive` names every value of the target {target!r} ({some(found)}), one class only; "
            "expected at least one value to be left as -1: take one out"
        )
    return set(chosen)
