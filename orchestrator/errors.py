"""The errors that end a verb, each with its exit code."""

import difflib
from collections.abc import Iterable


class LimbeckError(Exception):
    """Shown to the user as one message, never as a traceback.

    `answered`: standard output already carries the answer of `--json`, so that the error does not.
    """

    exit_code = 1

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class UserError(LimbeckError, ValueError):
    """The user's input is wrong."""

    exit_code = 2


class Infeasible(LimbeckError):
    """The plan asks for more than there is."""

    exit_code = 3


class RunFailed(LimbeckError):
    """Shards failed, or workers could not be had."""


class Interrupted(LimbeckError):
    """Stopped on request; the same command goes on."""

    exit_code = 130


class StoreError(LimbeckError, RuntimeError):
    """The store cannot be read or written."""


class CorruptBlob(StoreError):
    """A file's content is not what its digest says."""


class SchemaError(StoreError, UserError):
    """A record was written by a later version."""

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint to append to "unknown ..." messages: the nearest known name, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"


def last_line(text: str) -> str:
    """Its last line that says something: where programs tell what went wrong. Empty where none does."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
