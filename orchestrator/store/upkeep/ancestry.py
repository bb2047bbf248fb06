"""What an artifact was made from, back to the data and the commit, and what was made from it."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from orchestrator.errors import UserError
from orchestrator.provenance import data_of
from orchestrator.store.index import Row
from orchestrator.store.store import Store
from orchestrator.task import Json


def lineage(store: Store, artifact: str, listed: Iterable[Row] | None = None) -> dict[str, Json]:
    """{artifact, up, down}: nodes as plain JSON, nearest first, each once.

    A node has id, kind, task, stage, experiment, created, digest, data [{name, digest}], source, commit, metrics
    and inputs {field: {id, digest}}; one that the store no longer holds has its id and `missing` alone.
    `listed`: the store's rows where they are at hand.
    """
    rows = {row.id: row for row in (store.rows() if listed is None else listed)}
    if artifact not in rows:
        raise UserError(f"there is no artifact {artifact} in store {store.uri}; see `limbeck artifacts ls`")
    made: dict[str, list[str]] = defaultdict(list)
    for row in rows.values():
        for source in dict.fromkeys(found for found, _ in row.inputs.values()):
            made[source].append(row.id)

    itself, *up = made_from(store, artifact)
    return {
        "artifact": itself,
        "up": up,
        "down": [_row(rows[found]) for found in _reached(artifact, lambda found: sorted(made[found]))],
    }


def made_from(store: Store, artifact: str) -> list[dict[str, Json]]:
    """The artifact and all that it was made from, as nodes of `lineage`; reads no other manifests."""

    def sources(found: str) -> Iterable[str]:
        manifest = store.manifest(found)
        return [ref.id for ref in manifest.inputs.values()] if manifest else ()

    return [_node(found, store) for found in [artifact, *_reached(artifact, sources)]]


def _reached(start: str, neighbours: Callable[[str], Iterable[str]]) -> list[str]:
    found, todo = {start: None}, [start]
    for here in todo:
        new = [other for other in dict.fromkeys(neighbours(here)) if other not in found]
        found |= dict.fromkeys(new)
        todo += new
    return todo[1:]


def _node(artifact: str, store: Store) -> dict[str, Json]:
    manifest = store.manifest(artifact)
    if manifest is None:
        return {"id": artifact, "missing": True}
    return {
        "id": artifact,
        "kind": manifest.kind,
        "task": manifest.task,
        "stage": manifest.stage,
        "experiment": manifest.experiment,
        "created": manifest.created,
        "digest": manifest.digest,
        "data": [{"name": one["name"], "digest": one["digest"]} for one in data_of(manifest.facts)],
        "source": manifest.provenance.get("source"),
        "commit": manifest.provenance.get("commit"),
        "metrics": manifest.metrics,
        "inputs": {field: {"id": ref.id, "digest": ref.digest} for field, ref in manifest.inputs.items()},
    }


def _row(row: Row) -> dict[str, Json]:
    """The same node from the index: of what was made there may be thousands."""
    return {
        "id": row.id,
        "kind": row.kind,
        "task": row.task,
        "stage": row.stage,
        "experiment": row.experiment,
        "created": row.created,
        "digest": row.digest,
        "data": [{"name": name, "digest": digest} for name, digest in row.data],
        "source": row.source,
        "commit": row.commit,
        "metrics": row.metrics,
        "inputs": {field: {"id": source, "digest": digest} for field, (source, digest) in row.inputs.items()},
    }
