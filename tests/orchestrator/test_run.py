"""Whole runs through the command line: cached, resumed, killed, failing; the digests stay the same."""

import os
import signal
from pathlib import Path

import pytest
from engine import Bench, digests, end, gone, working_children


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The answer of a run that nothing happens to."""
    bench = Bench(tmp_path_factory.mktemp("undisturbed"))
    return bench, bench.run()


@pytest.mark.slow
def test_a_run_answers_with_all_that_was_made(undisturbed):
    bench, answer = undisturbed
    assert answer["state"] == "done"
    walk, total = answer["stages"]["walk"], answer["stages"]["total"]
    assert (walk["computed_shards"], walk["cached_shards"], total["computed_shards"]) == (4, 0, 1)
    assert total["metrics"]["total"] == pytest.approx(4 * walk["metrics"]["mean_end"])
    assert bench.marks("start") == 4


def test_the_same_command_again_computes_nothing(undisturbed):
    bench, answer = undisturbed
    again = bench.run()
    assert digests(again) == digests(answer)
    assert {stage["state"] for stage in again["stages"].values()} == {"cached"}
    assert again["run_id"] != answer["run_id"]
    assert bench.marks("start") == 4


def test_a_plan_says_what_is_left(undisturbed):
    bench, _ = undisturbed
    plan = bench.limbeck("plan", "walks.yaml", "walk.walks=6", "--json").json
    assert (plan["stages"]["walk"]["shards_done"], plan["stages"]["walk"]["shards_todo"]) == (4, 2)
    assert plan["feasible"]
    assert plan["seconds"] is not None
    assert "2 of 6" in bench.limbeck("plan", "walks.yaml", "walk.walks=6").out


@pytest.mark.slow
def test_an_infeasible_plan_is_refused_before_anything_starts(tmp_path):
    bench = Bench(tmp_path)
    done = bench.limbeck("run", "walks.yaml", "walk.resources.gpus=99", code=3)
    assert "a worker asks 99, this machine offers" in done.err
    plan = bench.limbeck("plan", "walks.yaml", "walk.resources.memory_gb=99999", "--json", code=3).json
    assert not plan["feasible"]
    assert bench.marks("start") == 0
    assert bench.limbeck("artifacts", "ls", "--json").json == []


@pytest.mark.slow
def test_one_worker_and_two_give_the_same_bytes(tmp_path, undisturbed):
    bench = Bench(tmp_path)
    assert digests(bench.run("walk.resources.workers=1")) == digests(undisturbed[1])


@pytest.mark.slow
def test_more_walks_reuse_the_first_ones(undisturbed):
    bench, _ = undisturbed
    answer = bench.run("walk.walks=5")
    assert (answer["stages"]["walk"]["cached_shards"], answer["stages"]["walk"]["computed_shards"]) == (4, 1)


def test_a_stage_that_has_only_to_be_closed_is_judged_too(undisturbed):
    bench, _ = undisturbed
    done = bench.limbeck("run", "walks.yaml", "walk.walks=3", "walk.resources.cpus=64", code=3)
    assert "a worker asks 64" in done.err


@pytest.mark.slow
def test_stages_that_share_shards_compute_them_once(tmp_path):
    text = "name: shared\nstages:\n" + "".join(
        f"  {name}: {{task: toy_walk, walks: {walks}, folder: FOLDER, pause_s: 0.1, resources: {{workers: 1}}}}\n"
        for name, walks in (("few", 2), ("more", 3))
    )
    bench = Bench(tmp_path, text)
    stages = bench.run()["stages"]
    assert sorted(stage["computed_shards"] for stage in stages.values()) == [1, 2]
    assert bench.marks("start") == 3


@pytest.mark.faults
def test_a_killed_driver_is_resumed(tmp_path, undisturbed):
    bench = Bench(tmp_path)
    options = ["walk.pause_s=0.4", "walk.progress_s=0", "walk.resources.workers=1"]
    process = bench.start("run", "walks.yaml", *options)
    try:
        bench.wait_for_marks("start", 2)
        children = working_children(process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    finally:
        end(process)
    assert gone(children), "processes of ours outlived the driver"
    starts, done = bench.marks("start"), len(list(bench.store.glob("shards/*/*.json")))
    assert 1 <= done <= starts < 4
    told = bench.limbeck("report", "--json").json
    assert told["state"] == "interrupted"
    assert f"{done} of 4" in Path(told["path"]).read_text()
    answer = bench.run(*options)
    assert digests(answer) == digests(undisturbed[1])
    walk = answer["stages"]["walk"]
    assert (walk["cached_shards"], walk["computed_shards"]) == (done, 4 - done)
    assert bench.marks("start") == starts + 4 - done
    runs = bench.limbeck("runs", "--json").json
    assert [(run["run_id"], run["state"]) for run in runs] == [(answer["run_id"], "done")]


@pytest.mark.slow
def test_ctrl_c_saves_progress_and_the_same_command_goes_on(tmp_path, undisturbed):
    bench = Bench(tmp_path)
    options = ["walk.pause_s=0.5", "walk.progress_s=1000", "walk.resources.workers=1"]
    process = bench.start("run", "walks.yaml", *options)
    try:
        bench.wait_for_marks("start", 1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        end(process)
    assert process.returncode == 130, err
    assert "the same command goes on" in err
    page = next(Path(line.partition("so far: ")[2]) for line in err.splitlines()[-3:] if "so far: " in line)
    assert 'class="state interrupted"' in page.read_text()
    assert "0 of 4" in page.read_text()
    assert list((bench.store / "work").rglob("progress"))
    assert digests(bench.run(*options)) == digests(undisturbed[1])


@pytest.mark.slow
@pytest.mark.parametrize(("trouble", "deadline"), [("crash", 600), ("io", 600), ("hang", 8)])
def test_passing_trouble_is_tried_again(tmp_path, undisturbed, trouble, deadline):
    bench = Bench(tmp_path)
    answer = bench.run(f"walk.trouble={trouble}", "walk.at=[1, 2]", f"walk.deadline_s={deadline}")
    assert digests(answer) == digests(undisturbed[1])
    assert bench.marks("trouble") >= 2
    assert bench.marks("start", 1) == bench.marks("start", 2) == 2


@pytest.mark.slow
def test_lasting_crashes_end_after_the_retries(tmp_path):
    bench = Bench(tmp_path)
    answer = bench.run("walk.trouble=crash", "walk.at=[1]", "walk.times=99", "walk.retries=1", code=1)
    assert answer["state"] == "failed"
    assert (bench.marks("start", 1), answer["stages"]["walk"]["computed_shards"]) == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("trouble", "said"), [("value", "a bad value"), ("nan", "position is nan")])
def test_lasting_errors_are_put_aside_and_the_rest_goes_on(tmp_path, undisturbed, trouble, said):
    bench = Bench(tmp_path)
    done = bench.limbeck("run", "walks.yaml", f"walk.trouble={trouble}", "walk.at=[1]", code=1)
    assert f"walk walk=1: {'ValueError' if trouble == 'value' else 'NonFiniteError'}: " in done.err
    assert said in done.err
    page = Path(done.err.splitlines()[-1].partition("so far: ")[2]).read_text()
    assert "3 of 4" in page
    assert said in page
    assert bench.marks("start", 1) == 1
    answer = bench.run()
    assert digests(answer) == digests(undisturbed[1])
    assert (answer["stages"]["walk"]["cached_shards"], answer["stages"]["walk"]["computed_shards"]) == (3, 1)


@pytest.mark.slow
def test_fresh_only_and_from(undisturbed):
    bench, answer = undisturbed
    fresh = bench.limbeck("run", "walks.yaml", "--fresh", "total", "--json").json
    assert fresh["stages"]["total"]["computed_shards"] == 1
    assert fresh["stages"]["walk"]["state"] == "cached"
    assert digests(fresh) == digests(answer)
    done = bench.limbeck("run", "walks.yaml", "seed=9", "--only", "total", code=2)
    assert "total needs walk, which is not made yet" in done.err
    only = bench.limbeck("run", "walks.yaml", "seed=9", "--only", "walk", "--json").json
    assert only["stages"]["total"]["state"] == "skipped"
    rest = bench.limbeck("run", "walks.yaml", "seed=9", "--from", "total", "--json").json
    assert rest["stages"]["total"]["computed_shards"] == 1
    both = bench.limbeck("plan", "walks.yaml", "seed=8", "--only", "walk", "--only", "total", "--json").json
    assert all(stage["shards_todo"] for stage in both["stages"].values())
    assert "did you mean 'total'" in bench.limbeck("plan", "walks.yaml", "--only", "totel", code=2).err


def test_an_artifact_opens_from_python(undisturbed):
    from orchestrator import load

    bench, answer = undisturbed
    artifact = load(answer["stages"]["walk"]["artifact"][:12], store=str(bench.store))
    assert load("walks/walk", store=str(bench.store)).kind == artifact.kind == "walks"
    assert artifact.id == answer["stages"]["walk"]["artifact"]
    assert len(artifact.shards) == 4
    assert artifact.tensors("ends")["ends"].shape == (4,)
