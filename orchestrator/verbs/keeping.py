"""`limbeck artifacts verify`, `export` and `gc`, and `limbeck runs`: is it intact, what may go, what has been run."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.console import Console, moment, size
from orchestrator.errors import LimbeckError
from orchestrator.hub import export_to_hub
from orchestrator.store import Store, upkeep


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


def export(name: str, folder: Path, store_uri: str, hub: bool, as_json: bool) -> None:
    """Copies an artifact's files under readable names, or writes what Hugging Face's libraries load."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    artifact = store.resolve(name)
    (export_to_hub if hub else upkeep.export)(store, artifact, folder)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if as_json:
        layout = "hub" if hub else "files"
        return console.answer({"artifact": artifact, "folder": str(folder), "layout": layout, "files": files})
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
