"""What an artifact was made from, back to the data and the commit, and what was made from it."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from orchestrator.errors import UserError
from orchestrator.store.index import Row, row_of
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
        "down": [_node(rows[found]) for found in _reached(artifact, lambda found: sorted(made[found]))],
    }


def made_from(store: Store, artifact: str) -> list[dict[str, Json]]:
    """The artifact and all that it was made from, as nodes of `lineage`; reads no other manifests."""

    def sources(found: str) -> Iterable[str]:
        if manifest := store.manifest(found):
            rows[found] = row_of(manifest)
        return [source for source, _ in rows[found].inputs.values()] if manifest else ()

    rows: dict[str, Row] = {}
    ids = [artifact, *_reached(artifact, sources)]
    return [_node(rows[found]) if found in rows else {"id": found, "missing": True} for found in ids]


def _reached(start: str, neighbours: Callable[[str], Iterable[str]]) -> list[str]:
    found, todo = {start: None}, [start]
    for here in todo:
        new = [other for other in dict.fromkeys(neighbours(here)) if other not in found]
        found |= dict.fromkeys(new)
        todo += new
    return todo[1:]


def _node(row: Row) -> dict[str, Json]:
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
