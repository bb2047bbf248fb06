"""Whole searches through the command line, with real drivers that are killed and interrupted."""

import csv
import json
import random
import re
import signal
import time
from pathlib import Path

import pytest
from engine import Bench, end, gone, working_children
from mlflow.tracking import MlflowClient

from orchestrator.store import Lease, Leases, Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCALES = """\
name: scales
stages:
  walk: {task: toy_walk, walks: 2, steps: 4, folder: FOLDER, pause_s: 0.2}
  total: {task: toy_total, walks: "${walk}"}
search:
  metric: total.total
  algorithm: grid
  concurrency: 2
  space:
    stages.total.scale: {grid: [1, 2, 3, 4]}
"""
CLIMBS = """\
name: climbs
stages:
  climb: {task: toy_climb, steps: 20, pause_s: 0.3, folder: FOLDER}
search:
  metric: climb.height
  concurrency: 2
"""
ASHA = """\
  algorithm: grid
  scheduler: asha
  grace_period: 2
  reduction_factor: 2
  space: {climb.height: {grid: [9, 8, 5, -1]}}
"""
OPTUNA = """\
  algorithm: optuna
  trials: 5
  space: {climb.height: {uniform: [1, 9]}}
"""


def tune(bench, code=0):
    return bench.limbeck("tune", str(bench.experiment), "--json", code=code)


def table(answer):
    """What an undisturbed search and a disturbed one have in common."""
    rows = sorted(answer["trials"], key=lambda row: row["number"])
    return [{name: row[name] for name in ("number", "overrides", "state", "metric", "error")} for row in rows]


def kept(bench):
    """The trials that are over for good, as the search's folder has them."""
    found = [json.loads(path.read_text()) for path in bench.store.glob("searches/*/trials/*.json")]
    return {row["number"]: row for row in found if row["state"] in ("done", "stopped")}


