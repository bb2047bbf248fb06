"""What drivers and servers that ended left behind reaches MLflow, once."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from engine import kill_server
from mlflow.tracking import MlflowClient
from mlflow_views import points, runs_of, snapshot
from told_runs import NOWHERE, client_of, deliver, picture, spool_of, tell, wait_for

from orchestrator.spool import Spool
from orchestrator.tracking import Tracker, default_artifacts, default_uri, leftovers
from orchestrator.ui import serve

ROOT = Path(__file__).parents[3]


def test_any_number_of_runs_may_be_left_behind(store):
    """They are opened one after another, not all at once."""
    for number in range(40):
        left = spool_of(store, f"r{number}")
        left.run_started(f"r{number}", "digits", {}, {})
        left.close()
    opened = len(list(Path("/proc/self/fd").iterdir()))
    found = leftovers(store / "runs", default_uri(store))
    assert len(found) == 40
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_what_dead_drivers_left_is_delivered_by_the_next(store):
    uri = default_uri(store)
    dead = spool_of(store, "dead")
    dead.run_started("dead", "digits", {}, {})
    dead.stage_started("s", "t", {}, {})
    dead.close()
    ended, alive, elsewhere = (spool_of(store, name) for name in ("ended", "alive", "elsewhere"))
    tell(ended, run_id="ended")
    tell(alive, run_id="alive")
    elsewhere.run_started("elsewhere", "digits", {}, {})
    elsewhere.advance(NOWHERE, 0)
    assert alive.claim()
    own = spool_of(store, "own")
    own.run_started("own", "digits", {}, {})
    assert {left.parent.name for left in leftovers(store / "runs", uri, but=own.path)} == {
        "dead",
        "ended",
        "alive",
    }
    tracker = Tracker(uri, own, picture, default_artifacts(store), earlier=store / "runs")
    wait_for(lambda: not {"dead", "ended"} & {left.parent.name for left in leftovers(store / "runs", uri)})
    assert tracker.close(30) == 0
    found = {name: run["status"] for name, run in snapshot(client_of(store)).items()}
    assert found == {
        ("dead", None): "KILLED", ("dead", "s"): "KILLED", ("own", None): "RUNNING",
        ("ended", None): "FINISHED", ("ended", "experts"): "FINISHED", ("ended", "distilled"): "FINISHED",
    }  # fmt: skip


def test_a_run_that_ends_at_once_delivers_what_an_earlier_one_left(store):
    earlier = spool_of(store, "earlier")
    tell(earlier, run_id="earlier")
    earlier.close()
    own = spool_of(store, "own")
    tell(own, run_id="own")
    tracker = Tracker(default_uri(store), own, picture, default_artifacts(store), earlier=store / "runs")
    assert tracker.close(60) == 0
    found = snapshot(client_of(store))
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    assert {name for name, stage in found if stage is None} == {"own", "earlier"}


DRIVER = """
import sys, time
from pathlib import Path
from orchestrator.spool import Spool
from orchestrator.tracking import Tracker, default_artifacts, default_uri
store = Path(sys.argv[1])
spool = Spool(store / "runs" / "r" / "events.jsonl")
tracker = Tracker(default_uri(store), spool, lambda digest: b"", default_artifacts(store))
spool.run_started("r", "digits", {"seed": 0}, {})
spool.stage_started("s", "t", {}, {})
print("started", flush=True)
for step in range(1200):
    spool.metrics("s", "", step, {"loss": float(step)})
    time.sleep(0.003)
spool.stage_ended("s", "done", {"best": 1.0})
spool.run_ended("done")
assert tracker.close(60) == 0
"""


@pytest.mark.faults
def test_a_driver_killed_again_and_again_loses_and_doubles_nothing(store):
    command = [sys.executable, "-c", DRIVER, str(store)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for wait_s in (0.5, 1.6, None):
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as driver:
            driver.stdout.readline()
            if wait_s is not None:
                time.sleep(wait_s)
                driver.kill()
            assert driver.wait(120) == (0 if wait_s is None else -signal.SIGKILL)
    client = client_of(store)
    runs = runs_of(client)
    assert len(snapshot(client)) == 2
    assert [step for step, *_ in points(client, runs["s"].info.run_id, "loss")] == list(range(1200))
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


@pytest.mark.faults
def test_a_server_killed_in_the_middle_gets_every_event_exactly_once(store):
    spool = spool_of(store)
    pause = threading.Event()
    with ExitStack() as stack:
        url = stack.enter_context(serve(store, default_uri(store), port=0))
        tracker = Tracker(url, spool, picture)
        spool.run_started("r1", "digits", {"seed": 0}, {})
        spool.stage_started("s", "t", {}, {}, shards=2)
        for step in range(600):
            spool.metrics("s", f"k={step % 2}", step, {"loss": float(step)})
            if step % 100 == 0:
                spool.preview("s", "k=0", "synthetic", step, "p" * (step + 1))
            if step == 300:
                wait_for(lambda: spool.cursor(url) > 0)
                kill_server()
            pause.wait(0.005)
        assert spool.left(url) > 0
    with serve(store, default_uri(store), port=int(url.rpartition(":")[2])):
        spool.stage_ended("s", "done", {"best": 0.5}, manifest={"files": []})
        spool.run_ended("done")
        assert tracker.close(60) == 0, tracker.error
        assert tracker.refused == 0
        client = MlflowClient(tracking_uri=url)
        first = snapshot(client)
        deliver(store, Spool(store / "runs" / "r1" / "events.jsonl"), uri=url)
        spool.advance(url, 0)
        deliver(store, spool, uri=url)
        assert snapshot(client) == first
    assert set(first) == {("r1", None), ("r1", "s")}
    child = first["r1", "s"]
    for k in (0, 1):
        assert [step for step, *_ in child["metrics"][f"loss/k:{k}"]] == list(range(k, 600, 2))
    assert len([name for name, _ in child["files"] if name.startswith("images/")]) == 12
    assert {run["status"] for run in first.values()} == {"FINISHED"}
