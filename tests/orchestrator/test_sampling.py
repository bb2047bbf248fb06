"""What the tracker is told of a stage with many shards; real workers, in this process."""

import sys
from collections import Counter
from functools import partial
from itertools import count

import pytest
from engine import SUPPORT

from orchestrator.console import Console
from orchestrator.executors.hands import Heard
from orchestrator.executors.worker import Worker
from orchestrator.experiment import load_experiment
from orchestrator.feasibility import Offer
from orchestrator.identity import begin_run
from orchestrator.plan import make_plan
from orchestrator.run import Run
from orchestrator.spool import Spool
from orchestrator.store import Store

OFFER = Offer("a test", cpus=2, gpus=0, memory_gb=2, disk_gb=None)
SAMPLE = ["number=0", "number=4", "number=8"]


class Desk:
    """A workplace whose workers do at once what they are asked, one after another."""

    def __init__(self) -> None:
        self.answers, self.numbers, self.workers = [], count(), {}

    def staff(self, plan, assignment, offer):
        self.stage, self.assignment = plan.name, assignment
        return self

    def hear(self, timeout_s):
        heard, self.answers = self.answers, []
        return heard

    def hire(self, closing):
        number = next(self.numbers)
        self.workers[number] = Worker(self.assignment)
        self._say(number, self.workers[number].load() | {"node": "here"})
        return number

    def compute(self, worker, key, identity, label):
        self._say(worker, self.workers[worker].compute(key, identity, label))

    def close(self, worker, key, shard_keys):
        self._say(worker, self.workers[worker].close(key, shard_keys))

    def can_close(self, worker):
        return True

    def poll(self, worker): ...
    def stop(self, worker): ...
    def dismiss(self, worker): ...

    def _say(self, worker, answer):
        self.answers.append(Heard(self.stage, worker, False, answer))


def note(told, stage, shard, step, values):
    told[shard] += 1


@pytest.mark.parametrize("listed", [False, True])
def test_the_curves_of_some_shards_are_told_and_the_metrics_of_all(tmp_path, monkeypatch, listed):
    monkeypatch.setattr("orchestrator.telling._SAMPLED_SHARDS", 3)
    monkeypatch.setattr("orchestrator.store.listings.MANY", 5 if listed else 100)
    monkeypatch.setattr(sys, "path", [str(SUPPORT), *sys.path])
    experiment, store = tmp_path / "e.yaml", Store.open(str(tmp_path / "store"))
    experiment.write_text("name: e\nstages:\n  count: {task: toy_count, shards: 10}\n")
    for state in ("done", "cached"):
        plan = make_plan(load_experiment(experiment), store, OFFER)
        record, told = begin_run(plan, store), Counter()
        spool = Spool(tmp_path / record.run_id / "events.jsonl")
        hear = partial(note, told)
        record = Run(plan, record, store, spool, Console(quiet=True), hear, workplace=Desk()).go()
        (stage,) = record.stages
        assert (stage.state, stage.metrics) == (state, {"sum": 45.0})
        events = [event for event, _ in spool.read()]
        assert [event["shard"] for event in events if event["kind"] == "metrics"] == SAMPLE
        (ended,) = [event for event in events if event["kind"] == "stage_ended"]
        assert len(ended["manifest"]["shards"]) == (0 if listed else 10)
        assert len(told) == (10 if state == "done" else 3)
        spool.close()
