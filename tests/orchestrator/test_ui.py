import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from orchestrator import guard
from orchestrator.errors import LimbeckError, UserError
from orchestrator.spool import Spool
from orchestrator.tracking import Tracker, default_artifacts, default_uri
from orchestrator.ui import serve

ROOT = Path(__file__).parents[2]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)
"""One black pixel."""


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", ""])
def test_only_loopback_is_served(tmp_path, host):
    with (
        pytest.raises(UserError, match=f"host {host}: .*no authentication.*ssh -L"),
        serve(tmp_path, default_uri(tmp_path), host=host),
    ):
        pytest.fail("served")


def test_a_server_is_not_served_again(tmp_path):
    with pytest.raises(UserError, match="a server already"), serve(tmp_path, "http://127.0.0.1:5000"):
        pytest.fail("served")


@pytest.mark.parametrize("port", [None, 1 << 20])
def test_a_port_that_cannot_be_had_gets_one_that_can(tmp_path, port):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = port or taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=rf"port {wanted} on 127.0.0.1 .*; port \d+ is free"),
            serve(tmp_path, default_uri(tmp_path), port=wanted),
        ):
            pytest.fail("served")
    assert list(tmp_path.iterdir()) == []


FAMILY = """
import subprocess, sys, time
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", stubborn])
print(child.pid, flush=True)
time.sleep(60)
"""
STARTER = """
import subprocess, sys, time
command = [sys.executable, "-I", sys.argv[1], sys.executable, "-c", sys.argv[2]]
guarded = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
time.sleep(60)
"""


def test_the_guard_ends_the_group_when_its_starter_is_killed():
    command = [sys.executable, "-c", STARTER, guard.__file__, FAMILY]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as starter:
        grandchild = psutil.Process(int(starter.stdout.readline()))
        group = os.getpgid(grandchild.pid)
        members = [process for process in psutil.process_iter() if group_of(process) == group]
        assert len(members) == 3
        starter.kill()
    gone, alive = psutil.wait_procs(members, timeout=30)
    assert (len(gone), alive) == (3, [])


def group_of(process):
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def test_the_guard_ends_with_its_command():
    command = [sys.executable, "-I", guard.__file__, sys.executable, "-c", "print('done')"]
    done = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    with done:
        assert done.stdout.read() == b"done\n"
        assert done.wait(20) == -signal.SIGKILL


def test_a_database_that_is_none_is_one_clear_line(tmp_path):
    Path(tmp_path, "db").write_bytes(b"no database" * 100)
    with (
        pytest.raises(LimbeckError, match=r"MLflow.s database cannot be used: .*file is not a database"),
        serve(tmp_path, f"sqlite:///{tmp_path}/db", port=0),
    ):
        pytest.fail("served")


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no module named mlflow\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    children = set(psutil.Process().children())
    with (
        pytest.raises(
            LimbeckError, match=r"ended; it last said: no module named mlflow; its log is .*server\.log"
        ),
        serve(tmp_path, default_uri(tmp_path), port=0),
    ):
        pytest.fail("served")
    assert set(psutil.Process().children()) <= children


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A finished run, written by the driver straight into SQLite and files, and a server over it."""
    store = tmp_path_factory.mktemp("store")
    spool = Spool(store / "runs" / "r1" / "events.jsonl")
    tell(spool, "digits")
    assert Tracker(default_uri(store), spool, lambda _: PNG, default_artifacts(store)).close(60) == 0
    with serve(store, default_uri(store), port=0) as url:
        yield store, url


def tell(spool, experiment):
    spool.run_started("r1", experiment, {}, {})
    spool.stage_started("s", "t", {}, {}, shards=2)
    spool.preview("s", "k=0,m=1", "synthetic/images", 3, "p")
    spool.stage_ended("s", "done", {"accuracy": 0.5}, manifest={"files": ["a"]}, tables="| a |")
    spool.run_ended("done")


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        return answer.read()


def stage_run(url, experiment):
    client = MlflowClient(tracking_uri=url)
    known = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([known.experiment_id], "tags.`limbeck.stage` = 's'")
    return run


@pytest.mark.slow
def test_what_the_driver_wrote_comes_through_the_server(served):
    _, url = served
    run = stage_run(url, "digits")
    assert run.info.artifact_uri.startswith("file:///")
    assert b"<html" in get(url)
    listed = json.loads(get(f"{url}/ajax-api/2.0/mlflow/artifacts/list?run_id={run.info.run_id}&path=images"))
    names = [file["path"] for file in listed["files"]]
    assert len(names) == 2
    picture = next(name for name in names if name.endswith(".png"))
    assert picture.startswith("images/synthetic~images~k=0,m=1+step+3+timestamp+")
    quoted = urllib.parse.quote(picture)
    assert get(f"{url}/get-artifact?path={quoted}&run_uuid={run.info.run_id}") == PNG
    assert json.loads(get(f"{url}/get-artifact?path=manifest.json&run_uuid={run.info.run_id}")) == {
        "files": ["a"]
    }


@pytest.mark.slow
def test_what_another_driver_logs_through_the_server_lies_in_the_store(served, tmp_path):
    store, url = served
    spool = Spool(tmp_path / "events.jsonl")
    tell(spool, "from afar")
    assert Tracker(url, spool, lambda _: PNG).close(60) == 0
    run = stage_run(url, "from afar")
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    client = MlflowClient(tracking_uri=url)
    (picture, thumbnail) = sorted(file.path for file in client.list_artifacts(run.info.run_id, "images"))
    assert {Path(picture).suffix, Path(thumbnail).suffix} == {".png", ".webp"}
    lie = [path for path in default_artifacts(store).rglob("*.png") if run.info.run_id in str(path)]
    assert [path.read_bytes() for path in lie] == [PNG]


@pytest.mark.slow
def test_foreign_hosts_are_refused(served):
    _, url = served
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(url, Host="evil.example.org")
    refused.value.close()
    assert refused.value.code == 403
    port = int(url.rpartition(":")[2])
    bound = {
        c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port
    }
    assert bound == {"127.0.0.1"}


SERVER = """
import sys, time
from pathlib import Path
from orchestrator.tracking import default_uri
from orchestrator.ui import serve
store = Path(sys.argv[1])
with serve(store, default_uri(store), port=0) as url:
    print(url, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.faults)])
def test_however_it_ends_no_process_stays(served, how):
    store, _ = served
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SERVER, str(store)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ui:
        assert ui.stdout.readline().startswith(b"http://127.0.0.1:")
        family = psutil.Process(ui.pid).children(recursive=True)
        assert len(family) == 3
        ui.send_signal(how)
        began = time.monotonic()
        ui.communicate(timeout=30)
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert (len(gone), alive) == (3, [])
    assert time.monotonic() - began < 60
