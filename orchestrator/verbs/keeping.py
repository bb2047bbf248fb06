"""`limbeck artifacts ...` and `limbeck runs`: what has been made and run, and is it intact."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.console import Console, shown, size
from orchestrator.errors import LimbeckError
from orchestrator.store import Store, upkeep


def ls(store_uri: str, kind: str | None, task: str | None, as_json: bool) -> None:
    """Artifacts, newest first."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    found = [row for row in store.rows() if kind in (None, row.kind) and task in (None, row.task)]
    found.sort(key=lambda row: (row.created, row.id), reverse=True)
    if as_json:
        return console.answer(
            [
                {
                    "id": row.id,
                    "digest": row.digest,
                    "kind": row.kind,
                    "task": row.task,
                    "stage": row.stage,
                    "experiment": row.experiment,
                    "created": row.created,
                    "bytes": row.bytes,
                    "shards": row.shards,
                }
                for row in found
            ]
        )
    rows = [
        [
            row.id[:12],
            f"{row.experiment}/{row.stage}",
            row.kind,
            row.shards,
            size(row.bytes),
            moment(row.created),
        ]
        for row in found
    ]
    return console.table("", ["id", "stage", "kind", "shards", "size", "made"], rows)


def show(name: str, store_uri: str, as_json: bool) -> None:
    """Settings, facts, metrics and files of one artifact."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    manifest = store.artifact(store.resolve(name)).manifest
    if as_json:
        return console.answer(manifest.to_json())
    rows = [
        ["artifact", manifest.id],
        ["digest", manifest.digest],
        ["kind", manifest.kind],
        ["made by", f"{manifest.task} version {manifest.version}, seed {manifest.seed}"],
        ["stage", f"{manifest.experiment}/{manifest.stage}"],
        ["made", moment(manifest.created)],
        ["size", f"{size(manifest.bytes)} in {len(manifest.shards)} shards"],
        *_rows("setting", manifest.config),
        *_rows("input", {field: ref.id for field, ref in manifest.inputs.items()}),
        *_rows("fact", manifest.facts),
        *_rows("metric", manifest.metrics),
        *_rows("file", {name: f"{size(ref.size)} {ref.digest[:12]}" for name, ref in manifest.files.items()}),
    ]
    return console.table("", ["", ""], rows)


def lineage(name: str, store_uri: str, as_json: bool) -> None:
    """From an artifact back to the data and the commit, and on to what was made of it."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    found = upkeep.lineage(store, store.resolve(name))
    if as_json:
        return console.answer(found)
    nodes = {node["id"]: node for node in [found["artifact"], *found["up"], *found["down"]]}
    for line in _tree(found["artifact"]["id"], nodes, ""):
        console.print(line)
    if found["down"]:
        console.print("made of it:")
        for node in found["down"]:
            console.print(f"  {_node(node)}")
    return None


def verify(names: Sequence[str], store_uri: str, repair: bool, as_json: bool) -> None:
    """Hashes everything again; LimbeckError (exit code 1) where something is broken and stays so."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    ids = [store.resolve(name) for name in names] or None
    found = upkeep.verify(store, ids, repair=repair)
    if as_json:
        console.answer(found.to_json())
    for problem in found.problems:
        console.print(str(problem))
    console.print(
        f"{found.artifacts} artifacts, {found.shards} shards, {found.blobs} files, {size(found.bytes)}: "
        + ("all intact" if found.ok else f"{len(found.problems)} problems")
    )
    if found.dropped_shards or found.dropped_artifacts:
        console.print(
            f"dropped {len(found.dropped_shards)} shards and {len(found.dropped_artifacts)} artifacts; "
            "run the experiment again to make just these"
        )
    if not found.ok and not repair:
        raise LimbeckError(
            "the store is damaged; `limbeck artifacts verify --repair` drops what is broken", answered=as_json
        )


def export(name: str, folder: Path, store_uri: str, as_json: bool) -> None:
    """Copies an artifact's files under readable names."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    artifact = store.resolve(name)
    upkeep.export(store, artifact, folder)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if as_json:
        return console.answer({"artifact": artifact, "folder": str(folder), "files": files})
    return console.print(f"{len(files)} files in {folder}")


def gc(store_uri: str, apply: bool, keep: int, as_json: bool) -> None:
    """What could go, or went."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    found = upkeep.collect(store, apply=apply, keep=keep)
    if as_json:
        return console.answer(found.to_json())
    parts = ("artifacts", "shards", "blobs", "work", "leases", "unfinished_writes")
    swept = [(part, getattr(found, part)) for part in parts]
    console.table(
        "", ["what", "count", "size"], [[name, part.count, size(part.bytes)] for name, part in swept]
    )
    done = "removed" if apply else "would be removed; `--apply` does it"
    hours = upkeep.GRACE_S / 3600
    console.print(f"{size(found.bytes)} {done}; {found.kept_artifacts} artifacts are kept")
    return console.print(f"what was written or run in the last {hours:g} hours stays, whatever it is")


def runs(store_uri: str, pin: str | None, unpin: str | None, as_json: bool) -> None:
    """All runs, newest first; pins and unpins on the way."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    if pin:
        store.pin(pin)
    if unpin:
        store.unpin(unpin)
    pins = store.pins()
    found = store.runs()
    if as_json:
        return console.answer(
            [
                {
                    "run_id": run.run_id,
                    "experiment": run.experiment,
                    "state": run.state,
                    "started": run.started,
                    "ended": run.ended,
                    "pinned": run.run_id in pins,
                    "overrides": run.overrides,
                    "stages": {stage.stage: stage.state for stage in run.stages},
                }
                for run in found
            ]
        )
    rows = [
        [
            run.run_id,
            run.state,
            "pinned" if run.run_id in pins else "",
            moment(run.started),
            " ".join(run.overrides),
        ]
        for run in found
    ]
    return console.table("", ["run", "state", "", "started", "overrides"], rows)


def moment(time_ms: int) -> str:
    """Milliseconds since 1970 as local time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_ms / 1000))


def _rows(what: str, values: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"{what} {name}", json.dumps(value) if isinstance(value, dict | list) else shown(value)]
        for name, value in values.items()
    ]


def _tree(artifact: str, nodes: Mapping[str, Mapping[str, Any]], indent: str) -> list[str]:
    node = nodes[artifact]
    lines = [indent + _node(node)]
    for field, ref in node.get("inputs", {}).items():
        below = _tree(ref["id"], nodes, indent + "    ")
        lines += [f"{indent}  {field}:", *below]
    known = {} if node.get("inputs") else {one["digest"]: one["name"] for one in node.get("data", ())}
    return lines + [f"{indent}    data {digest} ({name})" for digest, name in known.items()]


def _node(node: Mapping[str, Any]) -> str:
    if node.get("missing"):
        return f"{node['id'][:12]} (no longer in the store)"
    made = f"commit {node['commit'][:12]}" if node.get("commit") else "no commit known"
    return f"{node['id'][:12]} {node['kind']} {node['experiment']}/{node['stage']} ({node['task']}, {made})"
