"""What may go wrong while a run is under way, done to real processes: the result is that of an undisturbed run.

After each fault: the same digests, no record of a finished shard written anew, no process of ours left. Two
drivers at once: test_two_drivers.py. Crashes, hangs, NaN and bad values inside a shard: test_run.py.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from engine import SUPPORT, Bench, commits, digests, end, gone, kill_server, runs, working_children
from mlflow.tracking import MlflowClient
from mlflow_views import snapshot

from orchestrator.ui import serve

pytestmark = pytest.mark.faults
ROOT = SUPPORT.parents[1]
SLOWLY = ["walk.pause_s=0.3", "walk.progress_s=0"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The digests of a run that nothing happens to."""
    return digests(Bench(tmp_path_factory.mktemp("undisturbed")).run())


def killed(bench: Bench, process: subprocess.Popen) -> None:
    """SIGKILL to a driver: all that it started ends too."""
    children = working_children(process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert gone(children, timeout=60), "processes of ours outlived the driver"


@pytest.mark.timeout(600)
def test_a_driver_killed_at_five_random_moments(tmp_path, undisturbed):
    seed = random.randrange(10**6)  # shown where the test fails
    moments, bench, seen = random.Random(seed), Bench(tmp_path), {}
    for _ in range(5):
        process = bench.start("run", "walks.yaml", *SLOWLY)
        try:
            before = bench.marks("start")
            deadline = time.monotonic() + 60
            while process.poll() is None and bench.marks("start") == before and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(moments.uniform(0, 2.5))
            if process.poll() is None:
                killed(bench, process)
        finally:
            end(process)
        now = commits(bench)
        assert seen.items() <= now.items(), "a finished shard was committed again"
        seen = now
    assert digests(bench.run(*SLOWLY)) == undisturbed
    assert seen.items() <= commits(bench).items()
    assert bench.limbeck("artifacts", "verify", "--json").json["problems"] == []


def test_a_killed_raylet_of_two(tmp_path, undisturbed):
    bench = Bench(tmp_path)
    text = bench.experiment.read_text().replace("steps: 6", "steps: 6, pause_s: 0.5, progress_s: 0")
    bench.experiment.write_text(text)
    command = [sys.executable, str(SUPPORT / "two_nodes.py"), str(bench.experiment), str(bench.store)]
    path = os.pathsep.join([str(SUPPORT), str(ROOT)])
    process = subprocess.Popen(
        [*command, str(bench.marks_folder), str(tmp_path / "answer.json")],
        env=os.environ | {"PYTHONPATH": path}, text=True, start_new_session=True, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        bench.wait_for_marks("start", 2, timeout=120)
        children = working_children(process)
        _, err = process.communicate(timeout=240)
    finally:
        end(process)
    assert process.returncode == 0, err
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert digests(answer) == undisturbed
    assert "worker died" in err
    assert bench.marks("start") == 5, "one shard, that of the killed node, is to be started twice"
    assert gone(children, timeout=60)


def test_a_worker_out_of_memory(tmp_path, undisturbed):
    bench = Bench(tmp_path)
    done = bench.limbeck("run", "walks.yaml", "walk.trouble=memory", "walk.at=[1]", "--json")
    assert "can't allocate memory" in done.err
    assert digests(done.json) == undisturbed
    assert (bench.marks("trouble"), bench.marks("start", 1)) == (2, 2)


def test_a_worker_that_is_always_out_of_memory(tmp_path, undisturbed):
    bench = Bench(tmp_path)
    lasting = ["walk.trouble=memory", "walk.at=[1]", "walk.times=99", "walk.retries=1"]
    done = bench.limbeck("run", "walks.yaml", *lasting, code=1)
    assert "ask for more by resources.memory_gb, or for fewer workers" in done.err
    assert digests(bench.run()) == undisturbed


def test_one_flipped_bit_is_found_and_just_its_shard_computed_again(tmp_path, undisturbed):
    bench = Bench(tmp_path)
    assert digests(bench.run()) == undisturbed
    shown = bench.limbeck("artifacts", "show", "walk", "--json").json
    content = shown["shards"][2]["files"]["path.safetensors"]["digest"]
    blob = bench.store / "blobs" / content[:2] / content
    data = bytearray(blob.read_bytes())
    data[-3] ^= 1
    blob.write_bytes(data)
    before, starts = commits(bench), bench.marks("start")
    found = bench.limbeck("artifacts", "verify", "--json", code=1).json
    assert content in json.dumps(found["problems"])
    bench.limbeck("artifacts", "verify", "--repair")
    answer = bench.run()
    assert digests(answer) == undisturbed
    assert answer["stages"]["walk"]["computed_shards"] == 1
    assert bench.marks("start") == starts + 1
    unchanged = before.items() & commits(bench).items()
    assert len(unchanged) >= 3 + 1, "other shards were committed again"
    assert bench.limbeck("artifacts", "verify", "--json").json["problems"] == []


def test_an_mlflow_server_killed_and_restarted(tmp_path, undisturbed):
    bench, database = Bench(tmp_path), f"sqlite:///{tmp_path}/mlflow.db"
    with ExitStack() as stack:
        url = stack.enter_context(serve(tmp_path, database, port=0))
        process = bench.start("run", "walks.yaml", "--tracking", url, "--json", *SLOWLY)
        try:
            bench.wait_for_marks("start", 2, timeout=120)
            kill_server()
            out, err = process.communicate(timeout=200)
        finally:
            end(process)
    assert process.returncode == 0, err
    assert digests(json.loads(out)) == undisturbed
    assert "events wait, the next run delivers them" in err
    with serve(tmp_path, database, port=int(url.rpartition(":")[2])):
        assert digests(bench.limbeck("run", "walks.yaml", "--tracking", url, "--json").json) == undisturbed
        client = MlflowClient(tracking_uri=url)
        first, again = (snapshot(client)[run_id, "walk"] for run_id in walk_runs(client))
    assert first["status"] == again["status"] == "FINISHED"
    for walk in range(4):
        steps = [step for step, *_ in first["metrics"][f"position/walk:{walk}"]]
        assert steps == list(range(6)), "every point of the first run is delivered, and once"


def walk_runs(client: MlflowClient) -> list[str]:
    """Our ids of the runs that a server knows, oldest first."""
    return sorted(run_id for run_id, stage in snapshot(client) if stage is None)


def in_a_namespace(script: str, *argv: str) -> list[str]:
    """A command that runs a shell script with mounts of its own; skips where the machine does not let us."""
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs unshare with user and mount namespaces to make a small disk")
    return ["unshare", "-rm", "sh", "-ec", script, "sh", *argv]


FULL = """
mount -t tmpfs -o size=8m tmpfs "$1"
"$2" -m orchestrator run walks.yaml --json seed=1 >/dev/null
dd if=/dev/zero of="$1/filler" bs=4k 2>/dev/null || true
truncate -s -40960 "$1/filler"
"$2" -m orchestrator run walks.yaml >/dev/null && exit 9
rm "$1/filler"
exec "$2" -m orchestrator run walks.yaml --json
"""
READ_ONLY = """
mount -t tmpfs -o size=64m tmpfs "$1"
"$2" -m orchestrator run walks.yaml --only walk --json >/dev/null
mount -o remount,ro "$1"
"$2" -m orchestrator run walks.yaml >/dev/null && exit 9
"$2" -m orchestrator artifacts ls >/dev/null
mount -o remount,rw "$1"
exec "$2" -m orchestrator run walks.yaml --json
"""


@pytest.mark.parametrize(
    ("script", "said"), [(FULL, "No space left on device"), (READ_ONLY, "Read-only file system")]
)
def test_a_store_that_is_full_or_read_only(tmp_path, undisturbed, script, said):
    bench = Bench(tmp_path)
    bench.store.mkdir()
    command = in_a_namespace(script, str(bench.store), sys.executable)
    env = os.environ | {"PYTHONPATH": str(SUPPORT), "LIMBECK_STORE": str(bench.store)}
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    process = subprocess.Popen(
        command, env=env | {"LIMBECK_TRACKING": tracking}, cwd=bench.folder, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=240)
    finally:
        end(process)
    assert process.returncode == 0, f"{out}\n{err}"
    assert said in err
    assert "Traceback" not in err, err
    assert digests(json.loads(out)) == undisturbed
    assert not [pid for pid in _of_session(process.pid) if runs(pid)]


def _of_session(session: int) -> list[int]:
    """Processes of a session: what a command started, however deep."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session:
                found.append(int(folder.name))
        except ProcessLookupError:
            continue
    return found
