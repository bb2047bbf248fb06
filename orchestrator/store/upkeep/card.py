"""The README of an exported artifact: what it is, and where it comes from, for those who have only the copy."""

import json
from collections.abc import Mapping

from orchestrator.store.store import Store
from orchestrator.store.upkeep.ancestry import made_from
from orchestrator.task import Json

_CARD = "card.json"
"""A document `card` of the closing step, {title, text in Markdown}, opens the README."""


def readme(store: Store, artifact: str) -> str:
    """Markdown: what the task says of it, metrics, settings, and every artifact it was made from."""
    made = store.artifact(artifact)
    manifest = made.manifest
    card = made.document("card") if _CARD in manifest.files else {}
    title = card.get("title") or f"{manifest.kind} {manifest.experiment}/{manifest.stage}"
    parts = [
        f"# {title}",
        card.get("text", ""),
        _table("Metrics", manifest.metrics),
        f"## Settings\n\n```json\n{json.dumps(manifest.config, indent=1, sort_keys=True)}\n```",
        "## Made from\n\n" + "\n".join(_node(node) for node in made_from(store, artifact)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(title: str, values: Mapping[str, Json]) -> str:
    lines = [f"| {name} | {value:.6g} |" for name, value in values.items()]
    return "\n".join([f"## {title}\n", "| | |", "| --- | --- |", *lines]) if lines else ""


def _node(node: Mapping[str, Json]) -> str:
    """An artifact in a line: what made it, from which commit, inputs and data."""
    if node.get("missing"):
        return f"- `{node['id']}`, no longer in the store"
    told = [f"task {node['task']}", f"commit {node['commit'] or 'unknown'}", f"content `{node['digest']}`"]
    told += [f"{field} `{ref['id']}`" for field, ref in node["inputs"].items()]
    told += [f"data {one['name']} `{one['digest']}`" for one in node["data"]]
    return f"- `{node['id']}` {node['kind']} {node['experiment']}/{node['stage']}: {', '.join(told)}"
