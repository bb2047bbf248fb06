"""Measurements that decide how shards are made up: taken once, pinned before the first shard, never redone."""

import dataclasses
from typing import Any

from pydantic.dataclasses import dataclass

from orchestrator.errors import CorruptBlob
from orchestrator.store.bytes import Bytes
from orchestrator.store.records import encode, load
from orchestrator.task import Json

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found best on one kind of device."""

    settings: dict[str, Json]
    """The settings that the user had left open."""
    threads: int
    """Threads of a worker."""
    where: str
    """The device's name."""
    created: int
    trials: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """{settings, threads, workers, items_per_s}, one for each that was tried."""


def measured(space: Bytes, key: str) -> dict[str, Measured]:
    """Kind of device to what is pinned for it. A damaged record counts as none: it is measured again."""
    found = {}
    for device in DEVICES:
        try:
            record = load(space, Measured, _path(key, device))
        except CorruptBlob:
            continue
        if record:
            found[device] = record
    return found


def pin(space: Bytes, key: str, device: str, record: Measured) -> Measured:
    """Keeps a measurement. Where another was first, that one is returned and stands."""
    path = _path(key, device)
    if device not in measured(space, key):
        space.delete(path)  # a damaged one, if any
    return record if space.put_if_absent(path, encode(record)) else measured(space, key)[device]


def _path(key: str, device: str) -> str:
    assert device in DEVICES, device
    return f"measured/{key[:2]}/{key}/{device}.json"
