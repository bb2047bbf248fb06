"""The bytes layer in an object store: S3 and what speaks its language, Google Cloud Storage, Azure Blob."""

import hashlib
import logging
import posixpath
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from orchestrator.errors import StoreError, UserError
from orchestrator.places import cache_folder
from orchestrator.store.blobs import blob_path
from orchestrator.store.bytes import Entry, check_name, is_name
from orchestrator.store.cache import Cache
from orchestrator.store.services import Service
from orchestrator.store.trouble import trouble

PATIENCE_S = 120.0
"""How long a request is tried again while the server does not answer or answers 5xx."""
TRY_S = 5.0
"""How long the library tries by itself: Ctrl-C is heard in between. The parts of an upload have all the time."""
CHUNK_BYTES = 8 * 2**20
"""What is larger goes up in parts of this size (S3: at least 5 MiB each), `_PARALLEL` at a time."""
_PARALLEL = 4
_PAGE = 1000
_FEW = 48
"""So many names, or fewer, are asked for one by one."""
_PEEK_BYTES = 64 * 2**10
"""Before larger puts it is asked whether the name is taken."""
_WRITER = "writer"
"""Attribute that tells whose an object is that was put where none was."""
_BLOB = re.compile(r"blobs/[0-9a-f]{2}/([0-9a-f]{64})")
_FIRST_DELAY_S, _LAST_DELAY_S = 0.2, 2.0
_log = logging.getLogger(__name__)
T = TypeVar("T")


def open_objects(uri: str, patience_s: float | None = None) -> "Objects":
    """The place `uri` names, such as s3://bucket/prefix; no request is made. UserError for a wrong name."""
    return Objects(Service.of(uri), patience_s=PATIENCE_S if patience_s is None else patience_s)


