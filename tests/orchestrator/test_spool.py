import json
import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.spool import Spool, unfinished

HERE, THERE = "sqlite:////here.db", "http://user:secret@there:5000"


def events(spool):
    return [event for event, _ in spool.read()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "r1" / "events.jsonl"


def tell(spool, steps=3):
    """A short run, whole."""
    spool.run_started("r1", "digits", {"seed": 0}, {"commit": "abc"})
    spool.stage_started("experts", "expert_trajectories", {"epochs": 2}, {}, shards=2)
    for step in range(steps):
        for shard in ("expert=0", "expert=1"):
            spool.metrics("experts", shard, step, {"loss": 1 / (step + 1), "accuracy": step / 10})
    spool.preview("experts", "expert=0", "curve", 0, "d" * 64)
    spool.stage_ended(
        "experts", "done", {"accuracy": 0.9}, artifact="a" * 32, digest="b" * 64, manifest={"files": []}
    )
    spool.run_ended("done")


def test_events_come_back_in_order_with_their_time(path):
    spool = Spool(path)
    tell(spool)
    kinds = [event["kind"] for event in events(spool)]
    assert kinds == ["run_started", "stage_started"] + ["metrics"] * 6 + [
        "preview",
        "stage_ended",
        "run_ended",
    ]
    times = [event["t"] for event in events(spool)]
    assert times == sorted(times)
    assert times[0] > 1_600_000_000_000
    assert [json.loads(line) for line in path.read_text().splitlines()] == events(spool)


def test_the_same_history_again_adds_no_point_and_no_picture(path):
    tell(Spool(path))
    again = Spool(path)
    tell(again)
    tell(again)
    kinds = [event["kind"] for event in events(again)]
    assert kinds.count("metrics") == 6
    assert kinds.count("preview") == 1


def test_only_the_new_values_of_a_step_are_added(path):
    spool = Spool(path)
    spool.metrics("s", "", 1, {"loss": 1.0})
    spool.metrics("s", "", 1, {"loss": 2.0, "accuracy": 0.5})
    assert [event["values"] for event in events(spool)] == [{"loss": 1.0}, {"accuracy": 0.5}]


def test_curves_of_very_many_points_are_thinned_and_stay_so(path, monkeypatch):
    monkeypatch.setattr("orchestrator.spool._POINTS", 100)
    for _ in range(2):  # the second time as after a resume
        spool = Spool(path)
        for step in range(0, 20_000, 10):
            spool.metrics("experts", "expert=0", step, {"loss": 1.0})
        spool.close()
        steps = [event["step"] for event in events(spool)]
        assert steps[:100] == list(range(0, 1000, 10))
        assert 300 < len(steps) < 500
        assert max(steps) > 19_000


def test_points_keep_the_time_they_were_logged(path):
    spool = Spool(path)
    spool.metrics("s", "", 1, {"loss": 1.0}, time_ms=1234)
    assert events(spool)[0]["t"] == 1234


def test_stages_never_start_at_the_same_time(path):
    spool = Spool(path)
    for name in ("one", "two", "three"):
        spool.stage_started(name, "task", {}, {})
    times = [event["t"] for event in events(spool)]
    assert len(set(times)) == 3
    assert times == sorted(times)


def test_final_metrics_know_the_last_step_of_the_curves(path):
    tell(Spool(path), steps=7)
    spool = Spool(path)
    spool.stage_ended("experts", "done", {})
    assert events(spool)[-1]["step"] == 6


def test_values_that_are_not_finite_are_kept_as_valid_json(path):
    spool = Spool(path)
    spool.metrics("s", "", 0, {"a": math.inf, "b": -math.inf, "c": math.nan})
    strict = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    values = {name: float(value) for name, value in strict["values"].items()}
    assert values["a"] == math.inf
    assert values["b"] == -math.inf
    assert math.isnan(values["c"])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_torn_end_costs_only_itself(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("torn") / "events.jsonl"
    tell(Spool(path))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    spool = Spool(path)
    assert len(events(spool)) == kept
    spool.metrics("late", "", 0, {"loss": 1.0})
    spool.metrics("late", "", 1, {"loss": 1.0})
    found = events(Spool(path))
    assert [event["stage"] for event in found[-2:]] == ["late", "late"]
    assert len(found) in (kept + 2, kept + 3)
    assert found[:kept] == [json.loads(line) for line in whole.splitlines()[:kept]]


def test_each_target_has_its_own_cursor_and_no_secret_is_written(path):
    spool = Spool(path)
    tell(spool)
    ends = [end for _, end in spool.read()]
    assert spool.left(HERE) == len(ends)
    spool.advance(HERE, ends[3])
    spool.advance(THERE, ends[-1])
    again = Spool(path)
    assert again.left(HERE) == len(ends) - 4
    assert again.left(THERE) == 0
    assert next(again.read(again.cursor(HERE)))[0] == events(again)[4]
    assert "secret" not in path.with_suffix(".cursor").read_text()
    assert sorted(file.name for file in path.parent.iterdir()) == ["events.cursor", "events.jsonl"]


def test_a_cursor_beyond_the_end_or_of_garbage_means_send_again(path):
    spool = Spool(path)
    tell(spool)
    spool.advance(HERE, 10**9)
    assert spool.cursor(HERE) == spool.size
    path.with_suffix(".cursor").write_bytes(b"\x00{")
    assert spool.cursor(HERE) == 0


def test_many_threads_write_whole_lines_once(path):
    spool = Spool(path)

    def work(thread):
        for step in range(200):
            spool.metrics("s", f"shard={thread % 4}", step, {"loss": 0.5})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {(event["shard"], event["step"]) for event in events(spool)}
    assert len(found) == 800
    assert len(path.read_text().splitlines()) == 800


def test_one_delivers_at_a_time(path):
    first, second = Spool(path), Spool(path)
    assert first.claim()
    assert first.claim()
    assert not second.claim()
    first.close()
    assert second.claim()


def test_what_is_unfinished(path):
    spool = Spool(path)
    assert not unfinished(path, HERE)
    spool.run_started("r1", "digits", {}, {})
    assert unfinished(path, HERE)
    spool.advance(HERE, spool.size)
    assert unfinished(path, HERE), "all was delivered, but nobody said how the run ended"
    assert not unfinished(path, THERE), "these events go elsewhere"
    assert spool.state is None
    spool.abandoned()
    assert unfinished(path, HERE)
    spool.advance(HERE, spool.size)
    assert not unfinished(path, HERE)
    assert Spool(path).state == "interrupted"
    assert events(spool)[-1]["t"] == events(spool)[0]["t"]


def test_a_resumed_run_has_not_ended(path):
    tell(Spool(path))
    spool = Spool(path)
    assert spool.state == "done"
    spool.run_started("r1", "digits", {}, {})
    assert spool.state is None


def test_a_refused_event_is_kept_with_the_reason(path):
    spool = Spool(path)
    tell(spool)
    spool.put_aside(events(spool)[0], "because")
    kept = json.loads(path.with_suffix(".refused.jsonl").read_text())
    assert kept == {"reason": "because", "event": events(spool)[0]}


def test_settings_of_any_type_are_taken(path):
    spool = Spool(path)
    spool.run_started("r1", "digits", {"path": path, "none": None, "list": [1, 2]}, {})
    assert events(spool)[0]["params"] == {"path": str(path), "none": None, "list": [1, 2]}
