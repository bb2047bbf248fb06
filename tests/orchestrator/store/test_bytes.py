"""What every place for bytes owes the store: the same tests for a folder and for a real S3 server."""

import hashlib
import json
import os
import threading
import time
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import UserError
from orchestrator.store import check_name

parts = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.=,+@-]{0,20}", fullmatch=True)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
BAD = [
    "", "/", "/etc/passwd", "..", "a/../b", "a/..", "./a", "a//b", "a/", "a\\b", "..\\b", "a\0b", "%2e%2e/a", "a%2fb",
    "a/%2E%2E/b", "%252e", ".tmp/x", "a/.hidden", "a b", "a\n", "\u2025/a", "caf\u00e9", "C:\\x", "~/a",
    "a/" + "b" * 201,
]  # fmt: skip
each_its_place = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


@each_its_place
@given(path=paths, first=st.binary(max_size=2000), second=st.binary(max_size=2000))
def test_round_trip(places, path, first, second):
    space = places()
    assert not space.exists(path)
    assert space.put_if_absent(path, first)
    assert not space.put_if_absent(path, second)
    assert space.read(path) == first
    space.put(path, second)
    assert space.read(path) == space.local(path).read_bytes() == second
    assert space.digest(path) == hashlib.sha256(second).hexdigest()
    assert space.size(path) == space.stat(path).size == len(second)
    assert [entry.path for entry in space.list()] == [path]
    assert list(space.list()) == [space.stat(path)]
    assert space.among([path, path + "x"]) == {path}
    assert abs(space.stat(path).modified - time.time()) < 60
    space.delete(path)
    space.delete(path)
    assert list(space.list()) == []
    assert space.stat(path) is None


@each_its_place
@given(files=st.dictionaries(parts, st.binary(max_size=10), max_size=6), folder=parts)
def test_list_shows_what_lies_under_a_folder(places, files, folder):
    space = places()
    for name, data in files.items():
        space.put(f"{folder}/in/{name}", data)
    space.put("elsewhere_/x", b"")
    space.put(f"{folder}/inner_/x", b"")
    found = {entry.path: entry.size for entry in space.list(f"{folder}/in")}
    assert found == {f"{folder}/in/{name}": len(data) for name, data in files.items()}
    assert list(space.list("nowhere_")) == []


def test_files_scratch_or_foreign(places, tmp_path):
    space, mine = places(), tmp_path / "mine"
    mine.write_bytes(b"mine")
    assert space.put_file_if_absent("a/x", mine)
    assert not space.put_file_if_absent("a/x", mine)
    space.put_file("a/y", mine)
    mine.write_bytes(b"changed")
    assert space.read("a/x") == space.read("a/y") == b"mine"
    for put in (space.put_file, space.put_file_if_absent):
        with space.scratch() as file:
            file.write_bytes(b"scratch")
            put(f"a/{put.__name__}", file)
        assert space.read(f"a/{put.__name__}") == b"scratch"
    assert space.sweep(time.time() + 1, apply=False) == (0, 0)


@pytest.mark.parametrize("path", BAD)
def test_names_that_could_escape_are_refused(places, tmp_path, path):
    space = places()
    with pytest.raises(UserError, match="is refused"):
        check_name(path)
    for touch in (space.read, space.exists, space.local, space.digest, space.delete, space.size):
        with pytest.raises(UserError, match="is refused"):
            touch(path)
    for put in (space.put, space.put_if_absent):
        with pytest.raises(UserError, match="is refused"):
            put(path, b"x")
    with pytest.raises(UserError, match="is refused"):
        space.put_file_if_absent(path, Path(__file__))
    with pytest.raises(UserError, match="is refused"):
        space.among([path])
    assert list(space.list()) == []
    assert not any(file.is_file() for file in tmp_path.rglob("*"))


@given(st.text(max_size=12))
def test_whatever_name_is_taken_lies_inside(path):
    root = Path("/place/of/store")
    try:
        check_name(path)
    except UserError:
        return
    assert root in Path(os.path.normpath(root / path)).parents


def test_of_many_threads_one_wins(places):
    space, rounds, racers = places(), 10, 8
    barrier, won = threading.Barrier(racers), [[] for _ in range(rounds)]

    def go(me):
        for number in range(rounds):
            barrier.wait(60)
            if space.put_if_absent(f"names/{number}", b"%d" % me * 500):
                won[number].append(me)

    threads = [threading.Thread(target=go, args=(me,)) for me in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for number, winners in enumerate(won):
        assert len(winners) == 1
        assert space.read(f"names/{number}") == b"%d" % winners[0] * 500


def test_of_many_processes_one_wins(places, child):
    space = places()
    processes = [child("absent", space.uri, me, 60) for me in "abc"]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    won = {
        me: json.loads(process.communicate(timeout=60)[0])
        for me, process in zip("abc", processes, strict=True)
    }
    assert sorted(chain.from_iterable(won.values())) == list(range(60))
    assert all(space.read(f"names/{n}") == me.encode() * 999 for me, names in won.items() for n in names)


def test_a_missing_file_is_a_missing_file(places):
    space = places()
    for touch in (space.read, space.local, space.size, space.digest):
        with pytest.raises(FileNotFoundError):
            touch("a/x")


def test_what_is_old_goes_and_what_is_young_stays(places):
    space = places()
    space.put("a/x", b"four")
    written = space.stat("a/x").modified
    assert space.delete_old("a/x", written) is None
    assert space.delete_old("a/y", written + 1) is None
    assert space.read("a/x") == b"four"
    assert space.delete_old("a/x", written + 1) == 4
    assert not space.exists("a/x")
