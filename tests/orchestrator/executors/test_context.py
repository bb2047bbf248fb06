"""What a task sees of its worker: curves, pictures, seeds, and progress that holds them all."""

import threading

import pytest
import torch

from orchestrator.executors.context import NonFiniteError, ShardContext, Stopped
from orchestrator.store import Store
from orchestrator.task import Progress

KEY = "a" * 32


@pytest.fixture
def store(tmp_path):
    return Store.open(str(tmp_path / "store"))


def context_of(store, progress_s=0.0, stream=(0, "task", {"walk": 1}), stop=None):
    return ShardContext(
        store=store, key=KEY, stage="walk", shard="walk=1", stream=stream, device="cpu",
        progress_s=progress_s, stop=stop or threading.Event(),
    )  # fmt: skip


def saved(value):
    return lambda: Progress({"x": torch.tensor([value])}, {"step": value})


def test_seeds_depend_on_the_path_and_the_stream_alone(store):
    one, same = context_of(store), context_of(store)
    assert one.seed("epoch", 3) == same.seed("epoch", 3)
    others = [one.seed("epoch", 4), one.seed("step", 3), context_of(store, stream=(1,)).seed("epoch", 3)]
    assert len({one.seed("epoch", 3), *others}) == 4


def test_an_item_of_a_shard_has_the_seeds_that_it_would_have_alone(store):
    several = context_of(store, stream=(0, "task", {"first": 0, "last": 3}))
    alone = context_of(store, stream=(0, "task", {"walk": 2}))
    assert several.seed("epoch", 3, item={"walk": 2}) == alone.seed("epoch", 3)
    assert several.seed("epoch", 3, item={"walk": 1}) != alone.seed("epoch", 3)


def test_news_are_told_once(store):
    context = context_of(store)
    context.log({"loss": 1.0}, 0)
    context.preview("picture", b"png", 2)
    news = context.news()
    assert (news["shard"], news["beats"]) == ("walk=1", 2)
    assert [entry["values"] for entry in news["metrics"]] == [{"loss": 1.0}]
    assert store.read_blob(news["previews"][0]["blob"]) == b"png"
    assert context.news() == {"shard": "walk=1", "beats": 2, "metrics": [], "previews": []}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_ends_the_shard(store, value):
    with pytest.raises(NonFiniteError, match=r"loss is .* at step 7 of walk walk=1"):
        context_of(store).log({"loss": value}, 7)


def test_progress_brings_back_state_and_history(store):
    first = context_of(store)
    first.log({"loss": 1.0}, 0)
    first.save_progress(saved(5))
    second = context_of(store)
    progress = second.load_progress()
    assert progress.tensors["x"].tolist() == [5]
    assert progress.facts == {"step": 5}
    assert second.history.metrics == first.history.metrics


def test_progress_is_made_only_when_it_is_due(store):
    def never() -> Progress:
        raise AssertionError("not due")

    context_of(store, progress_s=1000).save_progress(never)
    assert context_of(store).load_progress() is None


def test_a_stop_saves_first(store):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        context_of(store, progress_s=1000, stop=stop).save_progress(saved(6))
    assert context_of(store).load_progress().facts == {"step": 6}
