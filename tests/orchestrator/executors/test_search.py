"""What Ray Tune is told, and what is told to it again after a search was cut short. No Ray is started."""

import json
from dataclasses import replace

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from ray.tune.schedulers import TrialScheduler

from orchestrator.executors.search import Job, Stop, _distribution, _Numbered, _Optuna, _Past, _scheduler
from orchestrator.executors.trial import Told, _Walk
from orchestrator.feasibility import Offer
from orchestrator.search import Distribution, Search
from orchestrator.store import Store
from orchestrator.trials import Book, Row

OFFER = Offer(where="a test", cpus=1.0, gpus=0.0, memory_gb=1.0, disk_gb=None)
SPACE = {
    "climb.height": {"uniform": [1, 9]}, "climb.steps": {"qloguniform": [2, 32, 2]},
    "climb.folder": {"choice": ["", "x", "y"]},
}  # fmt: skip
CLIMB = "name: climbs\nstages:\n  climb: {task: toy_climb}\n"


def a_job(folder, rows=(), **fields) -> Job:
    search = Search.model_validate_json(json.dumps({"metric": "climb.height", "space": SPACE, **fields}))
    book = Book(folder / "climbs-12345678", {})
    for row in rows:
        book.keep(row)
    return Job(
        search=search, seed=0, book=book, given=(), store_uri="s", runs_folder=folder / "runs", share=OFFER,
        concurrency=2, on_begin=lambda row: None, on_row=lambda row: None, on_tick=lambda: None,
    )  # fmt: skip


def a_row(number, height, state="done", **fields) -> Row:
    point = {"climb.folder": "x", "climb.height": height, "climb.steps": 4}
    metric = height if state in ("done", "stopped") else None
    return Row(number=number, point=point, run_id=f"r-{number}", state=state, metric=metric, **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"uniform": [1, 9]}, FloatDistribution(1, 9)),
        ({"loguniform": [1, 9]}, FloatDistribution(1, 9, log=True)),
        ({"quniform": [0, 1.05, 0.25]}, FloatDistribution(0, 1, step=0.25)),
        ({"quniform": [8, 30, 8]}, IntDistribution(8, 24, step=8)),
        ({"qloguniform": [2, 32, 2]}, FloatDistribution(2, 32, log=True)),
        ({"randint": [1, 3]}, IntDistribution(1, 3)),
        ({"lograndint": [1, 30]}, IntDistribution(1, 30, log=True)),
        ({"choice": ["a", [1]]}, CategoricalDistribution((0, 1))),
    ],
)
def test_optuna_has_our_space(fields, expected):
    assert _distribution(Distribution.model_validate_json(json.dumps(fields))) == expected


def test_optuna_knows_what_is_finished_and_does_not_begin_anew(tmp_path):
    rows = [a_row(number, 1.0 + number / 2) for number in range(12)]
    job, fresh = a_job(tmp_path, rows, algorithm="optuna"), a_job(tmp_path / "fresh", algorithm="optuna")
    resumed, first = _Optuna(job), _Optuna(fresh)
    asked = [resumed.ask(f"t{index}") for index in range(3)]
    assert asked == [_Optuna(job).ask("t0"), *asked[1:]]
    assert asked[0] != first.ask("t0")
    for point in asked:
        assert 1 <= point["climb.height"] <= 9
        assert point["climb.steps"] % 2 == 0
        assert isinstance(point["climb.steps"], int)
        assert point["climb.folder"] in ("", "x", "y")
        resumed.add(point, 1.0)
    resumed.tell("t0", None)


@pytest.mark.parametrize("algorithm", ["optuna", "random"])
def test_trials_under_way_come_first_and_with_the_same_point(tmp_path, algorithm):
    rows = [a_row(0, 5.0), a_row(1, 6.0, "running"), a_row(2, 7.0, "stopped"), a_row(3, 8.0, "failed")]
    job = a_job(tmp_path, rows, algorithm=algorithm, trials=6)
    left = job.left()
    assert [number for number, _ in left] == [1, 3, 4, 5]
    if algorithm == "optuna":
        assert [chosen for _, chosen in left] == [rows[1].point, rows[3].point, None, None]
    numbered = _Numbered(job, Stop(job), left, "node:here")
    told = [numbered.suggest(f"t{index}") for index in range(4)]
    assert [one["number"] for one in told] == [1, 3, 4, 5]
    assert told[0]["told"].run_id == f"{job.book.id}-0001"
    assert numbered.suggest("t4") == "FINISHED"
    numbered.on_trial_complete("t0", {"state": "done", "metric": 6.0})
    numbered.on_trial_complete("t3", {"state": "failed", "metric": float("nan")})


def test_nothing_begins_once_it_is_stopped(tmp_path):
    job = a_job(tmp_path, time_budget_s=1e-9)
    stop = Stop(job)
    assert _Numbered(job, stop, job.left(), "node:here").suggest("t") == "FINISHED"
    assert (stop.out_of_time, stop.asked, job.stop_file.exists()) == (True, False, True)
    assert not Stop(job).asked
    assert not job.stop_file.exists()


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_scheduler_is_told_of_the_trials_before(tmp_path, name):
    """Four good trials of before stop a bad one at its first step, which a fresh scheduler lets go on."""
    curve = ((1, 5.0), (2, 6.0))
    rows = [a_row(number, 6.0, curve=curve) for number in range(4)]
    fields = {"scheduler": name, "reduction_factor": 2.0}
    decided = []
    for job in (a_job(tmp_path, rows, **fields), a_job(tmp_path / "fresh", **fields)):
        scheduler, trial = _scheduler(job), _Past("new")
        scheduler.on_trial_add(None, trial)
        decided.append(scheduler.on_trial_result(None, trial, {"step": 1, "metric": 0.1}))
    assert decided == [TrialScheduler.STOP, TrialScheduler.CONTINUE]


@pytest.mark.parametrize(
    ("offer", "overrides", "expected"),
    [
        ({"cpus": 0.5}, [], "stages.climb.resources.cpus: a worker asks 1, a test offers 0.5"),
        ({}, ["climb.steps=0"], "stages.climb.steps"),
    ],
)
def test_a_trial_that_cannot_be_is_a_row_with_its_error(tmp_path, offer, overrides, expected):
    (tmp_path / "climbs.yaml").write_text(CLIMB)
    store = Store.open(str(tmp_path / "store"))
    told = Told(
        run_id="r-0001", search="r", experiment=str(tmp_path / "climbs.yaml"), overrides=overrides,
        metric="climb.height", store_uri=store.uri, runs_folder=str(tmp_path / "runs"),
        offer=replace(OFFER, **offer), stop_file=str(tmp_path / "stop"), node="",
    )  # fmt: skip
    result = _Walk(told).results.get(timeout=60)
    assert (result["state"], result["done"], result["computed"]) == ("failed", True, 0)
    assert expected in result["error"]
