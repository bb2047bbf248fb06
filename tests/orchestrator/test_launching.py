"""What `limbeck launch` and its kin say, without anything that runs."""

import json
import re
import socket
import stat
from pathlib import Path

import pytest

from clusters import jobs
from clusters.jobs import Job
from orchestrator.errors import Infeasible, LimbeckError, StoreError, UserError
from orchestrator.store import Store
from orchestrator.task import Output
from orchestrator.verbs import launching, watching

WALKS = "name: Walks.of-1\nstages:\n  walk: {task: toy_walk, walks: 4}\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "walks.yaml").write_text(WALKS)
    return tmp_path


def dry(capsys, *overrides, cluster="local", store=None, tracking=None):
    launching.launch(Path("walks.yaml"), overrides, cluster, store, tracking, dry_run=True, as_json=True)
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_submits_nothing(here, capsys):
    answer = dry(capsys, "walk.steps=7")
    command = answer["command"]
    assert command[command.index("run") :] == [
        "run", "walks.yaml", "walk.steps=7", "--store", f"{here}/limbeck-store",
    ]  # fmt: skip
    assert answer["plan"]["stages"]["walk"]["shards_todo"] == 4
    assert (answer["handle"], answer["cost"]) == (None, None)
    assert sorted(path.name for path in here.iterdir()) == ["walks.yaml"]


def test_the_profile_says_where_things_lie(here, capsys):
    (here / "mine.yaml").write_text("kind: local\nstore: /there\ntracking: https://flow\nworking_dir: sub\n")
    (here / "sub").mkdir()
    (here / "sub" / "a.yaml").write_text(WALKS)
    launching.launch(Path("sub/a.yaml"), (), "mine.yaml", "s", None, dry_run=True, as_json=True)
    command = json.loads(capsys.readouterr().out)["command"]
    assert command[command.index("run") :] == [
        "run",
        "a.yaml",
        "--store",
        "/there",
        "--tracking",
        "https://flow",
    ]
    with pytest.raises(UserError, match="lies outside the working directory"):
        dry(capsys, cluster="mine.yaml")


def test_the_cost_is_told_where_price_and_time_are_known(here, capsys):
    """Time comes from what such shards took before: here half an hour each, and there is room for all at once."""
    dear = f"kind: slurm\nstore: {here}/kept\nresources: {{nodes: 3, cpus: 2, price_per_hour: 2}}\n"
    (here / "dear.yaml").write_text(dear)
    assert dry(capsys, cluster="./dear.yaml")["cost"] is None
    store, key = Store.open(f"{here}/kept"), "a" * 32
    store.commit_shard(key, {}, "n=0", Output())
    made = store.make_manifest(
        key=key, kind="k", task="toy_walk", version=1, config={}, seed=0, inputs={}, facts={}, output=Output(),
        shard_keys=[key], provenance={"shard_seconds": [1800.0]},
    )  # fmt: skip
    store.publish(made)
    assert dry(capsys, cluster="./dear.yaml")["cost"] == 3.0
    launching.launch(Path("walks.yaml"), (), "./dear.yaml", None, None, dry_run=True, as_json=False)
    told = capsys.readouterr().out
    assert "estimated cost: 3.00 (3 nodes at 2 an hour)" in told
    assert told.index("estimated cost") < told.index("sbatch")


def test_what_cannot_be_is_refused_after_the_plan_is_shown(capsys):
    with pytest.raises(Infeasible, match="a worker asks 500, this machine offers"):
        launching.launch(Path("walks.yaml"), ["walk.resources.cpus=500"], "local", None, None, False, False)
    assert "toy_walk" in capsys.readouterr().out
    assert jobs.jobs() == []


def test_an_id_is_safe_everywhere():
    for name in ("Walks.of 1", "_" * 9, "x" * 100, "-a-"):
        found = launching._new_id(name)
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,48}[a-z0-9]", found), found
    assert launching._new_id("Walks.of_1").startswith("walks-of-1-")


def test_jobs_are_listed_as_they_are_known(capsys):
    profile = {"kind": "local"}
    told = {"ended": "failed", "message": "exit code 1"}
    jobs.keep(Job(id="b-1", cluster="local", profile=profile, argv=("run",), submitted=2, handle="h", **told))
    jobs.keep(Job(id="a-1", cluster="local", profile=profile, argv=("run",), submitted=1))
    watching.jobs(as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [(row["job"], row["phase"], row["message"]) for row in rows] == [
        ("b-1", "failed", "exit code 1"),
        ("a-1", "unknown", "job a-1: its launch was cut short before local had answered; look there for a-1"),
    ]
    watching.status("b", as_json=True)
    assert json.loads(capsys.readouterr().out) == rows[0]
    with pytest.raises(UserError, match="cut short"):
        watching.stop("a-1", as_json=True)


def test_no_jobs_yet(capsys):
    watching.jobs(as_json=False)
    assert "limbeck launch EXP --cluster NAME" in capsys.readouterr().out


def test_clusters_are_listed_and_checked(here, capsys):
    watching.clusters("local", check=True, as_json=True)
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["kind"], row["ok"]) == ("local", True)
    assert [check["what"] for check in row["checks"]] == ["machine", "python"]


def test_a_profile_with_a_mistake_is_listed_with_it(here, capsys):
    (here / "home" / "profiles").mkdir(parents=True)
    (here / "home" / "profiles" / "bad.yaml").write_text("kind: local\nretry: 2\n")
    with pytest.raises(LimbeckError, match="not well: bad"):
        watching.clusters(None, check=False, as_json=True)
    row = next(row for row in json.loads(capsys.readouterr().out) if row["cluster"] == "bad")
    assert "bad.yaml:2: retry: unknown key; did you mean 'retries'?" in row["has"]


def test_the_home_of_jobs_is_for_its_owner_alone(here):
    jobs.keep(Job(id="a-1", cluster="local", profile={"kind": "local"}, argv=(), submitted=1))
    assert stat.S_IMODE((here / "home" / "jobs" / "a-1").stat().st_mode) == 0o700


@pytest.mark.timeout(60)
@pytest.mark.slow
def test_a_store_that_does_not_answer_is_given_up_soon(here, monkeypatch):
    """A run waits for two minutes, as it has something to lose."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        (here / "there.yaml").write_text(
            "kind: existing\naddress: http://127.0.0.1:9\nstore: s3://bucket/p\ntracking: http://127.0.0.1:9\n"
        )
        with pytest.raises(
            StoreError, match=r"cannot read store\.json: connection refused; check the address"
        ):
            launching.launch(Path("walks.yaml"), (), "./there.yaml", None, None, dry_run=True, as_json=True)
