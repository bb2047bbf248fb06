"""`limbeck artifacts ls`, `show`, `lineage`, `diff` and `tag`: finding one's way among what has been made."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from orchestrator import preview
from orchestrator.console import Console, moment, shown, size
from orchestrator.differences import differences
from orchestrator.errors import LimbeckError
from orchestrator.selection import Selection, metric
from orchestrator.store import Row, Store, StoredArtifact, upkeep

_CHILDREN = 40
"""So many are shown of what was made of one artifact."""
_LETTERS = 60
_WIDTH, _HEIGHT = 80, 24
"""Of a picture, in signs."""


def ls(store_uri: str, selection: Selection, as_json: bool) -> None:
    """Artifacts, newest first unless it is told otherwise."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    tags = store.tags()
    found = selection.of(store.rows(), tags)
    if as_json:
        return console.answer([_object(row, tags.get(row.id, [])) for row in found])
    metrics, tagged = selection.metrics, any(row.id in tags for row in found)
    columns = ["id", "stage", "kind", "shards", "size", "made", *(["tags"] if tagged else []), *metrics]
    rows = [
        [
            row.id[:12], f"{row.experiment}/{row.stage}", row.kind, row.shards, size(row.bytes),
            moment(row.created), *([" ".join(tags.get(row.id, []))] if tagged else []),
            *(metric(row, name) for name in metrics),
        ]
        for row in found
    ]  # fmt: skip
    return console.table("", columns, rows)


def show(name: str, store_uri: str, as_json: bool) -> None:
    """Settings, facts, metrics and files of one artifact, and a look into it."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    made = store.artifact(store.resolve(name))
    manifest, tags = made.manifest, store.tags().get(made.id, [])
    if as_json:
        return console.answer({**manifest.to_json(), "tags": tags})
    rows = [
        ["artifact", manifest.id],
        ["digest", manifest.digest],
        ["kind", manifest.kind],
        ["made by", f"{manifest.task} version {manifest.version}, seed {manifest.seed}"],
        ["stage", f"{manifest.experiment}/{manifest.stage}"],
        ["made", moment(manifest.created)],
        ["size", f"{size(manifest.bytes)} in {manifest.shard_count} shards"],
        *([["tags", " ".join(tags)]] if tags else []),
        *_rows("setting", manifest.config),
        *_rows("input", {field: ref.id for field, ref in manifest.inputs.items()}),
        *_rows("fact", manifest.facts),
        *_rows("metric", manifest.metrics),
        *_rows("file", {name: f"{size(ref.size)} {ref.digest[:12]}" for name, ref in manifest.files.items()}),
    ]
    console.table("", ["", ""], rows)
    return _look(store, made, console)


def lineage(name: str, store_uri: str, as_json: bool) -> None:
    """From an artifact back to the data and the commit, and on to what was made of it."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    rows = store.rows()
    found = upkeep.lineage(store, store.resolve(name, rows), rows)
    if as_json:
        return console.answer(found)
    nodes = {node["id"]: node for node in [found["artifact"], *found["up"], *found["down"]]}
    start = found["artifact"]["id"]
    console.draw(_up(Tree(Text(_node(nodes[start]))), start, nodes, set()))
    if found["down"]:
        made: dict[str, list[str]] = defaultdict(list)
        for node in found["down"]:
            for source in dict.fromkeys(ref["id"] for ref in node["inputs"].values()):
                made[source].append(node["id"])
        console.print("made of it:")
        console.draw(_down(Tree("", hide_root=True), start, nodes, made, set()))
    return None