def wait_for_rows(bench, process, count):
    deadline = time.monotonic() + 200
    while len(kept(bench)) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def mlflow_runs(bench):
    """Our names of MLflow's runs to the runs: of the search, of its trials, of their stages."""
    client = MlflowClient(tracking_uri=f"sqlite:///{bench.store}/tracking/mlflow.db")
    [experiment] = [one for one in client.search_experiments() if one.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    return client, {(r.data.tags["limbeck.run_id"], r.data.tags.get("limbeck.stage")): r for r in runs}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A grid search that nothing happens to."""
    bench = Bench(tmp_path_factory.mktemp("undisturbed"), SCALES)
    return bench, tune(bench).json


def test_a_search_shares_stages_and_keeps_going(undisturbed):
    bench, answer = undisturbed
    rows = table(answer)
    assert [row["overrides"] for row in rows] == [{"total.scale": scale} for scale in (1, 2, 3, 4)]
    assert {row["state"] for row in rows} == {"done"}
    assert bench.marks("start") == 2, "the walks are shared by all trials"
    assert sum(row["computed"] for row in answer["trials"]) == 2 + 4
    assert sum(row["reused"] for row in answer["trials"]) == 3 * 2
    values = [row["metric"] for row in rows]
    assert values == pytest.approx([scale * values[0] for scale in (1, 2, 3, 4)])
    assert (answer["mode"], answer["best"]["metric"]) == ("max", max(values))


def test_its_best_experiment_is_cached_as_a_whole(undisturbed):
    bench, answer = undisturbed
    results = next(bench.store.glob("searches/*/results"))
    made = bench.limbeck("run", str(results / "best.yaml"), "--json").json
    assert {stage["state"] for stage in made["stages"].values()} == {"cached"}
    assert made["stages"]["total"]["metrics"]["total"] == answer["best"]["metric"]
    assert "search" not in (results / "best.yaml").read_text().partition("\n")[2]
    assert Store.open(str(bench.store), create=False).pins() == {answer["best"]["run_id"]}
    lines = list(csv.DictReader((results / "trials.csv").read_text().splitlines()))
    assert [line["state"] for line in lines] == ["done"] * 4
    assert float(lines[0]["metric"]) == answer["best"]["metric"]
    assert all((results / name).stat().st_size > 5000 for name in ("history.png", "parallel.png"))


def test_the_search_has_a_page_and_so_has_each_trial(undisturbed):
    bench, answer = undisturbed
    page = Path(answer["folder"], "report.html")
    before = page.read_bytes()
    for text in (answer["search"][:-1], answer["search"]):
        told = bench.limbeck("report", text, "--json").json
        assert told == {"search": answer["search"], "path": str(page)}
    assert page.read_bytes() == before
    links = set(re.findall(r'href="(\.\./[^"]*)"', page.read_text()))
    assert len(links) == 4
    assert all("Limbeck run report" in (page.parent / link).read_text() for link in links)
    trial = answer["trials"][0]
    assert trial["metrics"]["total"] == trial["metric"]
    told = bench.limbeck("report", trial["run_id"], "--json").json
    assert (told["run_id"], told["state"]) == (trial["run_id"], "done")


def test_mlflow_has_a_parent_and_a_child_for_each_trial(undisturbed):
    bench, answer = undisturbed
    client, runs = mlflow_runs(bench)
    parent = runs[answer["search"], None]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best.total.total"] == answer["best"]["metric"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id, "search")}
    assert files >= {"search/best.yaml", "search/report.html"}
    for row in answer["trials"]:
        child = runs[row["run_id"], None]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.status == "FINISHED"
        assert float(child.data.params["stages.total.scale"]) == row["overrides"]["total.scale"]
        assert child.data.metrics["total.total"] == row["metric"]
        assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["report.html"]
        assert runs[row["run_id"], "total"].data.tags["mlflow.parentRunId"] == child.info.run_id


def test_a_metric_that_no_trial_has_ends_the_search_at_once(tmp_path):
    bench = Bench(tmp_path, SCALES.replace("metric: total.total", "metric: total.totel"))
    told = tune(bench, code=2).json
    assert "did you mean 'total'?" in told["error"]
    assert len(list(bench.store.glob("searches/*/trials/*.json"))) < 4


@pytest.mark.faults
def test_a_killed_search_goes_on_to_the_same_table(tmp_path, undisturbed):
    bench = Bench(tmp_path, SCALES)
    process = bench.start("tune", str(bench.experiment))
    seed = random.randrange(10**6)  # shown where the test fails
    try:
        wait_for_rows(bench, process, 1)
        time.sleep(random.Random(seed).uniform(0, 1))
        before, children = kept(bench), working_children(process)
        process.kill()
        process.wait(timeout=30)
    finally:
        end(process)
    assert gone(children, timeout=60), "processes of ours outlived the driver"
    page = Path(bench.limbeck("report", "--json").json["path"]).read_text()
    assert page.count("<td>done</td>") == len(kept(bench))
    assert "<td>running</td>" not in page
    answer = tune(bench).json
    assert table(answer) == table(undisturbed[1])
    after = kept(bench)
    assert before
    assert all(after[number] == row for number, row in before.items()), "a finished trial was run again"
    assert bench.marks("start") == 2
    _, runs = mlflow_runs(bench)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_asha_stops_trials_and_what_they_had(tmp_path):
    bench = Bench(tmp_path, CLIMBS + ASHA)
    answer = tune(bench).json
    states = {row["overrides"]["climb.height"]: row["state"] for row in answer["trials"]}
    assert states[9] == "done"
    assert states[-1] == "failed"
    stopped = [height for height, state in states.items() if state == "stopped"]
    assert 5 in stopped, "it is worse than half of what was at its rung before"
    assert bench.marks("climb", 5) == 1
    assert bench.marks("top", 5) == 0, "its worker was to end"
    assert "no way down to -1" in json.dumps(answer)
    leases = Leases(Store.open(str(bench.store), create=False).bytes)
    keys = {path.name for path in bench.store.glob("leases/*")}
    assert len(keys) == 4
    assert all(isinstance(leases.take(key), Lease) for key in keys), "a lease was not given back"
    _, runs = mlflow_runs(bench)
    for row in answer["trials"]:
        expected = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[row["state"]]
        assert runs[row["run_id"], None].info.status == expected


def test_ctrl_c_stops_in_order_and_optuna_goes_on(tmp_path):
    bench = Bench(tmp_path, CLIMBS + OPTUNA)
    process = bench.start("tune", str(bench.experiment))
    try:
        wait_for_rows(bench, process, 1)
        children = working_children(process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        end(process)
    assert process.returncode == 130, err
    assert "the same command goes on from here" in err
    assert "Traceback" not in err
    page = Path(err.splitlines()[-1].partition("so far: ")[2]).read_text()
    rows = len(re.findall("<th scope=.row.>", page))
    assert f"{rows} of 5 trials" in page
    assert "<td>interrupted</td>" in page
    assert gone(children, timeout=60), "processes of ours outlived the driver"
    before = kept(bench)
    answer = tune(bench).json
    after = kept(bench)
    assert {row["state"] for row in answer["trials"]} == {"done"}
    assert len(answer["trials"]) == len({row["metric"] for row in answer["trials"]}) == 5
    assert all(after[number] == row for number, row in before.items())
    assert all(row["metric"] == row["overrides"]["climb.height"] for row in answer["trials"])
