"""A stage that may do without some shards goes on without those that failed, and so does all that follows."""

import pytest
from engine import Bench

from clusters import local
from orchestrator.executors.sharded import Outcome
from orchestrator.experiment import load_experiment
from orchestrator.plan import make_plan
from orchestrator.run import tolerable
from orchestrator.store import Store

BROKEN = ("walk.tolerate_failures=0.25", "walk.trouble=value", "walk.at=[1]", "walk.times=99")


@pytest.mark.slow
def test_a_run_goes_on_without_a_failed_shard_until_it_succeeds(tmp_path):
    bench = Bench(tmp_path)
    answer = bench.run(*BROKEN)
    walk, total = answer["stages"]["walk"], answer["stages"]["total"]
    assert (answer["state"], walk["state"], total["state"]) == ("done", "done", "done")
    assert (walk["computed_shards"], walk["failed_shards"]) == (3, 1)
    assert total["metrics"]["total"] == pytest.approx(3 * walk["metrics"]["mean_end"])
    shown = bench.limbeck("artifacts", "show", walk["artifact"], "--json").json
    assert [shard["identity"]["walk"] for shard in shown["shards"]] == [0, 2, 3]

    again = bench.run(*BROKEN)  # what failed is tried again; what follows was made without it before
    assert bench.marks("start", 1) == 2
    assert {stage["state"] for stage in again["stages"].values()} == {"cached"}
    assert again["stages"]["walk"]["failed_shards"] == 1
    assert again["stages"]["total"]["artifact"] == total["artifact"]

    whole = bench.run("walk.tolerate_failures=0.25")
    assert (whole["stages"]["walk"]["cached_shards"], whole["stages"]["walk"]["computed_shards"]) == (3, 1)
    assert whole["stages"]["total"]["artifact"] != total["artifact"]
    assert bench.limbeck("artifacts", "verify", "--json").json["ok"]


def test_how_many_failures_are_too_many(tmp_path):
    experiment = tmp_path / "walks.yaml"
    experiment.write_text("name: w\nstages: {walk: {task: toy_walk, walks: 10, tolerate_failures: 0.3}}\n")
    store = Store.open(str(tmp_path / "store"))
    (walk,) = make_plan(load_experiment(experiment), store, local.offer()).stages
    failed = {f"walk={number}": {"error": "e", "identity": {"walk": number}} for number in range(4)}
    three = dict(list(failed.items())[:3])
    assert tolerable(walk, Outcome(failed=3, failures=three))
    assert not tolerable(walk, Outcome(failed=4, failures=failed))
    assert not tolerable(
        walk, Outcome(failed=3, failures=dict(list(failed.items())[:2]))
    )  # of one it is not known
    assert not tolerable(walk, Outcome(failed=1, failures={"closing step": {"error": "e", "identity": {}}}))


def test_a_task_that_needs_all_its_shards_refuses(tmp_path):
    done = Bench(tmp_path).limbeck("plan", "walks.yaml", "total.tolerate_failures=0.5", code=2)
    assert "stages.total.tolerate_failures: found 0.5" in done.err
