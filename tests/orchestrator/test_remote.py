"""The real command line on a store in a real S3 server: the same digests as in a folder, whatever is killed."""

import json
import os
import signal
import time
import uuid

import pytest
import s3
from engine import Bench, digests, end, gone, working_children
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.places import home


@pytest.fixture(scope="module")
def server():
    with s3.serving() as running:
        running.bucket("bucket")
        yield running


@pytest.fixture
def bench(server, tmp_path, monkeypatch):
    """A bench whose store lies in a bucket, and whose MLflow lies in a file beside it."""
    s3.environment(monkeypatch, server.url, LIMBECK_CACHE=str(tmp_path / "cache"))
    monkeypatch.setenv("LIMBECK_TRACKING", f"sqlite:///{tmp_path}/mlflow.db")
    made = Bench(tmp_path)
    made.store = f"s3://bucket/{uuid.uuid4().hex}"
    return made


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory):
    """The answer of a run whose store is a folder."""
    return Bench(tmp_path_factory.mktemp("folder")).run()


@pytest.mark.faults
def test_killed_and_cut_off_a_run_in_a_bucket_makes_the_same_bytes(bench, server, in_a_folder, monkeypatch):
    """The driver is killed; the resumed run loses its server twice; then every verb answers."""
    options = ["walk.pause_s=0.2", "walk.progress_s=0", "walk.resources.workers=1"]
    kill_in_the_middle(bench, options)
    with s3.wired(server) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
        answer = resume_through_outages(bench, options, wire)
    assert digests(answer) == digests(in_a_folder)
    walk, total = answer["stages"]["walk"], answer["stages"]["total"]
    assert walk["cached_shards"] >= 1
    assert bench.marks("start") == 2 + walk["computed_shards"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    check_verbs(bench, walk["artifact"], total["artifact"])


def kill_in_the_middle(bench, options) -> None:
    process = bench.start("run", "walks.yaml", *options)
    try:
        bench.wait_for_marks("start", 2)
        children = working_children(process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    finally:
        end(process)
    assert gone(children), "processes of ours outlived the driver"


def resume_through_outages(bench, options, wire):
    process = bench.start("run", "walks.yaml", *options, "--json")
    try:
        for starts, outage, mend in ((3, wire.down, wire.up), (4, wire.turn_away, wire.let_in)):
            bench.wait_for_marks("start", starts)
            outage()
            time.sleep(2)
            mend()
        out, err = process.communicate(timeout=200)
    finally:
        end(process)
    assert process.returncode == 0, err
    return json.loads(out)


def check_verbs(bench, walk, total) -> None:
    def answer(*argv):
        done = CliRunner().invoke(app, [*argv, "--store", bench.store, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert answer("artifacts", "verify")["ok"]
    assert [row["id"] for row in answer("artifacts", "ls")] == [total, walk]
    assert answer("artifacts", "show", "walks/walk")["id"] == walk
    assert [node["id"] for node in answer("artifacts", "lineage", total[:9])["up"]] == [walk]
    files = answer("artifacts", "export", "walk", str(bench.folder / "out"))["files"]
    assert "shards/walk=0/path.safetensors" in files
    assert answer("artifacts", "gc", "--apply")["kept_artifacts"] == 2
    assert [run["state"] for run in answer("runs")] == ["done"]
    again = bench.limbeck("run", "walks.yaml")
    assert f"limbeck ui --store {bench.store} --tracking" in again.out

    from orchestrator import load

    assert load("walk", store=bench.store).tensors("ends")["ends"].shape == (4,)
    here = list(home(bench.store).rglob("*.json*"))
    assert any(path.name == "events.jsonl" for path in here)
    assert not any("not-a-secret" in path.read_text() for path in here)


def test_a_bucket_asks_where_mlflow_is_to_be(bench, server, monkeypatch):
    monkeypatch.delenv("LIMBECK_TRACKING")
    done = bench.limbeck("run", "walks.yaml", code=2)
    assert done.err.startswith(
        f"limbeck: store {bench.store}: MLflow's SQLite database cannot lie in an object store"
    )
    assert "--tracking" in done.err
    assert len(done.err.splitlines()) == 1
    assert b"<KeyCount>0<" in server.request(
        "GET", f"/bucket?list-type=2&prefix={bench.store.rpartition('/')[2]}"
    )


@pytest.mark.slow
def test_a_missing_bucket_is_one_line(bench):
    (bench.folder / "there.yaml").write_text("kind: existing\naddress: http://127.0.0.1:9\n")
    launch = ["launch", "walks.yaml", "--cluster", "./there.yaml"]
    for argv, code in ((["run", "walks.yaml"], 2), (launch, 2), (["plan", "walks.yaml"], 2), (["doctor"], 1)):
        done = bench.limbeck(*argv, "--store", "s3://no-such-bucket/p", code=code)
        assert "there is no such bucket; make it, or name another by --store" in done.err
        assert len(done.err.splitlines()) == 1


def test_doctor_proves_a_bucket(bench):
    found = bench.limbeck("doctor", "--json").json
    assert {check["check"]: check["ok"] for check in found["checks"]}["store"]
