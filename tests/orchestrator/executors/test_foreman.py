"""How a foreman judges a gang from what its ranks said and what became of their processes."""

import pytest
from ray.exceptions import OutOfMemoryError

from orchestrator.executors.foreman import verdict
from orchestrator.executors.worker import OUT_OF_MEMORY, PEER_LOST, describe_error

DONE, STOPPED = {"state": "done"}, {"state": "stopped"}
ERROR = {"state": "failed", "error": "ValueError: bad", "class": "error", "retry": False}
ALONE = {"state": "failed", "error": "RuntimeError: gloo", "class": PEER_LOST, "retry": True}


def told(**answers):
    """Answers by rank: told(r1=..., r0=...), in the order in which they came."""
    return {int(name[1:]): answer | {"rank": int(name[1:])} for name, answer in answers.items()}


def test_what_rank_0_committed_stands():
    assert verdict(told(r1=ERROR, r0=DONE), {1: ValueError("bad")}, 2)["state"] == "done"


def test_a_dead_rank_counts_before_those_whose_calls_it_broke():
    found = verdict(told(r0=ALONE | {"class": "error"}), {0: ValueError(), 1: OSError("killed\nmore")}, 2)
    assert (found["error"], found["retry"]) == ("rank 1 of 2 died: killed", True)


def test_the_first_error_that_is_a_ranks_own_counts():
    answers = told(r0=ALONE, r2=ERROR, r1=ERROR | {"error": "ValueError: later"})
    found = verdict(answers, {rank: ValueError() for rank in answers}, 3)
    assert (found["error"], found["retry"], found["rank"]) == ("rank 2 of 3: ValueError: bad", False, 2)


def test_broken_calls_alone_are_tried_again():
    assert verdict(told(r1=ALONE, r0=ALONE), {}, 2)["retry"] is True


def test_memory_that_ran_out_is_a_class_of_its_own():
    assert verdict({}, {0: OutOfMemoryError("the node is low on memory")}, 2)["class"] == OUT_OF_MEMORY


def test_what_ray_train_lost_is_tried_again():
    found = verdict({}, {-1: RuntimeError("no worker came up")}, 2)
    assert (found["error"], found["retry"]) == ("the gang was lost: no worker came up", True)


def test_a_stop_is_heard_from_rank_0():
    assert verdict(told(r1=STOPPED, r0=STOPPED), {}, 2)["state"] == "stopped"


@pytest.mark.parametrize(
    ("error", "alone"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"), True),
        (RuntimeError("The size of tensor a (2) must match"), False),
        (ValueError("NCCL"), False),
    ],
)  # fmt: skip
def test_broken_calls_are_told_from_errors(error, alone):
    found = describe_error(error)
    assert (found["class"] == PEER_LOST, found["retry"]) == (alone, alone)
