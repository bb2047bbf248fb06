"""Blobs: files named by the sha256 of their content, written once and checked before they are used."""

import errno
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from orchestrator.errors import CorruptBlob
from orchestrator.store.bytes import Bytes
from orchestrator.store.records import REPAIR, FileRef

Fault = Literal["missing", "size", "corrupt"]
FRESH_S = 3600.0
"""A blob that is used again is written again once it is older, so that collection sees that it is in use."""
_CHECKED: set[tuple[str, int, int, int]] = set()


def blob_path(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def keep_bytes(space: Bytes, data: bytes) -> FileRef:
    """Keeps `data` as a blob; nothing is written where it is there already."""
    digest = hashlib.sha256(data).hexdigest()
    path = blob_path(digest)
    if _stands(space, digest, len(data)):
        space.put_if_absent(path, data)
    else:
        space.put(path, data)
    return FileRef(digest, len(data))


def keep_file(space: Bytes, file: Path, rows: int | None = None) -> FileRef:
    """As `keep_bytes`, for a local file that nobody writes to any more."""
    digest, size = hash_file(file), file.stat().st_size
    path = blob_path(digest)
    if _stands(space, digest, size):
        space.put_file_if_absent(path, file)
    else:
        space.put_file(path, file)
    return FileRef(digest, size, rows)


def hash_file(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def fault(space: Bytes, ref: FileRef) -> tuple[Fault, str] | None:
    """What is wrong with a blob where it lies, hashing all of it; None for nothing."""
    return _fault(space, ref, space.digest)


def _fault(space: Bytes, ref: FileRef, hashed: Callable[[str], str]) -> tuple[Fault, str] | None:
    path = blob_path(ref.digest)
    missing: tuple[Fault, str] = "missing", f"{path} is missing"
    found = space.stat(path)
    if found is None:
        return missing
    if found.size != ref.size:
        return "size", f"{path} has {found.size} bytes, expected {ref.size}"
    try:
        digest = hashed(path)
    except FileNotFoundError:
        return missing
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return "corrupt", f"{path} cannot be read ({error.strerror})"
    return None if digest == ref.digest else ("corrupt", f"{path} has content of sha256 {digest[:12]}")


def checked(space: Bytes, ref: FileRef, where: str) -> Path:
    """A local file with the content of `ref`, hashed once a process before its first use.

    Raises CorruptBlob, naming `where`, when it is missing or not what its digest says.
    """
    path = blob_path(ref.digest)
    if space.exists(path) and _mark(space.local(path)) in _CHECKED:
        return space.local(path)
    if wrong := _fault(space, ref, lambda path: hash_file(space.local(path))):
        raise CorruptBlob(f"{where}: {wrong[1]}; {REPAIR}")
    file = space.local(path)
    _CHECKED.add(_mark(file))
    return file


def _mark(file: Path) -> tuple[str, int, int, int]:
    found = file.stat()
    return str(file), found.st_ino, found.st_size, found.st_mtime_ns


def _stands(space: Bytes, digest: str, size: int) -> bool:
    """Whether the blob that is there, if any, can stay: whole, and too young to be collected."""
    found = space.stat(blob_path(digest))
    if found is None:
        return True
    return time.time() - found.modified < FRESH_S and fault(space, FileRef(digest, size)) is None
