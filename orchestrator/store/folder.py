"""The bytes layer in a folder: synced scratch files that are linked or moved into place."""

import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import StoreError, UserError
from orchestrator.store.bytes import Entry, check_name, is_name

SCRATCH = ".tmp"
_FEW = 16
"""So many names of a folder, or fewer, are asked for one by one."""
_ADVICE = {
    errno.ENOSPC: "free space there (`limbeck artifacts gc` shows what can go), then run the same command again",
    errno.EDQUOT: "free some of the quota, then run the same command again",
    errno.EFBIG: "raise the limit on the size of a file (`ulimit -f`), then run the same command again",
    errno.EROFS: "mount it writable, or name another place by --store",
    errno.EACCES: "check its owner and mode, or name another place by --store",
    errno.EPERM: "check its owner and mode, or name another place by --store",
}


def open_folder(root: Path) -> "Folder":
    """The folder at `root`, which need not be there yet; UserError where it cannot be one."""
    for there in (root, *root.parents):
        if there.is_dir():
            return Folder(root)
        if there.exists():
            raise UserError(f"store {root}: {there} is a file; expected a folder, name another by --store")
    return Folder(root)


class Folder:
    """A folder, local or shared. Needs hard links (every usual Unix file system has them; NFS too)."""

    at_once = 1

    def __init__(self, root: Path | str) -> None:
        self.root = Path(os.path.realpath(root))
        self._inside: set[str] = set()

    @property
    def uri(self) -> str:
        return str(self.root)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def read(self, path: str) -> bytes:
        with self._told("read", path):
            return self._target(path).read_bytes()

    def put(self, path: str, data: bytes) -> None:
        with self._told("write", path), self._temp() as temp:
            _fill(temp, data)
            self._replace(temp, path)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        if self._settled(path):
            return False
        with self._told("write", path), self._temp() as temp:
            _fill(temp, data)
            return self._link(temp, path)

    def put_file(self, path: str, file: Path) -> None:
        with self._told("write", path), self._scratched(file) as temp:
            self._replace(temp, path)

    def put_file_if_absent(self, path: str, file: Path) -> bool:
        if self._settled(path):
            return False
        with self._told("write", path), self._scratched(file) as temp:
            return self._link(temp, path)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with self._told("write"), self._temp() as temp:
            yield temp

    def local(self, path: str) -> Path:
        target = self._target(path)
        if not target.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file in the store", path)
        with self._told("read", path):
            if not os.access(target, os.R_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return target

    def list(self, prefix: str = "") -> Iterator[Entry]:
        with self._told("list", prefix or "."):
            yield from self._walk(self._target(prefix) if prefix else self.root, prefix)

    def stat(self, path: str) -> Entry | None:
        try:
            with self._told("read", path):
                found = self._target(path).stat()
        except FileNotFoundError:
            return None
        return Entry(path, found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def exists(self, path: str) -> bool:
        return self.stat(path) is not None

    def among(self, paths: Iterable[str]) -> set[str]:
        folders: dict[str, set[str]] = defaultdict(set)
        for path in paths:
            folders[check_name(path).rpartition("/")[0]].add(path)
        return set().union(*(self._among(folder, inside) for folder, inside in folders.items()))

    def digest(self, path: str) -> str:
        with self.local(path).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    def size(self, path: str) -> int:
        with self._told("read", path):
            return self._target(path).stat().st_size

    def delete(self, path: str) -> None:
        with self._told("delete", path), suppress(FileNotFoundError):
            self._target(path).unlink()

    def delete_old(self, path: str, before: float) -> int | None:
        """Taken away first and judged then: between a look and a deletion it may be replaced by a young one,
        which is put back."""
        found = self.stat(path)
        if found is None or found.modified >= before:
            return None
        with self._told("delete", path), self._temp() as temp, suppress(FileNotFoundError):
            self._target(path).rename(temp)
            if temp.stat().st_mtime < before:
                return found.size
            with suppress(FileExistsError):
                self._link(temp, path)
        return None

    def free_bytes(self) -> int | None:
        there = next(folder for folder in (self.root, *self.root.parents) if folder.is_dir())
        return shutil.disk_usage(there).free

    def check_writable(self) -> None:
        there = next(folder for folder in (self.root, *self.root.parents) if folder.is_dir())
        with self._told("write"):
            if not os.access(there, os.W_OK | os.X_OK):
                read_only = os.statvfs(there).f_flag & os.ST_RDONLY
                code = errno.EROFS if read_only else errno.EACCES
                raise OSError(code, os.strerror(code))

    def sweep(self, before: float, apply: bool) -> tuple[int, int]:
        old = [entry for entry in self._walk(self.root / SCRATCH, SCRATCH) if entry.modified < before]
        for entry in old if apply else ():
            with self._told("delete", entry.path), suppress(FileNotFoundError):
                (self.root / entry.path).unlink()
        return len(old), sum(entry.size for entry in old)

    # Writing: a synced scratch file, then one link or replace, then the folder synced.

    @contextmanager
    def _temp(self) -> Iterator[Path]:
        folder = self.root / SCRATCH
        self._make_folder(folder)
        temp = folder / uuid.uuid4().hex
        try:
            yield temp
        finally:
            temp.unlink(missing_ok=True)

    @contextmanager
    def _scratched(self, file: Path) -> Iterator[Path]:
        """`file` itself where it is a scratch file, else a copy that is."""
        with self._temp() as temp:
            if file.parent != temp.parent:
                file = Path(shutil.copyfile(file, temp))
            _sync(file)
            yield file

    def _replace(self, temp: Path, path: str) -> None:
        target = self._target(path)
        self._placed(os.replace, temp, target)
        _sync_folder(target.parent)

    def _link(self, temp: Path, path: str) -> bool:
        target = self._target(path)
        try:
            self._placed(os.link, temp, target)
            won = True
        except FileExistsError:
            # On NFS a request sent twice can meet its own link.
            won = temp.samefile(target)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise StoreError(
                    f"store {self.root}: cannot commit {path}: this file system has no hard links, by which "
                    "commits are made; name a folder on another one by --store"
                ) from error
            raise
        _sync_folder(target.parent)
        return won

    def _placed(self, place: Callable[[Path, Path], None], temp: Path, target: Path) -> None:
        try:
            place(temp, target)
        except FileNotFoundError:
            self._make_folder(target.parent)
            place(temp, target)

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError as error:  # a file system that takes no new folders, such as /proc
            raise OSError(errno.EROFS, os.strerror(errno.EROFS)) from error
        _sync_folder(folder.parent)

    def _settled(self, path: str) -> bool:
        """Whether `path` is there; if so its folder is synced, for its writer may not have come to that."""
        if self.stat(path) is None:
            return False
        with self._told("read", path):
            _sync_folder(self._target(path).parent)
        return True

    # Reading.

    def _target(self, path: str) -> Path:
        target = self.root / check_name(path)
        parent = str(target.parent)
        if parent not in self._inside:
            self._check_inside(target.parent, path)
            if target.parent.is_dir():
                self._inside.add(parent)
        if target.is_symlink():
            self._check_inside(target, path)
        return target

    def _check_inside(self, found: Path, path: str) -> None:
        real = Path(os.path.realpath(found))
        if real != self.root and self.root not in real.parents:
            raise UserError(
                f"store {self.root}: {path} is refused: a link leads outside, to {real}; remove it"
            )

    def _among(self, folder: str, inside: set[str]) -> set[str]:
        """Few are asked for one by one, else the folder is listed; links are always looked into."""
        if len(inside) <= _FEW:
            return set(filter(self.exists, inside))
        with self._told("list", folder or "."), suppress(FileNotFoundError):
            self._target(next(iter(inside)))  # refused where the folder leads outside
            before = f"{folder}/" if folder else ""
            with os.scandir(self.root / folder) as found:
                files = {before + item.name: item.is_file(follow_symlinks=False) for item in found}
            named = inside & files.keys()
            return {path for path in named if files[path] or self.exists(path)}
        return set()

    def _walk(self, folder: Path, prefix: str) -> Iterator[Entry]:
        try:
            found = os.scandir(folder)
        except FileNotFoundError:
            return
        self._inside.add(str(folder))  # reached from the root over no link
        with found:
            for item in found:
                path = f"{prefix}/{item.name}" if prefix else item.name
                if not is_name(item.name) or item.is_symlink():
                    continue
                if item.is_dir():
                    yield from self._walk(Path(item.path), path)
                    continue
                with suppress(FileNotFoundError):
                    age = item.stat()
                    yield Entry(path, age.st_size, age.st_mtime)

    @contextmanager
    def _told(self, doing: str, path: str = "") -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError, StoreError, UserError):
            raise
        except OSError as error:
            why = error.strerror or str(error)
            advice = _ADVICE.get(error.errno or 0, "check that disk, then run the same command again")
            what = f"{doing} {path}".strip()
            raise StoreError(f"store {self.root}: cannot {what}: {why}; {advice}") from error


def _fill(temp: Path, data: bytes) -> None:
    with temp.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    """Makes new names in it last. Some network file systems know no such thing and say so."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
