"""Working state inside a shard: one guarded file, published atomically, dropped at the commit."""

import hashlib
import json
import logging

from orchestrator.keys import canonical
from orchestrator.store.artifacts import tensor_bytes
from orchestrator.task import Progress

_FORMAT = "1"
_GUARD = 64
_log = logging.getLogger(__name__)


def pack(progress: Progress) -> bytes:
    """sha256 in hex, then safetensors that carry the facts as metadata."""
    metadata = {"format": _FORMAT, "facts": canonical(progress.facts).decode("ascii")}
    data = tensor_bytes(progress.tensors, metadata)
    return hashlib.sha256(data).hexdigest().encode("ascii") + data


def unpack(packed: bytes, where: str) -> Progress | None:
    """What `pack` was given; None, with a warning, for what is torn, damaged or of another format."""
    guard, data = packed[:_GUARD], packed[_GUARD:]
    if hashlib.sha256(data).hexdigest().encode("ascii") != guard:
        _log.warning("%s: the saved progress is damaged; the shard begins anew", where)
        return None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if header["__metadata__"]["format"] != _FORMAT:
        _log.warning("%s: the saved progress is of another version; the shard begins anew", where)
        return None
    from safetensors.torch import load

    return Progress(load(data), json.loads(header["__metadata__"]["facts"]))
