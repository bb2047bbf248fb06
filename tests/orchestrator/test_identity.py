"""Which run a command is: a run cut short goes on once, by one driver; a dead driver's run is not running."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from orchestrator.identity import begin_run
from orchestrator.store import Store

DEAD = {"host": os.uname().nodename, "pid": 2**22 + 1, "process_started": 1.0}


@pytest.fixture
def store(tmp_path):
    return Store.open(str(tmp_path / "store"))


def plan_of(document):
    return SimpleNamespace(experiment=SimpleNamespace(name="walks", document=document, overrides=()))


def begin(store, document=None):
    run = begin_run(plan_of(document or {"seed": 1, "name": "walks"}), store)
    store.save_run(run)
    return run


def test_a_run_that_is_alive_is_left_alone(store):
    assert begin(store).run_id != begin(store).run_id


def test_a_dead_drivers_run_goes_on_once(store):
    first = begin(store)
    store.save_run(replace(first, driver=DEAD))
    store.save_failure(first.run_id, "walk", "walk=1", {"error": "x"})
    assert begin_run(plan_of({"name": "walks", "seed": 1}), store).run_id == first.run_id
    assert store.failures(first.run_id) == []
    second = begin_run(plan_of({"name": "walks", "seed": 1}), store)
    assert second.run_id != first.run_id, "two drivers went on with one run"


def test_another_experiment_is_another_run_and_the_dead_one_is_marked(store):
    first = begin(store)
    store.save_run(replace(first, driver=DEAD))
    assert begin(store, {"name": "walks", "seed": 2}).run_id != first.run_id
    assert store.run(first.run_id).state == "interrupted"


def test_a_finished_run_is_not_taken_up_again(store):
    first = begin(store)
    store.save_run(replace(first, state="done", driver=DEAD))
    assert begin(store).run_id != first.run_id
