"""The driver's leases: kept alive beside a busy driver, through a store that is away, given back at the end."""

import threading
import time

import pytest

from orchestrator.errors import StoreError
from orchestrator.keeper import Keeper
from orchestrator.store import Folder, Lease, Leases, Sight

KEY = "0" * 31 + "1"


class Away(Folder):
    """A folder that is not there for a while."""

    away = False

    def put(self, path, data):
        if self.away:
            raise StoreError(f"store {self.root}: cannot write {path}: Connection refused")
        super().put(path, data)


@pytest.fixture
def space(tmp_path):
    return Away(tmp_path)


@pytest.fixture
def keeper(space):
    made = Keeper(Leases(space), "run-1", beat_s=0.05, ask_s=0.0)
    yield made
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "leases"]


def heart(space) -> bytes:
    return space.read(f"leases/{KEY}/1.beat") if space.exists(f"leases/{KEY}/1.beat") else b""


def wait_until(true, timeout=60.0) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def test_it_beats_beside_a_busy_driver_and_gives_back(space, keeper):
    assert keeper.ask(KEY, ["input"]) is None
    for _ in range(3):
        before = heart(space)
        wait_until(lambda: heart(space) != before)  # noqa: B023
    assert isinstance(Leases(space).take(KEY), Sight)
    keeper.release(KEY)
    keeper.release(KEY)
    other = Leases(space).take(KEY)
    assert isinstance(other, Lease)
    assert not keeper.lost(KEY), "what was given back is not lost"
    assert keeper.told() == []


def test_closing_gives_all_back(space):
    keeper = Keeper(Leases(space), "run-1", beat_s=0.05)
    keys = [KEY, KEY[::-1]]
    assert [keeper.ask(key) for key in keys] == [None, None]
    keeper.close()
    assert all(isinstance(Leases(space).take(key), Lease) for key in keys)


def test_it_says_who_holds_a_lease(space, keeper):
    other = Leases(space)
    lease = other.take(KEY, "run-2")
    assert keeper.ask(KEY).startswith("run run-2 on ")
    other.release(lease)
    assert keeper.ask(KEY) is None
    assert keeper.ask(KEY) == "another stage of this run"


def test_it_asks_the_store_now_and_then(space):
    keeper = Keeper(Leases(space), "run-1", ask_s=1e9)
    other = Leases(space)
    lease = other.take(KEY, "run-2")
    said = keeper.ask(KEY)
    other.release(lease)
    assert keeper.ask(KEY) == said
    keeper.close()


def test_a_lost_lease_is_found_and_may_be_had_again(space, keeper):
    assert keeper.ask(KEY) is None
    space.put(f"leases/{KEY}/2.json", b"of another")
    wait_until(lambda: keeper.lost(KEY))
    space.delete(f"leases/{KEY}/2.json")
    wait_until(lambda: keeper.ask(KEY) is None)
    assert not keeper.lost(KEY)


def test_a_store_that_is_away_is_told_once_and_tried_again(space, keeper):
    assert keeper.ask(KEY) is None
    space.away = True
    told = []
    wait_until(lambda: told.extend(keeper.told()) or told)
    time.sleep(0.2)
    assert not keeper.lost(KEY)
    assert keeper.told() == []
    space.away = False
    wait_until(lambda: told.extend(keeper.told()) or len(told) > 1)
    assert "the store takes no heartbeat (store " in told[0]
    assert "another driver may take over" in told[0]
    assert told[1] == "the store takes heartbeats again"
    before = heart(space)
    wait_until(lambda: heart(space) != before)


def test_what_cannot_be_given_back_is_told(space):
    keeper = Keeper(Leases(space), "run-1")
    assert keeper.ask(KEY) is None
    space.away = True
    keeper.close()
    assert ["cannot be given back" in message for message in keeper.told()] == [True]


def test_what_ends_the_thread_is_raised_in_the_driver(space, keeper, monkeypatch):
    monkeypatch.setattr(space, "put", lambda path, data: 1 / 0)
    assert keeper.ask(KEY) is None
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "leases"])
    with pytest.raises(ZeroDivisionError):
        keeper.told()
    monkeypatch.undo()
