import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.entities import Metric
from mlflow_views import files, points, runs_of, snapshot
from PIL import Image
from told_runs import NOWHERE, client_of, deliver, picture, spool_of, tell

from orchestrator.spool import Spool
from orchestrator.tracking import Tracker, default_artifacts, default_uri, files_root, leftovers, prepare

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("given", "found"), [("s3://b/p", "s3://b/p"), ("/f", Path("/f")), ("", None)])
def test_where_the_files_of_runs_are_to_lie(monkeypatch, tmp_path, given, found):
    monkeypatch.setenv("LIMBECK_TRACKING_FILES", given)
    assert files_root(tmp_path) == (found or default_artifacts(tmp_path))


def test_mlflow_keeps_one_point_of_two_that_are_the_same(store):
    """The property that replay stands on: the primary key holds run, key, time, step and value."""
    client = client_of(store)
    run_id = client.create_run(client.create_experiment("x")).info.run_id
    batch = [Metric("loss", 0.1 * step, 1000 + step, step) for step in range(10)]
    client.log_batch(run_id, metrics=batch)
    client.log_batch(
        run_id, metrics=[*batch, Metric("loss", 5.0, 2000, 10), Metric("loss", float("nan"), 3, 3)]
    )
    client.log_batch(run_id, metrics=[*batch, Metric("loss", float("nan"), 3, 3)])
    assert len(client.get_metric_history(run_id, "loss")) == 12


