"""The core of the executor, led through every order of answers, deaths and failures without a process."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.executors.hands import Broken, Heard, Lost
from orchestrator.executors.sharded import ShardedStage, Todo
from orchestrator.feasibility import Offer
from orchestrator.task import Needs, Shard

RETRIES = 2
OFFER = Offer("a test", cpus=9, gpus=0, memory_gb=9, disk_gb=None)
ANSWERS = ["done", "passing", "lasting", "lost"]


class Hands:
    """Notes what each worker has to do."""

    def __init__(self, closers_apart: bool = False) -> None:
        self.calls: dict[int, tuple] = {}
        self.asked: list[int] = []
        self.computed: list[str] = []
        self.closes = self.hired = 0
        self.closers_apart, self.closers = closers_apart, set()

    def hire(self, closing):
        self.hired += 1
        self.calls[self.hired] = ("load",)
        self.closers |= {self.hired} if closing or not self.closers_apart else set()
        return self.hired

    def compute(self, worker, key, identity, label):
        assert self.calls[worker] == (), "it has something to do already"
        assert ("compute", label) not in self.calls.values(), "two workers at one shard"
        self.calls[worker] = ("compute", label)

    def close(self, worker, key, shard_keys):
        assert self.calls[worker] == ()
        assert worker in self.closers
        self.calls[worker] = ("close",)

    def can_close(self, worker):
        return worker in self.closers

    def poll(self, worker):
        self.asked.append(worker)

    def stop(self, worker): ...

    def dismiss(self, worker):
        del self.calls[worker]


def stage(hands: Hands, shards: int = 5, workers: int = 3, deadline_s: float = 600) -> ShardedStage:
    plan = SimpleNamespace(
        name="walk", key="k", shards=[Shard({"walk": number}) for number in range(shards)],
        shard_keys=list(map(str, range(shards))), todo=range(shards), needs=Needs(),
        stage=SimpleNamespace(options=SimpleNamespace(deadline_s=deadline_s, retries=RETRIES)),
    )  # fmt: skip
    found = ShardedStage(plan, hands, OFFER, workers, lambda *_: None, lambda *_: None)
    found.begin()
    return found


def answer(walk: ShardedStage, hands: Hands, worker: int, how: str) -> None:
    """What a worker is at ends in this way."""
    call, *label = hands.calls[worker]
    said = {"shard": label[0] if label else "", "beats": 1, "metrics": [], "previews": []}
    told = {
        "lost": Lost("killed"),
        "done": said | {"state": "done", "node": f"node{worker % 2}"},
        "passing": said | {"state": "failed", "error": "OSError: x", "retry": True, "class": "error"},
        "lasting": said | {"state": "failed", "error": "ValueError: x", "retry": False, "class": "error"},
    }[how]
    if how != "lost":
        hands.calls[worker] = ()
    if how == "done" and call == "compute":
        hands.computed.append(label[0])
    walk.handle(Heard("walk", worker, False, told))


def work(walk: ShardedStage, hands: Hands, draw) -> None:
    """Until nobody is left; only work fails, and a worker that is closing or loading may die."""
    while not walk.finished:
        worker = draw(sorted(hands.calls))
        how = draw(ANSWERS if hands.calls[worker][0] == "compute" else ["done", "done", "lost"])
        answer(walk, hands, worker, how)


@given(st.data(), st.booleans(), st.integers(1, 4))
def test_every_shard_is_computed_once_or_put_aside_and_a_whole_stage_is_closed(data, apart, workers):
    hands = Hands(apart)
    walk = stage(hands, workers=workers)
    work(walk, hands, lambda those: data.draw(st.sampled_from(those)))
    outcome, failed = walk.outcome, set(walk.outcome.failures)
    labels = {f"walk={number}" for number in range(5)}
    assert len(set(hands.computed)) == len(hands.computed) == outcome.computed
    assert not set(hands.computed) & failed
    assert all(outcome.failures[label]["attempts"] <= RETRIES + 1 for label in failed & labels)
    if "stage" not in failed:
        assert set(hands.computed) | failed == labels
        assert outcome.closed == (not failed)


def test_a_shard_is_tried_again_on_another_node_where_there_is_one():
    todo = Todo([0])
    todo.take("a")
    todo.put_back(0, "a")
    todo.put_back(1, "b")
    assert (todo.take("a"), len(todo)) == (1, 1)
    assert (todo.take("a"), bool(todo)) == (0, False)


def test_workers_that_die_before_they_start_end_a_stage_only_where_none_ever_does():
    hands = Hands()
    walk = stage(hands)
    for _ in range(RETRIES + 1):
        answer(walk, hands, max(hands.calls), "lost")
    assert walk.finished
    assert "die before they start: killed" in walk.outcome.failures["stage"]["error"]
    hands = Hands()
    walk = stage(hands)
    answer(walk, hands, 1, "done")
    while len(hands.calls) > 1:
        answer(walk, hands, max(hands.calls), "lost")
    assert not walk.outcome.failures
    assert hands.hired == 3 + RETRIES
    work(walk, hands, lambda those: those[0])
    assert walk.outcome.closed


def test_an_error_outside_of_any_shard_ends_the_stage():
    hands = Hands()
    walk = stage(hands)
    walk.handle(Heard("walk", 1, False, Broken("ValueError: the data changed", "")))
    assert (walk.finished, walk.outcome.closed) == (True, False)
    walk.handle(Heard("walk", 2, False, {"node": "late"}))  # a dismissed worker's word means nothing
    assert walk.outcome.failures["stage"]["error"] == "ValueError: the data changed"


def test_a_worker_without_progress_is_given_up_and_one_that_shows_some_is_not(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    hands = Hands()
    walk = stage(hands, shards=2, workers=2, deadline_s=10)
    for worker in (1, 2):
        answer(walk, hands, worker, "done")
    for second in range(12):
        clock[0] += 1
        walk.tick()
        for worker in {1, 2} & set(hands.asked):
            beats = second if worker == 1 else 0
            said = {"shard": f"walk={worker - 1}", "beats": beats, "metrics": [], "previews": []}
            walk.handle(Heard("walk", worker, True, said))
        hands.asked.clear()
    assert 1 in hands.calls
    assert 2 not in hands.calls
    assert hands.hired == 3
