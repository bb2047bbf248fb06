"""Working state inside a shard: one guarded record, published atomically, dropped at the commit.

A single worker's tensors lie in the record itself. The ranks of a gang write one part each, a safetensors
file named by its digest; then the record that names them all makes them count.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.keys import canonical
from orchestrator.store.artifacts import map_tensors, tensor_bytes
from orchestrator.store.blobs import hash_file
from orchestrator.store.bytes import Bytes
from orchestrator.task import Progress

if TYPE_CHECKING:
    from torch import Tensor

_ALONE, _WITH_PARTS = "1", "2"
"""Formats: older releases know the first alone."""
_GUARD = 64
_log = logging.getLogger(__name__)


def pack(progress: Progress, parts: Sequence[str] = ()) -> bytes:
    """sha256 in hex, then safetensors that carry the facts, and the parts' digests, as metadata."""
    metadata = {"format": _ALONE, "facts": canonical(progress.facts).decode("ascii")}
    if parts:
        metadata |= {"format": _WITH_PARTS, "parts": " ".join(parts)}
    data = tensor_bytes(progress.tensors, metadata)
    return hashlib.sha256(data).hexdigest().encode("ascii") + data


def unpack(packed: bytes, where: str) -> tuple[Progress, list[str]] | None:
    """What `pack` was given; None, with a warning, for what is torn, damaged or of another format."""
    guard, data = packed[:_GUARD], packed[_GUARD:]
    if hashlib.sha256(data).hexdigest().encode("ascii") != guard:
        _log.warning("%s: the saved progress is damaged; the shard begins anew", where)
        return None
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    if metadata["format"] not in (_ALONE, _WITH_PARTS):
        _log.warning("%s: the saved progress is of another version; the shard begins anew", where)
        return None
    from safetensors.torch import load

    return Progress(load(data), json.loads(metadata["facts"])), metadata.get("parts", "").split()


def read_part(space: Bytes, path: str) -> "dict[str, Tensor] | None":
    """The tensors of a part, mapped; None, with a warning, where it is not what its name says."""
    try:
        file = space.local(path)
    except FileNotFoundError:
        _log.warning("store %s: %s is missing; the shard begins anew", space.uri, path)
        return None
    if hash_file(file) != path.rpartition("/")[2]:
        _log.warning("store %s: %s is damaged; the shard begins anew", space.uri, path)
        return None
    return map_tensors(file)
