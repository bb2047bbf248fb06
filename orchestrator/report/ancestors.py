"""From a run's artifacts to the boxes of its graph."""

from collections.abc import Mapping
from typing import Any

from orchestrator.report.curves import measure
from orchestrator.report.graph import Box
from orchestrator.report.subject import StageView, Subject, split_name
from orchestrator.store.upkeep.ancestry import made_from

_NUMBERS = 6
"""Metrics that the box of final numbers shows."""


def boxes(subject: Subject) -> list[Box]:
    """Data, everything the run's artifacts were made from, and the numbers at the end."""
    nodes: dict[str, Mapping[str, Any]] = {}
    for stage in subject.stages:
        if stage.manifest and stage.manifest.id not in nodes:
            nodes |= {node["id"]: node for node in made_from(subject.store, stage.manifest.id)}
    states = {stage.manifest.id: stage for stage in subject.stages if stage.manifest}
    found = {box.id: box for node in nodes.values() for box in _data(node)}
    found |= {artifact: _made(node, states.get(artifact)) for artifact, node in nodes.items()}
    used = {source for box in found.values() for source in box.sources}
    ends = [stage for stage in states.values() if stage.manifest and stage.manifest.id not in used]
    return [*found.values(), *(_numbers(stage) for stage in ends if stage.record.metrics)]


def _data(node: Mapping[str, Any]) -> list[Box]:
    """Those of artifacts that no other was taken for: the data comes in there."""
    if node.get("inputs"):
        return []
    return [
        Box(f"data {one['digest']}", "data", (str(one["name"]), f"data {one['digest'][:12]}"), ())
        for one in node.get("data", ())
    ]


def _made(node: Mapping[str, Any], stage: StageView | None) -> Box:
    if node.get("missing"):
        return Box(node["id"], "cached", (node["id"][:12], "no longer in the store"), ())
    inputs = [ref["id"] for ref in node["inputs"].values()]
    data = [box.id for box in _data(node)]
    fresh = stage is not None and stage.record.computed_shards > 0
    name, point = split_name(stage.name if stage else f"{node['experiment']}/{node['stage']}")
    lines = (f"{node['kind']} by {node['task']}", f"{node['id'][:12]}{'' if fresh else ', cached'}")
    sources = tuple(dict.fromkeys([*inputs, *data]))
    return Box(node["id"], "made" if fresh else "cached", (name, *_point(point), *lines), sources)


def _numbers(stage: StageView) -> Box:
    assert stage.manifest is not None
    metrics = stage.record.metrics
    names = [name for name in metrics if not name.endswith("_se")]
    told = [
        f"{measure(name)} {metrics[name]:.4g}{_error(metrics.get(f'{name}_se'))}" for name in names[:_NUMBERS]
    ]
    more = [f"and {len(names) - _NUMBERS} more"] if len(names) > _NUMBERS else []
    lines = (f"numbers of {stage.base}", *_point(stage.point), *told, *more)
    return Box(f"numbers {stage.name}", "numbers", lines, (stage.manifest.id,))


def _point(point: str) -> tuple[str, ...]:
    return (point,) if point else ()


def _error(value: float | None) -> str:
    return "" if value is None else f"\N{NO-BREAK SPACE}\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}{value:.2g}"
