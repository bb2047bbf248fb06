import threading
import time

import pytest
import torch

from tasks.model_distillation.prefetch import ahead


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_gives_the_same_in_the_same_order():
    assert list(ahead(iter(range(100)), depth=3)) == list(range(100))
    assert list(ahead(iter([]), depth=1)) == []


def test_makes_some_before_they_are_asked_for_and_no_more():
    made = []
    items = ahead((made.append(number) or number for number in range(50)), depth=3)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 5
    items.close()


def test_an_error_comes_in_its_turn():
    def broken():
        yield 1
        raise ValueError("no more")

    items = ahead(broken(), depth=4)
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)
    assert not threads()


def test_the_thread_ends_with_the_reader():
    items = ahead(iter(range(1000)), depth=2)
    next(items)
    assert threads()
    items.close()
    assert not threads()


def test_its_thread_computes_on_one_core_and_leaves_the_others_theirs():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(ahead((torch.get_num_threads() for _ in range(2)), depth=1)) == [1, 1]
        assert torch.get_num_threads() == 2
        later = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [2]
    finally:
        torch.set_num_threads(before)
