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
    if last and cut_short and canonical(last.document) == canonical(experiment.document):
        return replace(last, state="running", ended=None, driver=_driver())
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return RunRecord(
        run_id=f"{experiment.name}-{stamp}-{secrets.token_hex(2)}", experiment=experiment.name,
        document=dict(experiment.document), overrides=list(experiment.overrides), state="running",
        started=now_ms(), ended=None, stages=[], driver=_driver(),
    )  # fmt: skip


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