def test_a_run_as_mlflow_shows_it(store):
    spool = spool_of(store)
    tell(spool)
    deliver(store, spool)
    client = client_of(store)
    runs = runs_of(client)
    assert list(runs) == ["", "experts", "distilled"]
    parent, experts, distilled = runs.values()

    assert [run.info.run_name for run in runs.values()] == ["digits", "experts", "distilled"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert experts.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params == {"seed": "0", "stages.experts.epochs": "2"}
    assert parent.data.tags["limbeck.commit"] == parent.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert parent.data.metrics == {
        "experts.accuracy": 0.9,
        "distilled.accuracy": 0.8,
        "distilled.step_ms": 3.5,
    }

    tags = experts.data.tags
    assert (tags["limbeck.run_id"], tags["limbeck.stage"], tags["limbeck.task"]) == (
        "r1",
        "experts",
        "expert_trajectories",
    )
    assert (tags["limbeck.artifact"], tags["limbeck.digest"]) == ("a" * 32, "b" * 64)
    assert distilled.data.tags["limbeck.inputs"] == "a" * 32
    (given,) = experts.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("digits", "d" * 36)
    assert {tag.key: tag.value for tag in given.tags}["limbeck.digest"] == "d" * 64

    assert "loss/expert:2 seed:1" in experts.data.metrics
    assert experts.data.metrics["accuracy"] == 0.9
    assert len(client.get_metric_history(experts.info.run_id, "loss/expert:0 seed:1")) == 5
    assert [step for step, *_ in points(client, distilled.info.run_id, "loss")] == [0, 10, 20, 30, 40]
    assert distilled.data.metrics["accuracy"] == 0.8, "the final value stands, not the curve's last"

    names = dict(files(client, experts.info.run_id))
    assert set(names) == {"manifest.json", "tables.txt"}
    assert '"files"' in Path(client.download_artifacts(experts.info.run_id, "manifest.json")).read_text()
    assert Path(experts.info.artifact_uri.removeprefix("file://")).is_relative_to(default_artifacts(store))


def test_pictures_lie_where_mlflows_image_view_looks(store):
    spool = spool_of(store)
    tell(spool)
    deliver(store, spool)
    client = client_of(store)
    run = runs_of(client)["distilled"]
    assert run.data.tags["mlflow.loggedImages"] == "True"
    names = [Path(name).name for name, _ in files(client, run.info.run_id, "images")]
    assert len(names) == 10
    for name in names:
        stem, _, suffix = name.rpartition(".")
        key, step_word, step, time_word, stamp, _, *compressed = stem.split("+")
        assert (key, step_word, time_word) == ("synthetic", "step", "timestamp")
        assert int(step) in range(0, 50, 10)
        assert int(stamp) > 1_600_000_000_000
        assert (suffix, compressed) in (("png", []), ("webp", ["compressed"]))
    full = next(name for name in names if "+step+0+" in name and name.endswith(".png"))
    local = client.download_artifacts(run.info.run_id, f"images/{full}")
    assert Path(local).read_bytes() == picture("p")
    small = client.download_artifacts(run.info.run_id, f"images/{full.removesuffix('.png')}+compressed.webp")
    with Image.open(small) as thumbnail:
        assert max(thumbnail.size) == 256


def told_of_a_page(store, text):
    """The log of a run that has ended, with its report beside."""
    spool = spool_of(store)
    tell(spool)
    page = spool.path.with_name("report.html")
    page.write_text(text, encoding="utf-8")
    spool.report(page, hashlib.sha256(page.read_bytes()).hexdigest())
    return spool, page


def logged_pages(store):
    client = client_of(store)
    run = runs_of(client)[""].info.run_id
    names = [name for name, _ in files(client, run)]
    return [Path(client.download_artifacts(run, name)).read_text("utf-8") for name in names if "html" in name]


def test_the_report_is_a_file_of_the_whole_run_and_the_run_has_ended(store):
    spool, _ = told_of_a_page(store, "<p>\N{GREEK SMALL LETTER MU}</p>")
    tracker = Tracker(NOWHERE, spool, picture)  # away while the run ended
    assert tracker.close(0.5) > 0
    assert (spool.state, Spool(spool.path).state) == ("done", "done")
    deliver(store, spool)
    assert logged_pages(store) == ["<p>\N{GREEK SMALL LETTER MU}</p>"]
    assert {run.info.status for run in runs_of(client_of(store)).values()} == {"FINISHED"}
    assert leftovers(store / "runs", default_uri(store)) == []


def test_a_page_that_was_written_anew_is_not_sent_in_the_name_of_the_old(store):
    spool, page = told_of_a_page(store, "old")
    page.write_text("changed by hand")
    deliver(store, spool)
    assert logged_pages(store) == []
    told_of_a_page(store, "new")
    deliver(store, spool_of(store))
    assert logged_pages(store) == ["new"]


@pytest.mark.slow
def test_sent_again_from_any_point_it_is_the_same(store):
    spool, _ = told_of_a_page(store, "<p>page</p>")
    deliver(store, spool)
    before = snapshot(client_of(store))
    ends = [0] + [end for _, end in spool.read()]
    for place in (0, 3, len(ends) // 2, len(ends) - 3, len(ends) - 2):
        spool.advance(default_uri(store), ends[place])
        deliver(store, spool)
        assert snapshot(client_of(store)) == before


def test_a_resumed_run_goes_on_in_the_same_runs(store):
    tell(spool_of(store), state="interrupted", steps=2)
    deliver(store, spool_of(store))
    assert {run.info.status for stage, run in runs_of(client_of(store)).items() if stage != "experts"} == {
        "KILLED"
    }
    spool = spool_of(store)
    spool.run_started("r1", "digits", {"seed": 1}, {"commit": "new"})
    deliver(store, spool)
    assert runs_of(client_of(store))[""].info.status == "RUNNING"
    tell(spool_of(store), steps=5)
    deliver(store, spool_of(store))
    tell(spool_of(store), steps=5)
    deliver(store, spool_of(store))
    client = client_of(store)
    runs = runs_of(client)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert len(snapshot(client)) == 3
    assert runs[""].data.params["seed"] == "0", "a parameter cannot change"
    assert len(points(client, runs["experts"].info.run_id, "loss/expert:0 seed:1")) == 5
    assert len(points(client, runs["experts"].info.run_id, "accuracy")) == 1
    assert len(points(client, runs[""].info.run_id, "experts.accuracy")) == 1


def test_nothing_told_just_before_the_end_is_left_behind(store):
    for run_id in ("r1", "r2", "r3"):
        spool = spool_of(store, run_id)
        tracker = Tracker(default_uri(store), spool, picture, default_artifacts(store))
        tell(spool, run_id=run_id, steps=8)
        assert tracker.close(60) == 0, tracker.error
    assert {run["status"] for run in snapshot(client_of(store)).values()} == {"FINISHED"}


def test_a_changed_result_is_the_one_shown(store):
    tell(spool_of(store))
    tell(spool_of(store), accuracy=0.95)
    deliver(store, spool_of(store))
    assert runs_of(client_of(store))[""].data.metrics["experts.accuracy"] == 0.95


def test_final_metrics_are_the_models_too_and_once_the_runs(store):
    spool = spool_of(store)
    spool.run_started("r1", "digits", {}, {})
    for _ in range(2):  # as when the same command is typed again
        spool.stage_started("s", "t", {}, {})
        spool.metrics("s", "", 7, {"loss": 1.0})
        rows = {"dtype": "uint8", "shape": [1, 8, 8]}
        model = {"kind": "classifier", "takes": rows, "gives": rows, "reference": {"artifact": "a" * 32}}
        spool.stage_ended("s", "done", {"accuracy": 0.5, "loss": 0.25}, model=model)
        deliver(store, spool)
    spool.advance(default_uri(store), 0)
    deliver(store, spool)
    client = client_of(store)
    run = runs_of(client)["s"]
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert sorted((one.key, one.value, one.step) for one in model.metrics) == [
        ("accuracy", 0.5, 7), ("loss", 0.25, 7),
    ]  # fmt: skip
    assert [value for _, value, _ in points(client, run.info.run_id, "accuracy")] == [0.5]


def test_a_failed_run_and_a_stage_that_never_ended(store):
    spool = spool_of(store)
    spool.run_started("r1", "digits", {}, {})
    spool.stage_started("one", "task", {}, {})
    spool.stage_ended("one", "failed", {}, failed_shards=2)
    spool.stage_started("two", "task", {}, {})
    spool.run_ended("failed")
    deliver(store, spool)
    runs = runs_of(client_of(store))
    assert {stage: run.info.status for stage, run in runs.items()} == {
        "": "FAILED",
        "one": "FAILED",
        "two": "FAILED",
    }
    assert runs["one"].data.tags["limbeck.failed_shards"] == "2"


def test_many_and_long_values(store):
    spool = spool_of(store)
    params = {f"stages.a.p{i}": "x" * (10_000 if i == 0 else 3) for i in range(250)}
    spool.run_started("r1", "digits", params | {"a=b": 1, "a:b": 2}, {"overrides": "y" * 9000})
    spool.stage_started("s", "t", {}, {})
    for step in range(3):
        spool.metrics("s", "", step, {f"m{i}": float(i) for i in range(1100)})
    deliver(store, spool)
    runs = runs_of(client_of(store))
    assert len(runs[""].data.params) == 252
    assert runs[""].data.params["stages.a.p0"] == "x" * 5997 + "..."
    assert len(runs[""].data.tags["limbeck.overrides"]) == 8000
    assert len(runs["s"].data.metrics) == 1100


def test_nothing_of_mlflow_answers_and_the_work_goes_on(store):
    spool = spool_of(store)
    began = time.monotonic()
    tracker = Tracker(NOWHERE, spool, picture)
    tell(spool)
    told = time.monotonic() - began
    left = tracker.close(1.0)
    assert left == len(list(spool.read())) > 20
    assert told < 4
    assert time.monotonic() - began < 8
    assert "127.0.0.1" in tracker.error
    assert tracker.refused == 0


def test_an_event_mlflow_cannot_take_is_put_aside_and_the_rest_arrives(store):
    spool = spool_of(store)
    spool.run_started("r1", "digits", {}, {})
    spool.stage_started("s", "t", {}, {})
    spool.preview("s", "", "p", 0, "lost")
    spool.metrics("s", "", 0, {"loss": 1.0})
    spool.run_ended("done")
    tracker = Tracker(default_uri(store), spool, picture, default_artifacts(store))
    assert tracker.close(60) == 0
    assert tracker.refused == 1
    assert "no blob lost" in spool.path.with_suffix(".refused.jsonl").read_text()
    assert runs_of(client_of(store))["s"].data.metrics == {"loss": 1.0}


def test_an_experiment_that_was_deleted_comes_back(store):
    tell(spool_of(store))
    deliver(store, spool_of(store))
    client = client_of(store)
    client.delete_experiment(client.get_experiment_by_name("digits").experiment_id)
    tell(spool_of(store, "r2"), run_id="r2")
    deliver(store, spool_of(store, "r2"))
    assert client.get_experiment_by_name("digits").lifecycle_stage == "active"


@pytest.mark.parametrize("name", ["with space", "50%20? f\u00fcr #"])
def test_a_store_in_a_folder_of_any_name(tmp_path, template, name):
    store = tmp_path / name
    (store / "tracking").mkdir(parents=True)
    shutil.copy(template, store / "tracking" / "mlflow.db")
    tell(spool_of(store), steps=1)
    deliver(store, spool_of(store))
    assert len(runs_of(client_of(store))) == 3
    assert [path for path in tmp_path.rglob("*.db*") if not path.is_relative_to(store)] == []


QUIET = """
import sys
from pathlib import Path
import orchestrator.tracking, orchestrator.ui
assert "mlflow" not in sys.modules
from orchestrator.spool import Spool
from orchestrator.tracking import Tracker, default_uri
store = Path(sys.argv[1])
spool = Spool(store / "runs" / "r" / "events.jsonl")
tracker = Tracker(default_uri(store), spool, lambda digest: b"")
spool.run_started("r", "digits", {}, {})
spool.run_ended("done")
assert tracker.close(60) == 0, tracker.error
Tracker("http://127.0.0.1:9", spool, lambda digest: b"").close(1)
import mlflow, mlflow.telemetry
assert not mlflow.is_tracking_uri_set()
assert mlflow.telemetry.get_telemetry_client() is None
"""


@pytest.mark.slow
def test_a_fresh_process_pays_late_says_nothing_and_sets_nothing(tmp_path):
    env = {key: value for key, value in os.environ.items() if key not in ("PYTEST_CURRENT_TEST", "CI")}
    env = {key: value for key, value in env.items() if not key.startswith(("MLFLOW_", "DO_NOT"))}
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(tmp_path)], cwd=tmp_path, env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name not in ("runs", "tracking")] == []


def test_four_processes_may_prepare_a_fresh_store_at_once(tmp_path, template):
    """Forked once MLflow is imported, as `template` has it: fresh ones would not meet, and take seconds to start."""
    forks = multiprocessing.get_context("fork")
    begin = forks.Barrier(4)

    def prepared():
        begin.wait(60)
        prepare(default_uri(tmp_path), default_artifacts(tmp_path))

    started = [forks.Process(target=prepared) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join(200)
    assert [process.exitcode for process in started] == [0] * 4
