"""Downloads with a checked SHA-256. A file appears under its name only when it is whole."""

import hashlib
import http.client
import logging
import shutil
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from .files import appearing, first_line

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20

log = logging.getLogger(__name__)


def fetch_file(url: str, sha256: str, target: Path) -> None:
    """Downloads `url` to `target`. Raises ConnectionError where it cannot be had or is not what it should be."""
    log.info("downloading %s to %s", url, target)
    with appearing(target) as file:
        _download(url, sha256, file)


def fetch_members(url: str, sha256: str, names: Iterable[str], folder: Path) -> None:
    """Downloads the tar archive at `url` and puts its files `names` into `folder`, flat.

    Members are found by base name and written under that name: no path of the archive is used, and links
    and special files are passed over, so nothing can land outside `folder`. Raises as `fetch_file`, and
    ValueError where a name is missing.
    """
    log.info("downloading %s to %s", url, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as archive:
        _download(url, sha256, archive)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            members = {PurePosixPath(member.name).name: member for member in tar if member.isfile()}
            for name in names:
                if name not in members:
                    raise ValueError(f"{url}: holds no file {name}; expected one: report this archive")
                source = tar.extractfile(members[name])
                assert source is not None, name
                with source, appearing(folder / name) as file:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)


def _download(url: str, sha256: str, file: IO[bytes]) -> None:
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            while chunk := response.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
    except (OSError, http.client.HTTPException) as error:
        reason = first_line(error).removeprefix("<urlopen error ").removesuffix(">")
        raise ConnectionError(f"{url} cannot be downloaded ({reason})") from error
    if digest.hexdigest() != sha256:
        raise ConnectionError(
            f"{url} was downloaded with sha256 {digest.hexdigest()}, expected {sha256}, and thrown away"
        )
