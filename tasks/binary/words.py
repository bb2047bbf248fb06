"""Names and values as text: in labels, in comparisons and in messages."""

import difflib
import re
from collections.abc import Sequence

SHOWN = 8
"""So many values a message lists at most."""


def text(value: object) -> str:
    """A value of a target column as the settings write it: `true`, `1` also for 1.0, else as it prints."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def slug(name: str) -> str:
    """`name` in the characters [a-z0-9_.-], for tables, files and identities."""
    return re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-") or "unnamed"


def nearest(word: str, known: Sequence[str]) -> str:
    """What a message says about a name that is not among `known`."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {some(known)}"


def some(values: Sequence[str]) -> str:
    """The values, cut after the first few."""
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return ", ".join(values[:SHOWN]) + more
