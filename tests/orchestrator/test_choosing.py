"""The best of what was tried, with as few trials as that takes."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.choosing import Trial, choice_key, choose, with_threads
from orchestrator.experiment import Resources
from orchestrator.feasibility import Offer
from orchestrator.task import Choices, Needs

OFFER = Offer(where="here", cpus=4, gpus=0, memory_gb=64, disk_gb=None)
STACKS = [{"stack": stack} for stack in (1, 2, 4, 8)]


ONE, OPEN = Needs(), Resources()


def chosen(paces, needs=ONE, asked=OPEN, offer=OFFER):
    """What is chosen where one worker does `paces[stack, threads]` items a second; 1 where not said."""

    def items_per_s(trial: Trial) -> float:
        return trial.workers * paces.get((trial.settings["stack"], trial.threads), 1.0)

    return choose(STACKS, needs, asked, offer, items_per_s)


def test_the_fastest_of_all_workers_together_is_taken():
    best, tried = chosen({(1, 1): 10, (2, 1): 14, (4, 1): 17, (8, 1): 5, (4, 2): 40})
    assert (best.settings, best.threads, best.workers) == ({"stack": 4}, 2, 2)
    assert [(trial.settings["stack"], trial.threads) for trial in tried] == [
        (1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (4, 4),
    ]  # fmt: skip


def test_what_is_hardly_faster_is_not_worth_it():
    best, _ = chosen({(1, 1): 10, (2, 1): 10.3, (4, 1): 10.4, (8, 1): 10.5})
    assert best.settings == {"stack": 1}


def test_it_stops_where_it_gets_slower():
    _, tried = chosen({(1, 1): 10, (2, 1): 5, (4, 1): 100})
    assert [trial.settings["stack"] for trial in tried if trial.threads == 1] == [1, 2]


def test_what_the_stage_asks_is_not_varied():
    for asked in (Resources(threads=1), Resources(cpus=1.0)):
        _, tried = chosen({}, asked=asked)
        assert {trial.threads for trial in tried} == {1}
    best, _ = chosen({}, asked=Resources(workers=3))
    assert best.workers == 3


def test_on_a_gpu_threads_are_left_alone():
    gpu = Offer(where="here", cpus=16, gpus=2, memory_gb=64, disk_gb=None)
    best, tried = chosen({}, needs=Needs(gpus=0.5), offer=gpu)
    assert best.workers == 4
    assert {trial.threads for trial in tried} == {1}


@given(
    st.dictionaries(st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4])), st.floats(1, 100))
)
def test_nothing_that_was_tried_is_much_faster_than_the_best(paces):
    best, tried = chosen(paces)
    assert best in tried
    assert max(trial.items_per_s for trial in tried) <= best.items_per_s * 1.15


def test_threads_take_cores_and_never_more_than_there_are():
    assert with_threads(ONE, OPEN, 2, OFFER) == Needs(threads=2, cpus=2)
    assert with_threads(Needs(), Resources(), 64, OFFER) == Needs(threads=4, cpus=4)
    assert with_threads(Needs(), Resources(threads=1), 2, OFFER) == Needs()


def test_a_key_holds_what_the_outcome_depends_on():
    key = choice_key("task", 1, Choices({"width": 16}, STACKS))
    assert key == choice_key("task", 1, Choices({"width": 16}, STACKS[:2]))
    others = [
        choice_key("task", 2, Choices({"width": 16}, STACKS)),
        choice_key("task", 1, Choices({"width": 32}, STACKS)),
    ]
    assert len({key, *others}) == 3
