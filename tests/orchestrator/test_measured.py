"""Settings left open are measured once, pinned, and stand from then on: the real command line, real Ray."""

import json

import pytest
from engine import Bench

from orchestrator.store import Folder
from orchestrator.store.measured import Measured, measured, pin

GROUPS = "name: groups\nstages:\n  numbers: {task: toy_group}\n"
KEY = "a" * 32


def record(threads=1):
    return Measured(settings={"group": 4}, threads=threads, where="2 cores", created=1)


def test_the_first_measurement_stands(tmp_path):
    space = Folder(tmp_path)
    assert measured(space, KEY) == {}
    assert pin(space, KEY, "cpu", record()) == record()
    assert pin(space, KEY, "cpu", record(threads=2)) == record()
    assert pin(space, KEY, "cuda", record(threads=2)) == record(threads=2)
    assert measured(space, KEY) == {"cpu": record(), "cuda": record(threads=2)}


def test_a_damaged_measurement_is_taken_again(tmp_path):
    space = Folder(tmp_path)
    pin(space, KEY, "cpu", record())
    (path,) = [entry.path for entry in space.list("measured")]
    space.put(path, space.read(path).replace(b'"threads":1', b'"threads":7'))
    assert measured(space, KEY) == {}
    assert pin(space, KEY, "cpu", record(threads=2)) == record(threads=2)


@pytest.mark.slow
def test_a_run_measures_once_and_the_plan_says_so(tmp_path):
    bench = Bench(tmp_path, GROUPS)
    path = str(bench.experiment)
    before = bench.limbeck("plan", path, "--json").json["stages"]["numbers"]
    assert (before["to_measure"], before["shards"]) == (["group"], 10)
    assert "group to be measured" in bench.limbeck("plan", path).out
    done = bench.limbeck("run", path, "--json")
    assert "numbers: measuring group on this device" in done.err
    assert "group 4" in done.err
    assert done.json["stages"]["numbers"]["computed_shards"] == 3
    more = bench.limbeck("run", path, "numbers.items=12", "--json")
    assert "measuring" not in more.err
    stage = more.json["stages"]["numbers"]
    assert (stage["cached_shards"], stage["computed_shards"]) == (2, 1)
    shown = bench.limbeck("artifacts", "show", "numbers", "--json").json
    assert shown["config"]["group"] == 4
    trials = json.loads(next((bench.store / "measured").rglob("cpu.json")).read_text())["trials"]
    assert [trial["settings"]["group"] for trial in trials][:4] == [1, 2, 4, 8]


@pytest.mark.slow
def test_items_keep_their_random_numbers_however_they_are_grouped(tmp_path):
    from orchestrator import load

    bench = Bench(tmp_path, GROUPS)
    made = []
    for group in (1, 3):
        answer = bench.run(f"numbers.group={group}")
        artifact = load(answer["stages"]["numbers"]["artifact"], store=str(bench.store))
        made.append(artifact.tensors("all")["numbers"].tolist())
    assert made[0] == made[1]
    assert len(set(made[0])) == 10


@pytest.mark.slow
def test_what_cannot_be_measured_is_told(tmp_path):
    bench = Bench(tmp_path, GROUPS)
    done = bench.limbeck("run", str(bench.experiment), "numbers.broken=true", code=1)
    assert (
        "stages.numbers: its pace at {'group': 1} cannot be measured: ValueError: no pace today" in done.err
    )
    assert "set group in the stage" in done.err
