"""`limbeck report`: one HTML page of a run."""

from pathlib import Path

from orchestrator.console import Console
from orchestrator.errors import LimbeckError
from orchestrator.identity import alive
from orchestrator.places import home
from orchestrator.report.page import render
from orchestrator.report.subject import find_run, read_subject
from orchestrator.spool import EVENTS
from orchestrator.store import Store


def report(text: str | None, store_uri: str, out: Path | None, as_json: bool) -> None:
    """Writes report.html into the run's folder, or to `out`, and says where."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    run_id = find_run(store, text)
    folder = home(store.uri) / "runs" / run_id
    subject = read_subject(store, run_id, folder / EVENTS)
    run = subject.run
    state = "interrupted" if run.state == "running" and not alive(run) else run.state
    path = out or folder / "report.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(subject, state), encoding="utf-8")
    except OSError as error:
        raise LimbeckError(f"{path}: cannot write: {error.strerror}; name another file by --out") from error
    if as_json:
        return console.answer({"run_id": run_id, "state": state, "path": str(path)})
    return console.print(str(path))
