"""What is in a key: the content-to-be of a shard and of a stage, and nothing else.

In a shard's key: the task and its version, the experiment's seed, the settings that this shard reads and
that differ from their defaults, the keys of its inputs, the digest of its data, and its identity. In a
stage's key: the ordered keys of its shards, the keys of its inputs, and the settings of its closing step.
Not in any: names, paths, resources, matrix, logging, machine, time.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from pydantic import BaseModel

from orchestrator.keys import canonical, digest
from orchestrator.task import Digested, Input, Json, Role, Settings, Shard


def shard_key(
    task: str, version: int, seed: int, config: Settings, inputs: Mapping[str, str], shard: Shard
) -> str:
    """Key of one shard; `inputs` maps config fields to the keys of the artifacts that they name."""
    return next(shard_keys(task, version, seed, config, inputs, [shard]))


def shard_keys(
    task: str, version: int, seed: int, config: Settings, inputs: Mapping[str, str], shards: Iterable[Shard]
) -> Iterator[str]:
    """As `shard_key`, for all shards of a stage: what they have in common is put into words once.

    A key is `keys.digest` of {inputs, seed, settings, shard, task, version}, hashed in that order.
    """
    begun: dict[frozenset[str], Any] = {}
    rest = b"," + canonical({"task": task, "version": version})[1:]
    for shard in shards:
        if shard.ignores not in begun:
            common = {
                "inputs": {name: key for name, key in inputs.items() if name not in shard.ignores},
                "seed": seed,
                "settings": _settings(config, leave_out={Role.PLAN, Role.CLOSING}, ignores=shard.ignores),
            }
            begun[shard.ignores] = hashlib.sha256(canonical(common)[:-1] + b',"shard":')
        hashed = begun[shard.ignores].copy()
        hashed.update(canonical(shard.identity) + rest)
        yield hashed.hexdigest()[:32]


def stage_key(
    task: str, version: int, config: Settings, inputs: Mapping[str, str], shard_keys: Sequence[str]
) -> str:
    """Key of a stage, which is the id of the artifact that it makes."""
    closing = {
        name: value for name, value in _settings(config).items() if Role.CLOSING in _marks(config, name)
    }
    return digest(
        {"task": task, "version": version, "shards": shard_keys, "inputs": inputs, "closing": closing}
    )


def content_digests(config: Settings) -> dict[str, str]:
    """Config field to the digest of its content, for fields that are known by their content."""
    values = {name: getattr(config, name) for name in type(config).model_fields}
    return {name: value.content_digest() for name, value in values.items() if isinstance(value, Digested)}


def _settings(
    config: Settings, leave_out: Collection[Role] = (), ignores: Collection[str] = ()
) -> dict[str, Json]:
    """The settings that differ from their defaults, inputs left out, data by its digest."""
    kept: dict[str, Json] = {}
    for name, field in type(config).model_fields.items():
        marks, value = _marks(config, name), getattr(config, name)
        if name in ignores or any(mark in leave_out or isinstance(mark, Input) for mark in marks):
            continue
        if isinstance(value, Digested) or value != field.get_default(call_default_factory=True):
            kept[name] = _plain(value)
    return kept


def _marks(config: Settings, name: str) -> list[Any]:
    return [mark for mark in type(config).model_fields[name].metadata if isinstance(mark, Role | Input)]


def _plain(value: Any) -> Json:
    if isinstance(value, Digested):
        return {"digest": value.content_digest()}
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        changed = {
            name: getattr(value, name)
            for name in fields
            if getattr(value, name) != fields[name].get_default(call_default_factory=True)
        }
        return {name: _plain(item) for name, item in changed.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
