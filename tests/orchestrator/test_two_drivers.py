"""Two real drivers on one store: no shard is computed twice, and whoever is left finishes."""

import json
import os
import signal

import pytest
from engine import Bench, digests, end, gone, working_children

from orchestrator.store import Lease, Leases, Store

pytestmark = pytest.mark.faults
ONE = "walk.resources.workers=1"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The digests of a run that nothing happens to."""
    return digests(Bench(tmp_path_factory.mktemp("undisturbed")).run(ONE))


@pytest.fixture
def start():
    """Starts commands of a bench; ends what is left at the end of the test."""
    started = []

    def one(bench, *argv):
        started.append(bench.start("run", str(bench.experiment), *argv, "--json"))
        return started[-1]

    yield one
    for process in started:
        end(process)


def finished(process):
    """The answer of a run that ends well, and what it said on the way."""
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return json.loads(out), err


def said(process, text):
    """Waits until it says so."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError(f"it ended without a word of {text!r}: {lines}")


def test_two_at_once_compute_no_shard_twice(tmp_path, start, undisturbed):
    bench = Bench(tmp_path)
    drivers = [start(bench, ONE, "walk.pause_s=0.5") for _ in range(2)]
    answers = [finished(driver)[0] for driver in drivers]
    assert [digests(answer) for answer in answers] == [undisturbed] * 2
    assert answers[0]["run_id"] != answers[1]["run_id"]
    assert bench.marks("start") == 4
    computed = [answer["stages"]["walk"]["computed_shards"] for answer in answers]
    assert sorted(computed) == [0, 4]
    runs = bench.limbeck("runs", "--json").json
    assert {run["state"] for run in runs} == {"done"}


def test_the_second_takes_over_from_a_killed_one(tmp_path, start, undisturbed):
    bench = Bench(tmp_path)
    options = [ONE, "walk.trouble=hang", "walk.at=[1]"]
    first = start(bench, *options)
    bench.wait_for_marks("trouble", 1, timeout=120)
    second = start(bench, *options)
    line = said(second, "walk: waits for run ")
    assert f"(process {first.pid}), which computes it" in line
    children = working_children(first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait(timeout=30)
    answer, err = finished(second)
    assert "waits for" not in err, "it was said once"
    assert gone(children), "processes of ours outlived the first driver"
    assert digests(answer) == undisturbed
    assert answer["stages"]["walk"]["cached_shards"] == 1
    assert bench.marks("start") == 5, "the first one's second walk, and that alone, was begun twice"


def test_a_driver_that_lost_its_lease_gives_way(tmp_path, start):
    """As one that was paused for long does: its stage stops and waits; Ctrl-C ends the waiting."""
    bench = Bench(tmp_path)
    driver = start(bench, ONE, "walk.trouble=hang", "walk.at=[1]")
    bench.wait_for_marks("trouble", 1, timeout=120)
    store = Store.open(str(bench.store), create=False)
    [key] = {entry.path.split("/")[1] for entry in store.bytes.list("leases")}
    assert isinstance(Leases(store.bytes, silence_s=0).take(key, "other"), Lease)
    said(driver, "walk: given up: ")
    said(driver, f"walk: waits for run other on {os.uname().nodename} (process {os.getpid()})")
    children = working_children(driver)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, err
    assert "the same command goes on" in err
    assert gone(children), "processes of ours outlived the driver"
    [run] = store.runs()
    walk = run.stages[0]
    assert (run.state, walk.state) == ("interrupted", "pending")
    assert (walk.computed_shards, walk.cached_shards) == (1, 0)
    assert bench.marks("start") == 2
