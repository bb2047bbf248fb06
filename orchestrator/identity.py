"""Which run a command is: a new one, or one that was cut short and goes on."""

import secrets
import time
from dataclasses import asdict, replace
from typing import Any

from orchestrator.keys import canonical, digest
from orchestrator.plan import Plan
from orchestrator.provenance import now_ms
from orchestrator.store import Owner, RunRecord, Store, fate


def begin_run(plan: Plan, store: Store, run_id: str | None = None) -> RunRecord:
    """A new run, or the last one of the same experiment where that was cut short and its driver is gone.

    With `run_id`, as a trial has one, it is that run, for the first time or once more.
    """
    experiment = plan.experiment
    _settle(store)
    if run_id:
        _forget_failures(run_id, store)
        return _new(plan, run_id)
    last = next((run for run in store.runs() if run.experiment == experiment.name), None)
    cut_short = last is not None and last.state in ("failed", "interrupted")
    same = last is not None and canonical(last.document) == canonical(experiment.document)
    if last and cut_short and same and _adopt(last, store):
        return replace(last, state="running", ended=None, driver=_driver())
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return _new(plan, f"{experiment.name}-{stamp}-{secrets.token_hex(2)}")


def _new(plan: Plan, run_id: str) -> RunRecord:
    experiment = plan.experiment
    return RunRecord(
        run_id=run_id, experiment=experiment.name,
        document=dict(experiment.document), overrides=list(experiment.overrides), state="running",
        started=now_ms(), ended=None, stages=[], driver=_driver(),
    )  # fmt: skip


def _adopt(run: RunRecord, store: Store) -> bool:
    """Of two drivers that want to go on with a run only one may. What failed before is forgotten."""
    if not store.bytes.put_if_absent(f"runs/{run.run_id}/adopted/{digest(run.driver)}", b""):
        return False
    _forget_failures(run.run_id, store)
    return True


def _forget_failures(run_id: str, store: Store) -> None:
    for entry in list(store.bytes.list(f"runs/{run_id}/failures")):
        store.bytes.delete(entry.path)


def _settle(store: Store) -> None:
    """Marks runs as interrupted whose driver is gone without a word."""
    for run in store.runs():
        if run.state == "running" and not alive(run):
            store.save_run(replace(run, state="interrupted", ended=now_ms()))


def _driver() -> dict[str, Any]:
    """Names this process beyond doubt."""
    return asdict(Owner.here())


def alive(run: RunRecord) -> bool:
    """Whether its driver may be at work; what runs elsewhere cannot be seen from here and counts as alive.
    A record of an earlier release does not tell the boot, nor whose process ids it means."""
    known = {name: value for name, value in run.driver.items() if name in _driver()}
    driver = replace(Owner.here(), **{"host": "", "pid": 0, "process_started": 0.0, **known})
    return fate(driver) in ("alive", "unknown")
