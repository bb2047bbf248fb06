"""Canonical JSON and the digests made from it: equal values give equal bytes on every machine."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any


def canonical(value: Any, where: str = "value") -> bytes:
    """`value` as JSON with sorted keys, tight separators and ASCII only.

    Tuples become lists; 1 and 1.0 stay apart. Raises ValueError naming the place in `where` of anything
    that JSON cannot hold exactly: NaN and infinities, keys that are not strings, objects.
    """
    return compact(_plain(value, where))


def compact(value: Any) -> bytes:
    """As `canonical`, of a value that is known to be plain JSON: nothing in it is looked at."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value: Any) -> str:
    """The first 32 hex digits of the sha256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value)).hexdigest()[:32]


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {_name(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise ValueError(
        f"{where}: {value!r:.80} ({type(value).__name__}) cannot be kept as JSON; "
        "expected null, a boolean, a finite number, a string, a list or a mapping"
    )


def _name(key: Any, where: str) -> str:
    if isinstance(key, str):
        return key
    raise ValueError(f"{where}: key {key!r:.80} is not a string; write it as one")
