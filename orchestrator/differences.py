"""In what two artifacts differ, and in what those differ that they were made from. Reads manifests alone."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.catalogue import find_task
from orchestrator.provenance import data_of
from orchestrator.store import Manifest, Store
from orchestrator.task import Json


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same."""

    where: str
    """The way of inputs from the two artifacts to those that differ, such as `distilled/experts`; empty: they."""
    what: str
    """made by, setting, data, input, metric or code."""
    name: str
    a: Json
    b: Json


def differences(store: Store, a: str, b: str) -> list[Difference]:
    """Everything in which the artifacts `a` and `b` differ, nearest first; inputs that differ are followed."""
    found: list[Difference] = []
    todo, seen = [("", a, b)], set[tuple[str, str]]()
    for where, left, right in todo:
        manifests = store.manifest(left), store.manifest(right)
        if (left, right) in seen or None in manifests:
            continue
        seen.add((left, right))
        one, other = manifests
        assert one is not None
        assert other is not None
        found += _compared(where, one, other)
        for field in one.inputs.keys() & other.inputs.keys():
            ids = one.inputs[field].id, other.inputs[field].id
            if ids[0] != ids[1]:
                todo.append((f"{where}/{field}".lstrip("/"), *ids))
    return found


def _compared(where: str, a: Manifest, b: Manifest) -> Iterator[Difference]:
    for what, told in _TOLD.items():
        left, right = told(a), told(b)
        for name in dict.fromkeys([*left, *right]):
            if left.get(name) != right.get(name):
                yield Difference(where, what, name, left.get(name), right.get(name))


def _made_by(made: Manifest) -> dict[str, Json]:
    return {"kind": made.kind, "task": made.task, "version": made.version, "seed": made.seed}


def _data(made: Manifest) -> dict[str, Json]:
    return {one["name"]: one["digest"] for one in data_of(made.facts)}


def _inputs(made: Manifest) -> dict[str, Json]:
    return {field: ref.id for field, ref in made.inputs.items()}


def _metrics(made: Manifest) -> dict[str, Json]:
    return dict(made.metrics)


def _code(made: Manifest) -> dict[str, Json]:
    return {"commit": made.provenance.get("commit")}


def _settings(made: Manifest) -> dict[str, Json]:
    """By dotted name; where this release still knows them with their defaults, so that to say a default is none."""
    return {name: value for name, value in _flat(_whole(made)) if name not in made.inputs}


def _whole(made: Manifest) -> Mapping[str, Json]:
    try:
        config = find_task(made.task).Config
        return config.model_validate_json(json.dumps(made.config)).model_dump(mode="json")
    except ValueError:  # a task or a setting that is no longer known
        return made.config


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


_TOLD: Mapping[str, Callable[[Manifest], dict[str, Json]]] = {
    "made by": _made_by, "setting": _settings, "data": _data, "input": _inputs, "metric": _metrics, "code": _code,
}  # fmt: skip
