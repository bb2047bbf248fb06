"""`limbeck report`: one HTML page of a run; written at each run's end too."""

import hashlib
from pathlib import Path

from orchestrator.console import Console
from orchestrator.errors import LimbeckError
from orchestrator.identity import alive
from orchestrator.places import home
from orchestrator.projection import REPORT
from orchestrator.report.page import render
from orchestrator.report.subject import find_run, read_subject
from orchestrator.spool import EVENTS, Spool
from orchestrator.store import RunRecord, Store


def report(text: str | None, store_uri: str, out: Path | None, as_json: bool) -> None:
    """Writes report.html into the run's folder, or to `out`, and says where."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    run = store.run(find_run(store, text))
    state = "interrupted" if run.state == "running" and not alive(run) else run.state
    path = out or _place(store, run)
    _write(store, run, state, path)
    if as_json:
        return console.answer({"run_id": run.run_id, "state": state, "path": str(path)})
    return console.print(str(path))


def report_at_the_end(store: Store, run: RunRecord, spool: Spool, console: Console) -> Path | None:
    """Writes the page of a run that has just ended, and tells the tracker; None, and a line, where it cannot."""
    path = _place(store, run)
    try:
        page = _write(store, run, run.state, path)
    except LimbeckError as error:
        console.say(f"no report of run {run.run_id}: {error}")
        return None
    spool.report(path, hashlib.sha256(page).hexdigest())
    return path


def _place(store: Store, run: RunRecord) -> Path:
    return home(store.uri) / "runs" / run.run_id / REPORT


def _write(store: Store, run: RunRecord, state: str, path: Path) -> bytes:
    page = render(read_subject(store, run.run_id, _place(store, run).with_name(EVENTS)), state).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(page)
    except OSError as error:
        raise LimbeckError(f"{path}: cannot write: {error.strerror}; name another file by --out") from error
    return page