def diff(name: str, other: str, store_uri: str, as_json: bool) -> None:
    """In what two artifacts differ; only that."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    a, b = store.artifact(store.resolve(name)), store.artifact(store.resolve(other))
    found, same = differences(store, a.id, b.id), a.digest == b.digest
    if as_json:
        told = [dataclasses.asdict(one) for one in found]
        return console.answer({"a": a.id, "b": b.id, "same_content": same, "differences": told})
    rows = [[one.where, one.what, one.name, _brief(one.a), _brief(one.b)] for one in found]
    if rows:
        console.table("", ["input", "what", "name", a.id[:12], b.id[:12]], rows)
    return console.print(f"their content is {'the same' if same else 'not the same'}")


def tag(name: str, tags: Sequence[str], store_uri: str, remove: bool, as_json: bool) -> None:
    """Puts tags on, or takes them off, and says which there are."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    artifact = store.resolve(name)
    (store.untag if remove else store.tag)(artifact, tags)
    now = store.tags().get(artifact, [])
    if as_json:
        return console.answer({"artifact": artifact, "tags": now})
    return console.print(f"{artifact[:12]}: {' '.join(now) or 'no tags'}")


def _object(row: Row, tags: Sequence[str]) -> dict[str, Any]:
    names = ("id", "digest", "kind", "task", "stage", "experiment", "created", "bytes", "shards", "metrics")
    return {**{name: getattr(row, name) for name in names}, "tags": list(tags)}


def _look(store: Store, made: StoredArtifact, console: Console) -> None:
    """What can be seen of it; a broken file is told, and the rest shown."""
    try:
        for head in preview.heads(made):
            console.print("")
            rows = [[_brief(value) for value in row] for row in head.rows]
            console.table(f"{head.name}, {head.total} rows", head.columns, rows)
        for title, samples in preview.texts(made).items():
            for number, sample in enumerate(samples):
                console.print(f"\n{title}, sample {number}")
                for field, text in sample.items():
                    console.print(f"  {field}: {text[: 4 * _LETTERS]}")
        for picture in preview.pictures(store, made) if console.colours else ():
            console.print(f"\n{picture.name}, step {picture.step}")
            console.draw(preview.half_blocks(picture.png, min(_WIDTH, console.width), _HEIGHT))
    except LimbeckError as error:
        console.say(str(error))


def _rows(what: str, values: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"{what} {name}", json.dumps(value) if isinstance(value, dict | list) else shown(value)]
        for name, value in values.items()
    ]


def _brief(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, dict | list) else shown(value)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 3]}..."


def _up(tree: Tree, artifact: str, nodes: Mapping[str, Mapping[str, Any]], told: set[str]) -> Tree:
    """Adds what an artifact was made from; each artifact's own origin is told once."""
    node = nodes[artifact]
    told.add(artifact)
    for field, ref in node.get("inputs", {}).items():
        again = " (see above)" if ref["id"] in told else ""
        branch = tree.add(Text(f"{field}: {_node(nodes[ref['id']])}{again}"))
        if not again:
            _up(branch, ref["id"], nodes, told)
    known = {} if node.get("inputs") else {one["digest"]: one["name"] for one in node.get("data", ())}
    for digest, name in known.items():
        tree.add(Text(f"data {digest} ({name})"))
    return tree


def _down(
    tree: Tree, artifact: str, nodes: Mapping[str, Mapping[str, Any]], made: Mapping[str, list[str]], told: set[str]
) -> Tree:  # fmt: skip
    """Adds what was made of an artifact, as `_up`."""
    below = made.get(artifact, [])
    for one in below[:_CHILDREN]:
        again = " (see above)" if one in told else ""
        branch = tree.add(Text(_node(nodes[one]) + again))
        if not again:
            told.add(one)
            _down(branch, one, nodes, made, told)
    if len(below) > _CHILDREN:
        tree.add(f"and {len(below) - _CHILDREN} more; --json has them all")
    return tree


def _node(node: Mapping[str, Any]) -> str:
    if node.get("missing"):
        return f"{node['id'][:12]} (no longer in the store)"
    made = f"commit {node['commit'][:12]}" if node.get("commit") else "no commit known"
    return f"{node['id'][:12]} {node['kind']} {node['experiment']}/{node['stage']} ({node['task']}, {made})"
