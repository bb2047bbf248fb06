"""Jobs on a Ray cluster that runs already: two nodes with addresses of their own, jobs by the Jobs API."""

import json
import os
import socket
import sys
from functools import partial
from pathlib import Path

import pytest
import raynodes
from engine import Bench, digests, until
from launched import STARTED_S, Launched

from clusters import existing
from clusters.attached import ADDRESS
from clusters.clients import Unanswered
from clusters.existing import Profile, read_status, render, status, submit, token
from clusters.launcher import Order
from clusters.lookup import find_cluster
from orchestrator.errors import UserError

NAMESPACES = pytest.mark.skipif(raynodes.reason() is not None, reason=str(raynodes.reason()))
STEPS = "walk.steps=8"
SLOWLY = (STEPS, "walk.pause_s=0.5")
"""Long enough to be broken off."""
MIXED = """\
name: mixed
stages:
  small: {task: toy_walk, walks: 4, folder: FOLDER/small, resources: {workers: 2, gpus: 0.5}, trouble: gate, at: [0, 1]}
  plain: {task: toy_walk, walks: 2, folder: FOLDER/plain, steps: 4, resources: {workers: 1}}
"""
SEARCH = """\
name: climbs
stages:
  climb: {task: toy_climb, steps: 2}
search:
  metric: climb.height
  algorithm: grid
  space: {climb.height: {grid: [1, 2]}}
"""


def profile(**fields):
    return Profile.model_validate(
        {"kind": "existing", "address": "http://10.0.0.1:8265", **fields}, strict=False
    )


def order(folder=Path("/code"), **env):
    return Order("walks-1", ("run", "walks.yaml", "--store", "/store"), folder, env)


def test_what_is_submitted():
    asked = render(profile(python="/py", retries=2, time_limit_s=90), order(KEY="secret"))
    assert asked.command == (
        "ray", "job", "submit", "--address", "http://10.0.0.1:8265", "--submission-id", "walks-1", "--no-wait",
        "--working-dir", "working_dir.zip", "--runtime-env", "runtime_env.yaml", "--",
        "env", "LIMBECK_RAY_ADDRESS=auto", "/py", "-m", "clusters.supervisor", "--retries", "2", "--time-limit", "90",
        "--stop-is-heard", "--", "/py", "-m", "orchestrator", "run", "walks.yaml", "--store", "/store",
    )  # fmt: skip
    assert set(asked.files) == {"runtime_env.yaml"}
    assert "KEY:" in asked.files["runtime_env.yaml"]
    assert "secret" not in str(asked)


@pytest.mark.parametrize(
    "address", ["10.0.0.1:6379", "ray://10.0.0.1:10001", "http://me:secret@head", "http://"]
)
def test_an_address_is_that_of_a_dashboard(address):
    with pytest.raises(ValueError, match="expected http://HOST:PORT or https://HOST of the dashboard"):
        profile(address=address)


@pytest.mark.parametrize(
    ("job", "phase", "message"),
    [
        ({"status": "PENDING"}, "waiting", "PENDING"),
        ({"status": "RUNNING", "message": "Job is currently running."}, "running", "RUNNING"),
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, "done", "SUCCEEDED"),
        ({"status": "STOPPED"}, "stopped", "STOPPED"),
        ({"status": "FAILED", "driver_exit_code": 3, "message": "much\ntext"}, "failed", "exit code 3"),
        ({"status": "FAILED", "message": "Traceback\nNo module"}, "failed", "No module"),
        ({"status": "NEW"}, "unknown", "NEW"),
    ],
)
def test_what_ray_says_of_a_job(job, phase, message):
    found = read_status(job)
    assert (found.phase, found.message) == (phase, message)


def test_a_job_that_the_cluster_does_not_know_has_failed():
    found = read_status(None)
    assert found.phase == "failed"
    assert "launch it again, and it goes on" in found.message


def test_the_token_is_read_where_its_owner_alone_can(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert token(profile()) is None
    file = tmp_path / "token"
    file.write_text("abc\n")
    file.chmod(0o640)
    with pytest.raises(UserError, match=r"others may read it \(mode 640\); chmod 600"):
        token(profile(token_file=str(file)))
    file.chmod(0o600)
    assert token(profile(token_file=str(file))) == "abc"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert token(profile()) == "abc"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "def")
    assert token(profile()) == "def"
    assert token(profile(token_file=str(file))) == "abc"
    with pytest.raises(UserError, match="cannot be read"):
        token(profile(token_file=str(tmp_path / "none")))


def test_another_address_in_the_environment_is_not_followed(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="RAY_ADDRESS is set, and Ray's client would go there"):
        existing.stop(profile(), "walks-1")


@pytest.fixture
def silent():
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_cluster_that_does_not_answer_is_given_up(silent, tmp_path):
    asked = profile(address=silent, wait_s=0.5)
    assert status(asked, "walks-1").phase == "unknown"
    with pytest.raises(Unanswered, match=f"{silent}: .*[Tt]imed out"):
        submit(asked, order(tmp_path), render(asked, order(tmp_path)), tmp_path)
    [reached] = existing.check(asked)
    assert not reached.ok
    assert not list(tmp_path.glob("*.zip"))


