"""Leases: one owner at a time, whatever the order of steps; the dead and the silent are replaced."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SchemaError
from orchestrator.store import Folder, Lease, Leases, Owner, Sight, Store, collect, fate
from orchestrator.store import leases as module
from orchestrator.store.leases import Watch, judge, lease_files, live_claim, watched

KEY = "0" * 31 + "1"
ELSEWHERE = replace(Owner.here(), host="elsewhere")
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def mine(store) -> Leases:
    return Leases(store.bytes)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watcher(store, clock) -> Leases:
    return Leases(store.bytes, silence_s=15, clock=clock)


def dead_process() -> Owner:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    started = float(stat.rpartition(")")[2].split()[19])
    owner = replace(Owner.here(), pid=process.pid, process_started=started)
    assert fate(owner) == "alive"
    process.stdin.close()
    process.wait(timeout=60)
    return owner


# What became of a process


def test_the_fate_of_a_process():
    here = Owner.here()
    assert fate(here) == "alive"
    assert fate(replace(here, process_started=here.process_started + 1)) == "gone", "the id was used again"
    assert fate(replace(here, pid=2**22 + 1)) == "gone"
    assert fate(replace(here, boot="another")) == "rebooted"
    assert fate(replace(here, host="another")) == "unknown"
    assert fate(replace(here, processes="those of a container")) == "unknown"
    assert fate(dead_process()) == "gone"


def test_a_process_that_nobody_has_taken_note_of_is_gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    owner = replace(Owner.here(), pid=process.pid, process_started=1.0)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert fate(owner) == "gone"
    process.wait(timeout=60)


# The decision


@given(
    generation=st.integers(0, 3),
    released=st.booleans(),
    quiet=st.floats(0, 40),
    gone=st.booleans(),
)
def test_only_what_is_free_or_stale_is_taken(generation, released, quiet, gone):
    verdict = judge(Sight(generation, released=released), token="t", quiet_s=quiet, silence_s=15, gone=gone)
    if generation == 0 or released:
        assert verdict == "free"
    else:
        assert verdict == ("stale" if gone or quiet >= 15 else "held")


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([b"", b"a", b"b"]), st.floats(0, 10)), min_size=1)
)
def test_silence_counts_from_the_last_change(sights):
    watch, now, changed = None, 0.0, 0.0
    for generation, heart, later in sights:
        now += later
        if watch is None or watch.heard != (generation, b"", heart):
            changed = now
        watch = watched(watch, Sight(generation, heart=heart), now)
        assert watch == Watch((generation, b"", heart), changed)


# One process


def test_taken_kept_and_given_back(store, mine):
    lease = mine.take(KEY, "run-1", ["input"])
    assert isinstance(lease, Lease)
    held = Leases(store.bytes).take(KEY, "run-2")
    assert str(held) == f"run run-1 on {os.uname().nodename} (process {os.getpid()})"
    assert mine.beat(lease)
    assert mine.beat(lease)
    assert mine.release(lease)
    again = Leases(store.bytes).take(KEY, "run-2")
    assert isinstance(again, Lease)
    assert again.generation == lease.generation + 1
    assert not mine.beat(lease)
    assert not mine.release(lease), "a lease that is lost is not given back for its new owner"
    assert isinstance(mine.take(KEY), Sight)


def test_a_dead_owner_is_replaced_at_once(store, watcher):
    assert isinstance(Leases(store.bytes, dead_process()).take(KEY), Lease)
    assert isinstance(watcher.take(KEY), Lease)


@pytest.mark.parametrize("owner", [ELSEWHERE, Owner.here()], ids=["elsewhere", "here"])
def test_a_silent_owner_is_replaced_after_the_silence(store, watcher, clock, owner):
    other = Leases(store.bytes, owner)
    lease = other.take(KEY)
    for now in (100, 110, 114.9):
        clock.now = now
        assert isinstance(watcher.take(KEY), Sight)
    other.beat(lease)
    for now in (115, 129.9):
        clock.now = now
        assert isinstance(watcher.take(KEY), Sight), "the silence counts from what the watcher saw last"
    clock.now = 130
    assert isinstance(watcher.take(KEY), Lease)
    assert not other.beat(lease)


def test_a_watcher_that_slept_does_not_count_its_own_sleep(store, watcher, clock):
    other = Leases(store.bytes, ELSEWHERE)
    lease = other.take(KEY)
    assert isinstance(watcher.take(KEY), Sight)
    clock.now = 1000
    other.beat(lease)
    assert isinstance(watcher.take(KEY), Sight)


def test_a_new_claim_of_an_old_number_is_no_silent_one(store, fill, watcher, clock):
    """The watcher saw generation 1 before all was collected; another generation 1 is not silent since then."""
    assert isinstance(Leases(store.bytes, ELSEWHERE).take(KEY), Lease)
    assert isinstance(watcher.take(KEY), Sight)
    fill.age()
    collect(store, apply=True)
    assert isinstance(Leases(store.bytes, ELSEWHERE).take(KEY), Lease)
    clock.now = 3 * 24 * 3600
    assert isinstance(watcher.take(KEY), Sight)


def test_a_request_that_was_sent_twice_finds_its_own_claim(store, mine, monkeypatch):
    """An object store may answer a repeated conditional put with no, though the first one was ours."""
    put = store.bytes.put_if_absent
    monkeypatch.setattr(store.bytes, "put_if_absent", lambda path, data: put(path, data) and False)
    lease = mine.take(KEY)
    assert isinstance(lease, Lease)
    assert mine.beat(lease)


@pytest.mark.parametrize("what", ["1.json", "1.beat"])
def test_a_damaged_lease_is_replaced_after_the_silence(store, mine, watcher, clock, what):
    lease = mine.take(KEY)
    mine.beat(lease)
    store.bytes.put(f"leases/{KEY}/{what}", b"damaged")
    assert isinstance(watcher.take(KEY), Sight)
    assert str(watcher.take(KEY)).startswith("run " if what == "1.beat" else "a run whose claim is damaged")
    clock.now = 15
    assert isinstance(watcher.take(KEY), Lease)


def test_a_lease_of_a_later_version_is_told(store, mine):
    mine.take(KEY)
    body = json.loads(store.bytes.read(f"leases/{KEY}/1.json"))
    store.bytes.put(f"leases/{KEY}/1.json", json.dumps({**body, "schema": 99}).encode())
    with pytest.raises(SchemaError, match="upgrade limbeck"):
        Leases(store.bytes).take(KEY)


def test_who_looked_before_a_collection_does_not_become_a_second_owner(store, fill, mine, monkeypatch):
    """The slowest taker there can be: between its look and its claim all is collected and taken anew."""
    old = mine.take(KEY)
    mine.release(old)
    fill.age()
    slow, put, owners = Leases(store.bytes), store.bytes.put_if_absent, []

    def meanwhile(path, data):
        if not owners:
            owners.append(None)
            assert collect(store, apply=True).leases.count == 2
            owners[0] = Leases(store.bytes).take(KEY)
        return put(path, data)

    monkeypatch.setattr(store.bytes, "put_if_absent", meanwhile)
    found = slow.take(KEY)
    assert isinstance(owners[0], Lease)
    assert owners[0].generation == 1
    assert isinstance(found, Sight)
    assert Leases(store.bytes).beat(owners[0])
    assert not mine.beat(old)


def test_who_looked_before_the_first_claim_does_not_become_a_second_owner(store, mine, monkeypatch):
    """A collection that saw generation 1 alone has dropped it, while generation 2 was taken."""
    put, owners = store.bytes.put_if_absent, []

    def meanwhile(path, data):
        monkeypatch.undo()
        mine.release(mine.take(KEY))
        owners.append(mine.take(KEY))
        for name in ("1.beat", "1.json"):
            store.bytes.delete(f"leases/{KEY}/{name}")
        return put(path, data)

    monkeypatch.setattr(store.bytes, "put_if_absent", meanwhile)
    assert isinstance(Leases(store.bytes).take(KEY), Sight)
    assert owners[0].generation == 2
    assert mine.beat(owners[0])


def test_the_heartbeat_of_an_earlier_claim_says_nothing_of_a_later_one(store, mine, fill):
    """A paused owner may write its last word long after all was collected and begun again."""
    mine.release(mine.take(KEY))
    last_word = store.bytes.read(f"leases/{KEY}/1.beat")
    fill.age()
    collect(store, apply=True)
    lease = mine.take(KEY)
    store.bytes.put(f"leases/{KEY}/1.beat", last_word)
    assert lease.generation == 1
    assert isinstance(Leases(store.bytes).take(KEY), Sight)


def test_who_gave_up_has_given_it_back(store, mine, watcher):
    """Though the claim before which it gave up was taken back."""
    lease = mine.take(KEY)
    store.bytes.put(f"leases/{KEY}/2.json", b"of a slow taker")
    assert not mine.beat(lease)
    store.bytes.delete(f"leases/{KEY}/2.json")
    assert isinstance(watcher.take(KEY), Lease)


# Any order of steps


class Died(BaseException):
    """The process was killed here."""


class Turns:
    """Lets actors, each in a thread of its own, touch the store one step at a time in a given order."""

    def __init__(self, space, order) -> None:
        self._space, self._order, self._change = space, order, threading.Condition()
        self._waiting: dict[int, threading.Event] = {}
        self._alive: set[int] = set()
        self._errors: list[BaseException] = []
        self.dead: set[int] = set()

    def view(self, actor: int) -> "Stepping":
        return Stepping(self._space, lambda: self._step(actor))

    def play(self, actors, check, death=None) -> None:
        """Until all have ended; `death`: who dies, and at which step of the whole."""
        self._alive = set(range(len(actors)))
        threads = [
            threading.Thread(target=self._act, args=(number, act), daemon=True)
            for number, act in enumerate(actors)
        ]
        for thread in threads:
            thread.start()
        try:
            for step in range(10**6):
                with self._change:
                    assert self._change.wait_for(lambda: set(self._waiting) == self._alive, timeout=60)
                if not self._alive:
                    break
                check()
                if death and step == death[1]:
                    self.dead.add(death[0])
                turn = sorted(self._waiting)[self._order[step % len(self._order)] % len(self._waiting)]
                self._waiting.pop(turn).set()
        finally:
            self.dead |= self._alive
            for event in self._waiting.values():
                event.set()
            for thread in threads:
                thread.join(timeout=60)
        assert not self._errors, self._errors

    def _step(self, actor: int) -> None:
        event = threading.Event()
        with self._change:
            self._waiting[actor] = event
            self._change.notify_all()
        event.wait()
        if actor in self.dead:
            raise Died

    def _act(self, actor: int, act) -> None:
        try:
            with suppress(Died):
                act()
        except BaseException as error:  # noqa: BLE001  `play` tells it
            self._errors.append(error)
        with self._change:
            self._alive.discard(actor)
            self._change.notify_all()


class Stepping:
    """A bytes layer each of whose calls waits for its turn."""

    def __init__(self, space, step) -> None:
        self._space, self._step = space, step

    def __getattr__(self, name):
        def stepped(*args):
            self._step()
            found = getattr(self._space, name)(*args)
            return list(found) if name == "list" else found

        return stepped


def play(space, order, death=None, collector=False) -> int:
    """Three takers of one lease, and one that collects; returns how often one owned it."""
    turns, owners, owned = Turns(space, order), set(), []

    def taker(number):
        def act():
            leases = Leases(turns.view(number), replace(Owner.here(), pid=number), silence_s=1e9)
            for _ in range(3):
                lease = leases.take(KEY)
                if isinstance(lease, Lease):
                    owners.add(number)
                    owned.append(number)
                    leases.beat(lease)
                    owners.discard(number)
                    leases.release(lease)

        return act

    def collect_often():
        view = turns.view(3)
        for _ in range(4):
            for key, files in lease_files(view).items():
                if live_claim(view, key, files, before=0) is None:
                    for entry in files:
                        view.delete(entry.path)

    def check():
        assert len(owners - turns.dead) <= 1, owners

    actors = [taker(number) for number in range(3)] + [collect_often] * collector
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fate", lambda owner: "gone" if owner.pid in turns.dead else "alive")
        turns.play(actors, check, death)
    return len(owned)


ORDERS = st.lists(st.integers(0, 11), min_size=1, max_size=60)


@settings(max_examples=100)
@given(order=ORDERS, death=st.none() | st.tuples(st.integers(0, 2), st.integers(0, 40)))
def test_never_two_owners_whatever_the_order(order, death):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        assert play(Folder(folder), order, death) >= 1


@settings(max_examples=100)
@given(order=ORDERS)
def test_never_two_owners_beside_a_collector(order):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        assert play(Folder(folder), order, collector=True) >= 1


# Real processes


def test_of_many_processes_one_holds_it_at_a_time(tmp_path, child):
    """Each adds one to a number that nothing else guards, some die in the middle of it."""
    store = Store.open(str(tmp_path / "store"))
    count, each = 4, 6
    processes = [child("hold", store.uri, tmp_path / "number", each) for _ in range(count)]
    dying = child("hold", store.uri, tmp_path / "number", 1, "dies")
    assert [process.wait(timeout=120) for process in processes] == [0] * count
    assert dying.wait(timeout=120) == 9
    assert int((tmp_path / "number").read_text()) == count * each


def test_a_killed_process_is_replaced_at_once_and_a_paused_one_finds_out(tmp_path, child):
    store = Store.open(str(tmp_path / "store"))
    paused = child("keep", store.uri, KEY)
    assert paused.stdout.readline() == "taken\n"
    paused.send_signal(signal.SIGSTOP)
    leases = Leases(store.bytes, silence_s=1.0)
    began = time.monotonic()
    while isinstance(leases.take(KEY), Sight):
        assert time.monotonic() < began + 60
        time.sleep(0.02)
    assert time.monotonic() >= began + 1.0
    paused.send_signal(signal.SIGCONT)
    assert paused.stdout.readline() == "lost\n"

    other = KEY[::-1]
    killed = child("keep", store.uri, other)
    assert killed.stdout.readline() == "taken\n"
    patient = Leases(store.bytes, silence_s=1e9)
    assert isinstance(patient.take(other), Sight)
    killed.kill()
    killed.wait(timeout=60)
    assert isinstance(patient.take(other), Lease)
