"""Finding and opening the files of a dataset, with one clear line for whatever goes wrong."""

import gzip
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def reading(path: Path | str, expected: str) -> Iterator[None]:
    """Whatever fails inside becomes a ValueError that names `path` and what it was `expected` to be.

    Parsers of foreign files fail in many ways (OSError, zlib.error, struct.error, their own), all of
    which mean the same to the user.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path}: {_failure(error, expected)}") from error


def _failure(error: Exception, expected: str) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no such file or folder; expected {expected}: correct the path, or put it there"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be opened ({error.strerror}); expected {expected}: check the path and its permissions"
    return f"cannot be read ({first_line(error)}); expected {expected}: check the file"


def first_line(error: Exception) -> str:
    """The first line of an error's message, else its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def existing(path: Path, expected: str) -> Path:
    """`path` itself. Raises ValueError where there is nothing."""
    with reading(path, expected):
        path.stat()
    return path


@contextmanager
def appearing(target: Path) -> Iterator[IO[bytes]]:
    """A file beside `target` that takes its place at the end, or is removed where anything fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}-", delete=False) as file:
        try:
            yield file
            file.flush()
            Path(file.name).chmod(0o644)
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """The content of `path` as a stream, gunzipped where its first bytes say that it is gzipped."""
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
        file.seek(0)
        yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file


def plain_or_gzipped(folder: Path, name: str) -> Path | None:
    """The file `name` or `name`.gz in `folder`, or None where neither is."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def data_folder(name: str, root: str | None) -> Path:
    """Where a named dataset lies: `root`, else the folder `name` in LIMBECK_DATA or ~/.cache/limbeck/data."""
    if root is not None:
        return Path(root)
    return Path(os.environ.get("LIMBECK_DATA") or "~/.cache/limbeck/data").expanduser() / name


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
