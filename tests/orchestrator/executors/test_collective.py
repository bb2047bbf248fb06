"""Gangs without Ray: progress that all ranks save as one, read by any number of them, and refused where damaged."""

import pytest
import torch
from toygangs import Fit

from orchestrator.store import Store
from orchestrator.task import Context, Output, Progress, Shard
from tests.tasks.gang_harness import run_gang
from tests.tasks.harness import KilledError, equal, run_task

FIT = {"steps": 6}


class Twice(Fit):
    """Saves the same tensor on every rank."""

    def compute(self, shard: Shard, context: Context) -> Output:
        context.save_progress(lambda: Progress({"w": torch.zeros(1)}, {}))
        return Output()


def work(folder):
    return sorted(path for path in (folder / "store" / "work").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run_gang(Fit, FIT, ranks=2, folder=tmp_path_factory.mktemp("undisturbed"))


def test_two_ranks_fit_as_one_does(undisturbed):
    alone = run_task(Fit, FIT)
    for name, value in alone.shards[0].tensors("fit").items():
        torch.testing.assert_close(undisturbed.shards[0].tensors("fit")[name], value, rtol=1e-12, atol=0)
    assert [step for step, _ in undisturbed.shards[0].curves] == list(range(6))


@pytest.mark.parametrize("ranks", [(2, 2), (2, 1), (1, 2), (3, 2)])
def test_killed_and_resumed_on_any_number_of_ranks(tmp_path, undisturbed, ranks):
    with pytest.raises(KilledError):
        run_gang(Fit, FIT, ranks=ranks[0], folder=tmp_path, kill_after=3)
    record, *parts = reversed(work(tmp_path))
    assert record.name == "progress"
    assert len(parts) == (0 if ranks[0] == 1 else ranks[0]), "parts of earlier saves are dropped"
    marks = tmp_path / "marks"
    marks.mkdir()
    resumed = run_gang(Fit, {**FIT, "folder": str(marks)}, ranks=ranks[1], folder=tmp_path)
    assert len(list(marks.glob("from-3-*"))) == ranks[1]
    assert [step for step, _ in resumed.shards[0].curves] == list(range(6)), "the curve is whole"
    if ranks == (2, 2):
        assert equal(resumed, undisturbed)
    torch.testing.assert_close(
        resumed.shards[0].tensors("fit"), undisturbed.shards[0].tensors("fit"), rtol=1e-12, atol=0
    )
    assert work(tmp_path) == []


def test_a_damaged_part_is_not_gone_on_from(tmp_path, undisturbed):
    with pytest.raises(KilledError):
        run_gang(Fit, FIT, ranks=2, folder=tmp_path, kill_after=3)
    part = work(tmp_path)[0]
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    marks = tmp_path / "marks"
    marks.mkdir()
    anew = run_gang(Fit, {**FIT, "folder": str(marks)}, ranks=2, folder=tmp_path)
    assert len(list(marks.glob("from-0-*"))) == 2
    assert equal(anew, undisturbed)
    assert len(anew.shards[0].curves) == 6


def test_a_missing_part_is_not_gone_on_from(tmp_path, caplog):
    store, key = Store.open(str(tmp_path)), "a" * 32
    parts = [store.put_part(key, {name: torch.ones(2)}) for name in "ab"]
    store.save_progress(key, Progress({}, {"step": 1}), parts)
    assert sorted(store.load_progress(key).tensors) == ["a", "b"]
    store.bytes.delete(f"work/aa/{key}/{parts[1]}")
    assert store.load_progress(key) is None
    assert "is missing; the shard begins anew" in caplog.messages[0]


def test_parts_that_no_record_names_are_dropped_with_the_next(tmp_path):
    store, key = Store.open(str(tmp_path)), "a" * 32
    for value in (1.0, 2.0):
        store.put_part(key, {"begun": torch.tensor([value])})
        part = store.put_part(key, {"w": torch.tensor([value])})
        store.save_progress(key, Progress({}, {"step": value}), [part])
        assert {entry.path.rpartition("/")[2] for entry in store.bytes.list("work")} == {"progress", part}
    assert store.load_progress(key).tensors["w"].tolist() == [2.0]


def test_a_tensor_that_two_ranks_save_is_refused(tmp_path):
    with pytest.raises(ValueError, match="several ranks saved 'w'; expected it from one of them"):
        run_gang(Twice, FIT, ranks=2, folder=tmp_path)


@pytest.mark.parametrize(("trouble", "error"), [("value", "a bad value"), ("nan", "loss is nan at step 3")])
def test_an_error_on_one_rank_ends_all(tmp_path, trouble, error):
    config = {**FIT, "trouble": trouble, "folder": str(tmp_path)}
    with pytest.raises((ValueError, ArithmeticError), match=error):
        run_gang(Fit, config, ranks=2, folder=tmp_path)
