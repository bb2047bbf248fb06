"""A copy of an artifact outside the store: plain files under readable names."""

import json
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.errors import StoreError, UserError
from orchestrator.store.artifacts import StoredArtifact
from orchestrator.store.blobs import hash_file
from orchestrator.store.records import FileRef, Manifest, ShardEntry
from orchestrator.store.store import Store
from orchestrator.store.upkeep.card import readme

_MANIFEST, _README = "manifest.json", "README.md"


def export(store: Store, artifact: str, folder: Path) -> Path:
    """Copies an artifact to `folder`: `manifest.json`, a `README.md` with its lineage, the closing step's files, and
    each shard's under `shards/`, such as `shards/expert=3/weights.safetensors`, but for those that the closing step
    took over as they are: the artifact has them once. Every file is checked on the way.

    The folder appears whole or not at all. One that holds something is refused, unless it is an earlier
    copy of the same content: then what is missing or changed in it is put right.
    """
    made, text = store.artifact(artifact), readme(store, artifact)
    folder = Path(folder).resolve()
    try:
        if _is_copy(folder, made.manifest):
            _fill(made, folder, text)
        else:
            place(folder, lambda half: _fill(made, half, text))
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def place(folder: Path, fill: Callable[[Path], None]) -> None:
    """Makes `folder` appear whole or not at all: `fill` fills another one beside it. Raises UserError where there
    is something."""
    _check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    try:
        fill(half)
        half.replace(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def unwritable(folder: Path, error: OSError) -> StoreError:
    """What to tell of a disk that refuses a copy."""
    return StoreError(f"cannot export to {folder}: {error.strerror}; name another folder, or make room")


def _is_copy(folder: Path, manifest: Manifest) -> bool:
    try:
        found = json.loads((folder / _MANIFEST).read_bytes())
        return bool(found["id"] == manifest.id and found["digest"] == manifest.digest)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return False


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder to export to")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder} is not empty and no earlier copy of this; name another folder to export to"
        )


def _fill(made: StoredArtifact, folder: Path, text: str) -> None:
    for path, ref, source in _files(made):
        target = folder / path
        if not (target.is_file() and target.stat().st_size == ref.size and hash_file(target) == ref.digest):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _README).write_text(text)
    (folder / _MANIFEST).write_text(json.dumps(made.manifest.to_json(), indent=1, sort_keys=True) + "\n")


def _files(made: StoredArtifact) -> Iterator[tuple[str, FileRef, Path]]:
    for name, ref in made.manifest.files.items():
        yield f"files/{name}" if name == _MANIFEST else name, ref, made.file(name)
    names = _folder_names(made.entries)
    for folder, entry, shard in zip(names, made.entries, made.shards, strict=True):
        for name, ref in entry.files.items():
            if made.manifest.files.get(name) != ref:
                yield f"shards/{folder}/{name}", ref, shard.file(name)


def _folder_names(shards: Sequence[ShardEntry]) -> list[str]:
    """Each shard's identity, where that is a safe file name; its key added where two would be the same."""
    names = [re.sub(r"[^A-Za-z0-9_.=,+-]", "_", shard.name)[:120].lstrip(".") or "shard" for shard in shards]
    often = Counter(names)
    return [
        name if often[name] == 1 else f"{name}-{shard.key}" for name, shard in zip(names, shards, strict=True)
    ]
