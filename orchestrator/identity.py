"""Which run a command is: a new one, or one that was cut short and goes on."""

import os
import secrets
import time
from dataclasses import replace
from typing import Any

import psutil

from orchestrator.keys import canonical
from orchestrator.plan import Plan
from orchestrator.provenance import now_ms
from orchestrator.store import RunRecord, Store


def begin_run(plan: Plan, store: Store) -> RunRecord:
    """A new run, or the last one of the same experiment where that was cut short and its driver is gone."""
    experiment = plan.experiment
    _settle(store)
    last = next((run for run in store.runs() if run.experiment == experiment.name), None)
    cut_short = last is not None and last.state in ("failed", "interrupted")
    same = last is not None and canonical(last.document) == canonical(experiment.document)
    if last and cut_short and same and _adopt(last, store):
        return replace(last, state="running", ended=None, driver=_driver())
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return RunRecord(
        run_id=f"{experiment.name}-{stamp}-{secrets.token_hex(2)}", experiment=experiment.name,
        document=dict(experiment.document), overrides=list(experiment.overrides), state="running",
        started=now_ms(), ended=None, stages=[], driver=_driver(),
    )  # fmt: skip


def _adopt(run: RunRecord, store: Store) -> bool:
    """Of two drivers that want to go on with a run only one may. What failed before is forgotten."""
    was = f"{run.driver.get('pid', 0)}-{int(run.driver.get('process_started', 0))}"
    if not store.bytes.put_if_absent(f"runs/{run.run_id}/adopted/{was}", b""):
        return False
    for entry in list(store.bytes.list(f"runs/{run.run_id}/failures")):
        store.bytes.delete(entry.path)
    return True


def _settle(store: Store) -> None:
    """Marks runs as interrupted whose driver is gone without a word."""
    for run in store.runs():
        if run.state == "running" and not _alive(run):
            store.save_run(replace(run, state="interrupted", ended=now_ms()))


def _driver() -> dict[str, Any]:
    """Names this process beyond doubt: a process id alone may be used again."""
    me = psutil.Process()
    return {"host": os.uname().nodename, "pid": me.pid, "process_started": me.create_time()}


def _alive(run: RunRecord) -> bool:
    driver = run.driver
    if driver.get("host") != os.uname().nodename:
        return run.state == "running"
    try:
        return bool(psutil.Process(driver["pid"]).create_time() == driver["process_started"])
    except psutil.NoSuchProcess:
        return False