class Objects:
    """A prefix of a bucket. Needs conditional puts (`If-None-Match: *`), by which commits are made; S3 itself,
    GCS, Azure and current S3-compatible servers have them, and `check_writable` proves it.

    Every request has a deadline: while the server is away it is tried again for `patience_s` seconds, then
    StoreError says which bucket, where, what and why. A missing bucket and refused credentials are UserError
    at once. Writes are atomic: single puts by nature, uploads in parts because only their last request makes
    the object appear. An upload that was killed leaves parts that nothing lists and that cost money: give the
    bucket a lifecycle rule that aborts unfinished uploads (docs/stores.md).
    """

    at_once = 16

    def __init__(
        self,
        service: Service,
        *,
        patience_s: float = PATIENCE_S,
        try_s: float = TRY_S,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._service, self._patience_s, self._chunk = service, patience_s, chunk_bytes
        self._store = service.connect(try_s)
        self._upload_store = service.connect(patience_s)
        self._cache = Cache(cache_folder())

    @property
    def uri(self) -> str:
        return self._service.uri

    def __repr__(self) -> str:
        return f"Objects({self.uri!r})"

    # Reading

    def read(self, path: str) -> bytes:
        check_name(path)
        return self._try("read", path, lambda: bytes(obstore.get(self._store, path).bytes()))

    def digest(self, path: str) -> str:
        """Asks the server for the bytes, whatever the cache holds; what is sound is kept there."""
        with self._cache.draft() as draft:
            return self._fetched(check_name(path), draft)[1]

    def local(self, path: str) -> Path:
        """A blob is fetched once, checked and kept in the cache. Anything else, and a blob that is not what
        its name says, is fetched anew each time and lies there only while this object lives."""
        blob = _BLOB.fullmatch(check_name(path))
        kept = self._cache.find(blob[1]) if blob else None
        if kept:
            return kept
        with self._cache.draft() as draft:
            file, _ = self._fetched(path, draft)
            return self._cache.lend(file) if file == draft else file

    def list(self, prefix: str = "") -> Iterator[Entry]:
        below = check_name(prefix) if prefix else None
        for page in self._pages(below):
            for found in page:
                if all(map(is_name, found["path"].split("/"))):
                    yield _entry(found["path"], found)

    def stat(self, path: str) -> Entry | None:
        check_name(path)
        try:
            return _entry(path, self._try("read", path, lambda: obstore.head(self._store, path)))
        except FileNotFoundError:
            return None

    def exists(self, path: str) -> bool:
        return self.stat(path) is not None

    def among(self, paths: Iterable[str]) -> set[str]:
        """Few are asked for one by one. For many the folder that holds them all is listed, if that takes few
        pages; else each of its folders in which that is cheaper than asking."""
        wanted = {check_name(path) for path in paths}
        if len(wanted) <= _FEW:
            return set(filter(self.exists, wanted))
        folders: dict[str, set[str]] = defaultdict(set)
        for path in wanted:
            folders[posixpath.dirname(path)].add(path)
        listed = self._listed(posixpath.commonpath(folders), pages=max(1, len(wanted) // _FEW))
        if listed is not None:
            return wanted & listed
        return set().union(*(self._among(folder, inside) for folder, inside in folders.items()))

    def size(self, path: str) -> int:
        found = self.stat(path)
        if found is None:
            raise FileNotFoundError(f"no such object in the store: {path}")
        return found.size

    # Writing

    def put(self, path: str, data: bytes) -> None:
        check_name(path)
        self._upload(path, data, len(data))

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """By one conditional put, whatever the size. An answer may be lost and the request sent again; then the
        object names its writer, so that who won knows it."""
        if len(data) > _PEEK_BYTES and self.exists(path):
            return False
        return self._create(check_name(path), data)

    def put_file(self, path: str, file: Path) -> None:
        """As in the protocol; a scratch file with a blob's content goes to the cache."""
        check_name(path)
        self._upload(path, file, file.stat().st_size)
        self._keep(path, file)

    def put_file_if_absent(self, path: str, file: Path) -> bool:
        """A large file goes up in parts, for which there is no conditional put. So only blobs may be large:
        they are named by their content, and two that are first both write the same bytes and get True."""
        if self.exists(path):
            return False
        if file.stat().st_size <= self._chunk:
            won = self._create(path, file.read_bytes())
        else:
            assert _BLOB.fullmatch(path), f"{path}: only blobs may be larger than {self._chunk} bytes"
            self._upload(path, file, file.stat().st_size)
            won = True
        self._keep(path, file)
        return won

    def scratch(self) -> AbstractContextManager[Path]:
        return self._cache.draft()

    def delete(self, path: str) -> None:
        check_name(path)
        try:
            self._try("delete", path, lambda: obstore.delete(self._store, path))
        except FileNotFoundError:
            return  # S3 says nothing, the others say this

    def delete_old(self, path: str, before: float) -> int | None:
        """No service deletes on a condition of age: what is written between the two requests goes too."""
        found = self.stat(path)
        if found is None or found.modified >= before:
            return None
        self.delete(path)
        return found.size

    def free_bytes(self) -> int | None:
        return None

    def check_writable(self) -> None:
        """Writes a probe, proves that it cannot be written twice, and removes it."""
        path = f".tmp/{uuid.uuid4().hex}"
        if not self._create(path, b"probe") or self._create(path, b"again"):
            raise UserError(
                f"store {self._service}: this server ignores conditional puts, by which shards are committed once; "
                "use a server that knows If-None-Match, or name another store by --store"
            )
        self._try("delete", path, lambda: obstore.delete(self._store, path))

    def sweep(self, before: float, apply: bool) -> tuple[int, int]:
        """Drafts in this machine's cache. Parts of uploads that were killed are for the bucket's own rule."""
        return self._cache.sweep(before, apply)

    # Requests

    def _create(self, path: str, data: bytes) -> bool:
        writer = uuid.uuid4().hex
        create = partial(
            obstore.put, self._store, path, data, mode="create", attributes={_WRITER: writer}, use_multipart=False
        )  # fmt: skip
        try:
            self._try("write", path, create)
        except AlreadyExistsError:
            return self._writer(path) == writer
        return True

    def _writer(self, path: str) -> str | None:
        try:
            found = self._try("read", path, lambda: obstore.get(self._store, path, options={"head": True}))
        except FileNotFoundError:
            return None
        return str(found.attributes.get(_WRITER))

    def _upload(self, path: str, data: bytes | Path, size: int) -> None:
        store = self._upload_store if size > self._chunk else self._store
        upload = partial(
            obstore.put, store, path, data, use_multipart=size > self._chunk, chunk_size=self._chunk,
            max_concurrency=_PARALLEL,
        )  # fmt: skip
        self._try("write", path, upload)

    def _keep(self, path: str, file: Path) -> None:
        blob = _BLOB.fullmatch(path)
        if blob and file.parent == self._cache.drafts:
            self._cache.keep(blob[1], file)

    def _fetched(self, path: str, draft: Path) -> tuple[Path, str]:
        """Fetches to `draft`, and moves it into the cache where it is what its name says; file and digest."""
        digest = self._try("read", path, lambda: self._fetch(path, draft))
        sound = path == blob_path(digest)
        return (self._cache.keep(digest, draft) if sound else draft), digest

    def _fetch(self, path: str, draft: Path) -> str:
        hashed = hashlib.sha256()
        with draft.open("wb") as file:
            for part in obstore.get(self._store, path).stream(min_chunk_size=2**20):
                hashed.update(part)
                file.write(part)
        return hashed.hexdigest()

    def _pages(self, prefix: str | None) -> Iterator[Sequence[Any]]:
        """A listing, page by page; where one fails, it goes on behind the last name."""
        stream: Any = None
        last: str | None = None

        def page() -> Sequence[Any]:
            nonlocal stream
            stream = stream or obstore.list(self._store, prefix, offset=last, chunk_size=_PAGE)
            try:
                found: Sequence[Any] = next(stream, ())
                return found
            except BaseError:
                stream = None
                raise

        while found := self._try("list", prefix or ".", page):
            last = found[-1]["path"]
            yield found

    def _listed(self, folder: str, pages: int) -> set[str] | None:
        """All names in a folder; None where they fill more pages than this."""
        found: set[str] = set()
        for page in self._pages(folder or None):
            if pages == 0:
                return None
            pages -= 1
            found |= {entry["path"] for entry in page}
        return found

    def _among(self, folder: str, inside: set[str]) -> set[str]:
        listed = self._listed(folder, pages=len(inside) - 1) if len(inside) > 1 else None
        return set(filter(self.exists, inside)) if listed is None else inside & listed

    def _try(self, doing: str, path: str, request: Callable[[], T]) -> T:
        """Makes a request until it succeeds or its time is over. FileNotFoundError and AlreadyExistsError are
        answers; everything else ends in one line."""
        began, delay = time.monotonic(), _FIRST_DELAY_S
        while True:
            try:
                return request()
            except AlreadyExistsError:
                raise
            except (BaseError, FileNotFoundError) as error:
                found = trouble(error)
                if found is None:
                    raise FileNotFoundError(f"no such object in store {self.uri}: {path}") from None
                told = f"store {self._service}: cannot {doing} {path}: {found.why}"
                left = self._patience_s - (time.monotonic() - began)
                if not found.passing or left <= 0:
                    raise (StoreError if found.kind == "server" else UserError)(
                        f"{told}; {found.advice}"
                    ) from None
                if delay == _FIRST_DELAY_S:
                    _log.warning("%s; trying on for %.0f s", told, left)
            time.sleep(min(delay, left))
            delay = min(2 * delay, _LAST_DELAY_S)


def _entry(path: str, found: Any) -> Entry:
    return Entry(path, found["size"], found["last_modified"].timestamp(), found["e_tag"] or "")
