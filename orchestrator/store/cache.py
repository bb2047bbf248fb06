"""Local copies of blobs that lie in an object store: fetched once, named by their digest, shared by all
processes and stores of this machine's user. Deleting the folder between two runs costs only fetching again."""

import errno
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store.blobs import hash_file

_SOUND: set[tuple[str, int, int, int]] = set()
"""Copies that this process has hashed."""


class Cache:
    """Blobs under `folder`/blobs, drafts under `folder`/drafts; moving a draft into place is atomic."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.drafts = folder, folder / "drafts"
        self._lent: Path | None = None

    def find(self, digest: str) -> Path | None:
        """The copy of a blob, hashed once a process; a damaged one is dropped, so that it is fetched again."""
        file = self._place(digest)
        try:
            if (mark := _mark(file)) in _SOUND:
                return file
            if hash_file(file) == digest:
                _SOUND.add(mark)
                return file
        except FileNotFoundError:
            return None
        file.unlink(missing_ok=True)
        return None

    def keep(self, digest: str, draft: Path) -> Path:
        """Moves a draft whose content has this digest into place."""
        with self._told():
            file = self._place(digest)
            _make_folder(file.parent)
            draft.chmod(0o444)
            draft.replace(file)
            _SOUND.add(_mark(file))
            return file

    def lend(self, draft: Path) -> Path:
        """Moves a draft to where it lies while this cache is in use, for content that may not be kept."""
        with self._told():
            if self._lent is None:
                self._lent = Path(tempfile.mkdtemp(dir=self.drafts, prefix="process-"))
                weakref.finalize(self, shutil.rmtree, self._lent, ignore_errors=True)
            return draft.replace(self._lent / draft.name)

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """A fresh path; what is still there when the context ends is removed."""
        with self._told():
            _make_folder(self.drafts)
            file = self.drafts / uuid.uuid4().hex
            try:
                yield file
            finally:
                file.unlink(missing_ok=True)

    def sweep(self, before: float, apply: bool) -> tuple[int, int]:
        """Drafts of processes that were killed, last touched before this time: how many, and their bytes."""
        count = size = 0
        for file in [found for found in self.drafts.rglob("*") if found.is_file()]:
            with suppress(FileNotFoundError):
                found = file.stat()
                if found.st_mtime < before:
                    count, size = count + 1, size + found.st_size
                    if apply:
                        file.unlink()
        return count, size

    def _place(self, digest: str) -> Path:
        return self.folder / "blobs" / digest[:2] / digest

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            why = error.strerror or str(error)
            raise StoreError(
                f"cannot write to the cache {self.folder}: {why}; make room there, or name another folder by "
                "LIMBECK_CACHE, then run the same command again"
            ) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # a file system that takes no new folders, such as /proc
        raise OSError(errno.EROFS, os.strerror(errno.EROFS)) from error


def _mark(file: Path) -> tuple[str, int, int, int]:
    found = file.stat()
    return str(file), found.st_ino, found.st_size, found.st_mtime_ns
