"""The bytes layer: named, immutable-or-replaced byte strings in a folder or an object store.

Every write is atomic: a reader sees a whole file or none. Nothing here renames or links by name, so that
an object store (conditional puts, whole-object writes) can stand behind the same few operations.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from orchestrator.errors import UserError

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=,+@-]{0,199}")
_REMOTE = ("s3", "gs", "az")


@dataclass(frozen=True)
class Entry:
    """One file of a listing."""

    path: str
    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970, UTC."""
    version: str = ""
    """Another one after every write, where the place keeps such; else size and time have to tell."""


class Bytes(Protocol):
    """What a store asks of the place its bytes lie in. Paths are relative, with `/` between parts.

    A path that could lead outside raises UserError; a missing file FileNotFoundError; every other trouble
    (full, read-only, no permission) StoreError in one line.
    """

    @property
    def uri(self) -> str:
        """What `open_bytes` takes to open the same place from another process."""
        ...

    @property
    def at_once(self) -> int:
        """How many requests it pays to have under way at a time."""
        ...

    def read(self, path: str) -> bytes: ...

    def put(self, path: str, data: bytes) -> None:
        """Writes or replaces, atomically; on return it survives a power cut."""
        ...

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """The atomic commit: of any number of racers exactly one gets True. Cheap where `path` is there."""
        ...

    def scratch(self) -> AbstractContextManager[Path]:
        """A fresh local path to write a large file to before `put_file`; gone when the context ends. An
        OSError inside is told as a StoreError."""
        ...

    def put_file(self, path: str, file: Path) -> None:
        """As `put`. A file at a `scratch()` path may be taken over as it is: do not write to it again."""
        ...

    def put_file_if_absent(self, path: str, file: Path) -> bool:
        """As `put_if_absent`, with `put_file`'s note on scratch files."""
        ...

    def local(self, path: str) -> Path:
        """A local file with this content, to read or to memory-map; never to be written to."""
        ...

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Everything under the folder `prefix`, in no order; unfinished writes are left out."""
        ...

    def stat(self, path: str) -> Entry | None:
        """Size and age of one file; None where there is none."""
        ...

    def exists(self, path: str) -> bool: ...

    def among(self, paths: Iterable[str]) -> set[str]:
        """Those of `paths` that are there; for many, cheaper than asking for each."""
        ...

    def digest(self, path: str) -> str:
        """sha256 of what lies there now, in hex, past every cache. May raise OSError as the disk does."""
        ...

    def size(self, path: str) -> int: ...

    def delete(self, path: str) -> None:
        """No error where it is gone already."""
        ...

    def delete_old(self, path: str, before: float) -> int | None:
        """Deletes one file unless it is gone or was written since `before` (seconds since 1970). Its bytes;
        None where it stays."""
        ...

    def free_bytes(self) -> int | None:
        """Space left, where that can be known."""
        ...

    def check_writable(self) -> None:
        """Raises StoreError where nothing could be written."""
        ...

    def sweep(self, before: float, apply: bool) -> tuple[int, int]:
        """Counts unfinished writes last touched before this time (seconds since 1970) and their bytes;
        with `apply` removes them."""
        ...


def open_bytes(uri: str, patience_s: float | None = None) -> Bytes:
    """The place `uri` names: a path or `file://` path, s3://bucket/prefix, gs:// or az://; `patience_s` is how long
    a server that is away is waited for (unset: as long as work is worth)."""
    from orchestrator.store.folder import open_folder

    if not uri.strip() or "\0" in uri:
        raise UserError(f"store {uri!r}: expected a folder such as ./limbeck-store")
    scheme, found, _ = uri.partition("://")
    if not found:
        return open_folder(Path(uri).expanduser())
    parts = urlsplit(uri)
    if scheme == "file" and parts.netloc in ("", "localhost"):
        return open_folder(Path(unquote(parts.path)))
    if scheme in _REMOTE:
        from orchestrator.store.objects import open_objects

        return open_objects(uri, patience_s)
    raise UserError(
        f"store {scheme}://...: this kind of store is unknown; expected a folder, as a path or file:///path, or "
        + ", ".join(f"{known}://bucket/prefix" for known in _REMOTE)
    )


def check_name(path: str) -> str:
    """`path` as it is, if it can only lie inside the store; raises UserError otherwise.

    By an allow-list: parts of ASCII letters, digits and `_.=,+@-` that do not begin with a dot. So `..`,
    absolute, hidden and percent-encoded names, backslashes and control characters are all refused.
    """
    if all(map(is_name, path.split("/"))):
        return path
    raise UserError(
        f"name {path!r:.120} is refused: expected parts of ASCII letters, digits and _.=,+@- that do not begin "
        "with a dot, at most 200 long, with / between them"
    )


def is_name(part: str) -> bool:
    """Whether `part` can stand between the slashes of a path."""
    return _PART.fullmatch(part) is not None
