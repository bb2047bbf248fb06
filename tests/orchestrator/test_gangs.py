"""Gangs on a real Ray: what may happen to a rank, and the result is that of an undisturbed gang.

Without Ray: executors/test_collective.py (progress of several ranks), executors/test_foreman.py (who is to blame).
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from engine import SUPPORT, Bench, digests, end, gone, working_children

from orchestrator.store import Store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
FITS = """\
name: fits
stages:
  fit: {task: toy_fit, steps: 12, folder: FOLDER, progress_s: 0, resources: {ranks: 2}}
"""
BAD = "  bad: {task: toy_fit, steps: 7, folder: FOLDER, trouble: nan, resources: {ranks: 2}}\n"
UNPLACED = """
import json, sys
from clusters import local
from orchestrator.feasibility import Offer
from orchestrator.task import Needs
offer = Offer(where="this machine", cpus=1, gpus=0, memory_gb=2, disk_gb=None)
with local.session(offer):
    import ray
    from orchestrator.executors.foreman import Foreman
    foreman = ray.remote(Foreman).options(num_cpus=0, max_concurrency=8).remote(
        None, Needs(memory_gb=0.2, ranks=2), 3.0, "this machine offers 1 cpus"
    )
    answer = ray.get(foreman.compute.remote("0" * 32, {"fit": 0}, "fit=0"))
    left = [group["state"] for group in ray.util.placement_group_table().values()]
sys.stdout.write(json.dumps([answer, left]))
"""


@dataclass
class Undisturbed:
    """A gang that nothing happens to, and one with a NaN on one rank."""

    bench: Bench
    digest: str
    fit: Any
    """The tensors that it made."""
    failure: Any
    err: str


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("undisturbed"), FITS + BAD)
    done = bench.limbeck("run", str(bench.experiment), "--json", code=1)
    answer, store = done.json, Store.open(str(bench.store))
    fit = store.artifact(answer["stages"]["fit"]["artifact"]).shards[0].tensors("fit")
    failure = store.failures(answer["run_id"])[0].failure
    return Undisturbed(bench, digests(answer)["fit"], fit, failure, done.err)


def test_a_value_that_is_not_finite_on_one_rank(undisturbed):
    assert "bad fit=0: rank 1 of 2: NonFiniteError: loss is nan at step 3" in undisturbed.err
    assert undisturbed.bench.marks("start") == 4, "two gangs of two; the same again would fail again"
    assert (undisturbed.failure["rank"], undisturbed.failure["attempts"]) == (1, 1)
    assert undisturbed.failure["node"]
    assert "Traceback" in undisturbed.failure["traceback"]


def test_a_rank_that_hangs_and_one_that_is_killed(undisturbed, tmp_path):
    bench = Bench(tmp_path, FITS)
    killer = threading.Thread(target=kill_a_rank, args=(bench,), daemon=True)
    killer.start()
    hang = ["fit.trouble=hang", "fit.deadline_s=20", "fit.pause_s=0.3"]
    done = bench.limbeck("run", str(bench.experiment), "--json", *hang, timeout=400)
    killer.join()
    assert digests(done.json)["fit"] == undisturbed.digest
    assert "no progress for 20 s (deadline_s of the stage); tried again" in done.err
    assert "of 2 died" in done.err
    assert bench.marks("from", 6) >= 2, "both ranks go on from the last step before the one that hung"
    assert bench.marks("start") == 6, "three attempts of two ranks"
    assert not list((bench.store / "work").rglob("*.*"))


def kill_a_rank(bench: Bench) -> None:
    """SIGKILL to a rank of the second attempt, in the middle of its work."""
    bench.wait_for_marks("start", 4, timeout=300)
    time.sleep(0.5)
    latest = max(bench.marks_folder.glob("pid-*"), key=lambda mark: int(mark.name.rpartition("-")[2]))
    os.kill(int(latest.name.split("-")[1]), signal.SIGKILL)


def test_stopped_then_killed_with_its_driver_then_ended_by_one_rank(undisturbed, tmp_path):
    bench, slowly = Bench(tmp_path, FITS), ["fit.pause_s=1"]
    interrupted(bench, signal.SIGINT, slowly, code=130)
    record = next((bench.store / "work").rglob("progress"))
    assert len(list(record.parent.iterdir())) == 1 + 2, "a record and the parts of two ranks"
    interrupted(bench, signal.SIGKILL, slowly, code=-9)
    answer = bench.run("fit.resources.ranks=1")
    assert answer["stages"]["fit"]["computed_shards"] == 1
    assert bench.marks("from", 0) == 2, "only the first attempt began at the beginning"
    artifact = Store.open(str(bench.store)).artifact(answer["stages"]["fit"]["artifact"])
    torch.testing.assert_close(artifact.shards[0].tensors("fit"), undisturbed.fit, rtol=1e-12, atol=0)


def interrupted(bench: Bench, by: signal.Signals, overrides: list[str], code: int) -> None:
    """Starts a run and ends its driver while the gang works."""
    starts = bench.marks("start")
    process = bench.start("run", str(bench.experiment), *overrides)
    try:
        bench.wait_for_marks("start", starts + 2, timeout=200)
        time.sleep(1.5)
        children = working_children(process)
        process.send_signal(by)
        _, err = process.communicate(timeout=100)
    finally:
        end(process)
    assert process.returncode == code, err
    assert gone(children, timeout=60), "processes of ours outlived the driver"


def test_a_gang_that_cannot_be_placed():
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])}
    done = subprocess.run(
        [sys.executable, "-c", UNPLACED], env=env, capture_output=True, text=True, timeout=200, check=True
    )
    answer, groups = json.loads(done.stdout)
    assert answer["error"] == (
        "no gang could be had in 3 s: asked 2 ranks at once, each 1 cpus, 0 gpus, 0.2 GB; "
        "this machine offers 1 cpus"
    )
    assert (answer["state"], answer["retry"]) == ("failed", False)
    assert set(groups) == {"REMOVED"}
