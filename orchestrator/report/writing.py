"""Writes a run's page into the folder of the run: when it ends, is stopped or breaks off, and when it is asked for."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.console import Console
from orchestrator.errors import LimbeckError
from orchestrator.places import home
from orchestrator.projection import REPORT
from orchestrator.report.page import render
from orchestrator.report.subject import read_subject
from orchestrator.spool import EVENTS, Spool
from orchestrator.store import RunRecord, Store

if TYPE_CHECKING:
    from orchestrator.run import Run


def page_of(store: Store, run_id: str) -> Path:
    """Where the page of a run lies, once it is written."""
    return home(store.uri) / "runs" / run_id / REPORT


def write_page(store: Store, run: RunRecord, state: str, path: Path) -> bytes:
    """Writes it to `path`, `state` being the run's as it is now; LimbeckError where that cannot be written."""
    events = page_of(store, run.run_id).with_name(EVENTS)
    page = render(read_subject(store, run.run_id, events), state).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(page)
    except OSError as error:
        raise LimbeckError(f"{path}: cannot write: {error.strerror}; name another file by --out") from error
    return page


def walk_and_report(
    walk: "Run", store: Store, spool: Spool, console: Console
) -> tuple[RunRecord, Path | None]:
    """Walks to the end; the run's record, and where its page is. A walk that is stopped or breaks off leaves a page of
    what was done so far, and says where, before it raises what `Run.go` raises."""
    try:
        record = walk.go()
    except LimbeckError:
        page = report_at_the_end(store, walk.record, spool, console)
        if page:
            console.say(f"what was done so far: {page}")
        raise
    return record, report_at_the_end(store, record, spool, console)


def report_at_the_end(store: Store, run: RunRecord, spool: Spool, console: Console) -> Path | None:
    """Writes the page of a run that has just ended, and tells the tracker; None, and a line, where it cannot."""
    path = page_of(store, run.run_id)
    try:
        page = write_page(store, run, run.state, path)
    except LimbeckError as error:
        console.say(f"no report of run {run.run_id}: {error}")
        return None
    spool.report(path, hashlib.sha256(page).hexdigest())
    return path
