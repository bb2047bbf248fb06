"""What a dataset contains, as one number: independent of where it lies."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .files import appearing, open_plain, reading
from .image_data import ImageData

CHUNK_BYTES = 1 << 20
SETTLED_NS = 2_000_000_000
"""A file changed more recently than this may change again under the same time stamp: not remembered."""

log = logging.getLogger(__name__)


def digest_of_files(name: str, files: Mapping[str, Path]) -> str:
    """SHA-256 over `name` and, for each label in `files`, the label and the file's content.

    A gzipped file counts by what is inside, so that `x` and `x.gz` are the same dataset. The result is
    remembered by path, size and time of change in `digests.json`; that file may be lost, damaged or
    raced for without harm.
    """
    stamp = _stamp(name, files)
    known = _remembered().get(stamp)
    if known is not None:
        return known
    digest = _sha256_of([name, [[label, _content(files[label])] for label in sorted(files)]])
    if all(path.stat().st_mtime_ns < time.time_ns() - SETTLED_NS for path in files.values()):
        _remember(stamp, digest)
    return digest


def digest_of_arrays(name: str, data: ImageData) -> str:
    """SHA-256 over `name`, the class names and the arrays; for datasets that have no files of their own."""
    arrays = (data.train.images, data.train.labels, data.test.images, data.test.labels)
    return _sha256_of([name, data.classes, [_array(array) for array in arrays]])


def _content(path: Path) -> str:
    sha = hashlib.sha256()
    with reading(path, "a readable file"), open_plain(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


def _array(array: np.ndarray) -> list[object]:
    little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return [array.dtype.name, array.shape, hashlib.sha256(little_endian.tobytes()).hexdigest()]


def _sha256_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def _stamp(name: str, files: Mapping[str, Path]) -> str:
    stats = []
    for label in sorted(files):
        with reading(files[label], "a readable file"):
            stat = files[label].stat()
        stats.append([label, str(files[label].resolve()), stat.st_size, stat.st_mtime_ns])
    return _sha256_of([name, stats])


def _cache_file() -> Path:
    return Path(os.environ.get("LIMBECK_CACHE") or "~/.cache/limbeck").expanduser() / "digests.json"


def _remembered() -> dict[str, str]:
    try:
        known = json.loads(_cache_file().read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {stamp: digest for stamp, digest in known.items() if isinstance(digest, str) and len(digest) == 64}


def _remember(stamp: str, digest: str) -> None:
    target = _cache_file()
    text = json.dumps({**_remembered(), stamp: digest})
    try:
        with appearing(target) as file:
            file.write(text.encode())
    except OSError as error:
        log.warning("%s: digests cannot be remembered (%s); they are computed again each time", target, error)