def test_the_profile_that_comes_with_limbeck():
    assert find_cluster("existing").kind is existing


# On real nodes


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A head without a core to offer, where drivers run, and a worker with one."""
    with raynodes.RayNodes(tmp_path_factory.mktemp("nodes")) as nodes:
        nodes.head()
        nodes.add(1)
        yield nodes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Digests of the plain run on this machine."""
    return digests(Bench(tmp_path_factory.mktemp("plain")).run(STEPS))


@pytest.fixture
def bench(tmp_path, nodes, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    return Launched(tmp_path, nodes)


@NAMESPACES
@pytest.mark.faults
def test_who_has_no_token_is_refused(nodes, bench):
    assert [nodes.asked(path) for path in ("/api/version", "/api/jobs/", "/nodes?view=summary")] == [401] * 3
    assert nodes.asked(token="wrong") == 403
    (bench.folder / "wrong").write_text("wrong")
    (bench.folder / "wrong").chmod(0o600)
    text = bench.profile.read_text().replace(str(nodes.token_file), str(bench.folder / "wrong"))
    bench.profile.write_text(text)
    checked = bench.limbeck("clusters", str(bench.profile), "--check", "--json", code=1).json
    [check] = checked[0]["checks"]
    assert (
        "Invalid authentication token; name the file of the cluster's token by token_file" in check["found"]
    )


@NAMESPACES
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_run_over_two_nodes(nodes, bench, undisturbed):
    checked = bench.limbeck("clusters", str(bench.profile), "--check", "--json").json
    assert [check["what"] for check in checked[0]["checks"]] == ["Jobs API", "software"]
    job = bench.launch(STEPS)
    said = bench.followed(job)
    assert bench.phase(job) == "done", said
    assert "MLflow" in said
    assert nodes.token_file.read_text() not in said
    assert digests(bench.run(STEPS)) == undisturbed  # all is cached: it is read, nothing is computed
    assert bench.marks("start") == 4
    assert bench.hosts() == {"n1"}


@NAMESPACES
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_stopped_job_goes_on_when_it_is_launched_again(bench, undisturbed):
    job = bench.launch(*SLOWLY)
    bench.wait_for_marks("start", 2, timeout=STARTED_S)
    assert bench.limbeck("stop", job, "--json").json["job"] == job
    said = bench.followed(job)
    assert bench.phase(job) == "stopped"
    assert "workers save their progress" in said
    assert "was stopped; the same command goes on from here" in said
    again = bench.launch(*SLOWLY)
    said = bench.followed(again)
    assert bench.phase(again) == "done", said
    assert digests(bench.run(*SLOWLY)) == undisturbed


@NAMESPACES
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_nodes_that_could_not_do_the_work_are_named(nodes, bench, tmp_path):
    """A node that does not see the store and has another numpy."""
    other = tmp_path / "other" / "numpy-1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    bench.store.mkdir()
    nodes.add(2, env={"PYTHONPATH": f"{other.parent}{os.pathsep}{raynodes.SUPPORT}"}, hides=bench.store)
    try:
        job = bench.launch(STEPS)
        said = bench.followed(job)
        told = bench.limbeck("status", job, "--json").json
    finally:
        nodes.remove("n2")
    assert (told["phase"], told["message"]) == ("failed", "exit code 3")
    assert "node n2 (" in said
    assert "numpy is 1.0, expected" in said
    assert "it does not see the store" in said
    assert "node n1" not in said
    assert bench.marks("start") == 0


@NAMESPACES
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_shards_fill_mixed_nodes(nodes, bench):
    """Two small ones share a card at the same time; what needs none leaves the node that has it alone."""
    bench.experiment.write_text(MIXED.replace("FOLDER", str(bench.marks_folder)))
    bench.profile.write_text(bench.profile.read_text().replace("cpus: 1,", "cpus: 3, gpus: 1,"))
    small, plain = (bench.marks_folder / name for name in ("small", "plain"))
    small.mkdir()
    plain.mkdir()
    nodes.add(3, cpus=3, gpus=1)
    try:
        job = bench.launch()
        told = partial(bench.limbeck, "logs", job)
        until(lambda: len(list(small.glob("trouble-*"))) == 2, STARTED_S, told)
        (small / "go").touch()
        said = bench.followed(job)
    finally:
        nodes.remove("n3")
    assert "mixed" in said
    assert bench.phase(job) == "done", said
    assert [len(list(small.glob("end-*-n3"))), len(list(plain.glob("end-*-n1")))] == [4, 2]


@NAMESPACES
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_search_attaches_too(nodes, bench):
    """Its driver is on the head, which has no core: every trial is computed by the other node."""
    bench.experiment.write_text(SEARCH)
    command = (
        sys.executable,
        "-m",
        "orchestrator",
        "tune",
        str(bench.experiment),
        "--store",
        str(bench.store),
    )
    done = nodes.nodes["head"].run(*command, "--json", env=nodes.env | {ADDRESS: "auto"})
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [row["state"] for row in answer["trials"]] == ["done", "done"]
    assert answer["best"]["metric"] == 2
    assert bench.hosts() == {"n1"}
