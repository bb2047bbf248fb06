import json
import os
import tempfile
import threading
import time
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import StoreError, UserError
from orchestrator.store import Folder, check_name, open_bytes

parts = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.=,+@-]{0,20}", fullmatch=True)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
BAD = [
    "", "/", "/etc/passwd", "..", "a/../b", "a/..", "./a", "a//b", "a/", "a\\b", "..\\b", "a\0b", "%2e%2e/a", "a%2fb",
    "a/%2E%2E/b", "%252e", ".tmp/x", "a/.hidden", "a b", "a\n", "\u2025/a", "caf\u00e9", "C:\\x", "~/a",
    "a/" + "b" * 201,
]  # fmt: skip


@settings(max_examples=25)
@given(paths, st.binary(max_size=2000), st.binary(max_size=2000))
def test_round_trip(path, first, second):
    with tempfile.TemporaryDirectory() as root:
        space = Folder(root)
        assert not space.exists(path)
        assert space.put_if_absent(path, first)
        assert not space.put_if_absent(path, second)
        assert space.read(path) == first
        space.put(path, second)
        assert space.read(path) == space.local(path).read_bytes() == second
        assert space.size(path) == space.stat(path).size == len(second)
        assert [entry.path for entry in space.list()] == [path]
        assert abs(space.stat(path).modified - time.time()) < 60
        space.delete(path)
        space.delete(path)
        assert list(space.list()) == []
        assert space.stat(path) is None


@settings(max_examples=15)
@given(st.dictionaries(parts, st.binary(max_size=10), max_size=6), parts)
def test_list_shows_what_lies_under_a_folder(files, folder):
    with tempfile.TemporaryDirectory() as root:
        space = Folder(root)
        for name, data in files.items():
            space.put(f"{folder}/in/{name}", data)
        space.put("elsewhere_/x", b"")
        found = {entry.path: entry.size for entry in space.list(f"{folder}/in")}
        assert found == {f"{folder}/in/{name}": len(data) for name, data in files.items()}
        assert list(space.list("nowhere_")) == []


def test_files_scratch_or_foreign(tmp_path):
    space = Folder(tmp_path / "store")
    mine = tmp_path / "mine"
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
def test_names_that_could_escape_are_refused(tmp_path, path):
    space = Folder(tmp_path / "store")
    with pytest.raises(UserError, match="is refused"):
        check_name(path)
    for touch in (space.read, space.exists, space.local, space.delete, space.size):
        with pytest.raises(UserError, match="is refused"):
            touch(path)
    for put in (space.put, space.put_if_absent):
        with pytest.raises(UserError, match="is refused"):
            put(path, b"x")
    assert not any(file.is_file() for file in tmp_path.rglob("*"))


@given(st.text(max_size=12))
def test_whatever_name_is_taken_lies_inside(path):
    root = Path("/place/of/store")
    try:
        check_name(path)
    except UserError:
        return
    assert root in Path(os.path.normpath(root / path)).parents


def test_links_that_lead_outside_are_refused(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    space = Folder(tmp_path / "store")
    space.put("a/x", b"x")
    (tmp_path / "store/door").symlink_to(outside)
    (tmp_path / "store/a/window").symlink_to(outside / "secret")
    (tmp_path / "store/a/inside").symlink_to(tmp_path / "store/a/x")
    for path in ("door/secret", "a/window"):
        with pytest.raises(UserError, match="leads outside"):
            space.read(path)
    with pytest.raises(UserError, match="leads outside"):
        space.put("door/new", b"x")
    with pytest.raises(UserError, match="leads outside"):
        list(space.list("door"))
    assert space.read("a/inside") == b"x"
    assert [entry.path for entry in space.list()] == ["a/x"]
    assert [file.name for file in outside.iterdir()] == ["secret"]


def test_a_root_behind_a_link_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    Folder(tmp_path / "link").put("a/x", b"x")
    assert Folder(tmp_path / "real").read("a/x") == b"x"


def test_of_many_threads_one_wins(tmp_path):
    space, rounds, racers = Folder(tmp_path), 20, 8
    barrier, won = threading.Barrier(racers), [[] for _ in range(rounds)]

    def go(me):
        for number in range(rounds):
            barrier.wait(20)
            if space.put_if_absent(f"names/{number}", b"%d" % me * 500):
                won[number].append(me)

    threads = [threading.Thread(target=go, args=(me,)) for me in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, winners in enumerate(won):
        assert len(winners) == 1
        assert space.read(f"names/{number}") == b"%d" % winners[0] * 500


def test_of_many_processes_one_wins(tmp_path, child):
    processes = [child("absent", tmp_path, me, 100) for me in "abc"]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    won = {
        me: json.loads(process.communicate(timeout=60)[0])
        for me, process in zip("abc", processes, strict=True)
    }
    assert sorted(chain.from_iterable(won.values())) == list(range(100))
    space = Folder(tmp_path)
    assert all(space.read(f"names/{n}") == me.encode() * 999 for me, names in won.items() for n in names)


def test_unfinished_writes_are_not_listed_and_swept_when_old(tmp_path):
    space = Folder(tmp_path)
    space.put("a/x", b"x")
    old, new = tmp_path / ".tmp/old", tmp_path / ".tmp/new"
    old.write_bytes(b"12345")
    new.write_bytes(b"1")
    os.utime(old, (1000, 1000))
    assert [entry.path for entry in space.list()] == ["a/x"]
    assert space.sweep(2000, apply=False) == (1, 5)
    assert old.exists()
    assert space.sweep(2000, apply=True) == (1, 5)
    assert new.exists()
    assert not old.exists()


def test_a_missing_file_is_a_missing_file(tmp_path):
    space = Folder(tmp_path)
    for touch in (space.read, space.local, space.size):
        with pytest.raises(FileNotFoundError):
            touch("a/x")


def test_what_is_no_folder_is_told_in_one_line(tmp_path):
    space = Folder(tmp_path)
    space.put("a", b"a file")
    with pytest.raises(StoreError, match=r"store .*: cannot .*a/b: Not a directory; check") as error:
        space.put("a/b", b"x")
    assert "\n" not in str(error.value)


def test_a_place_that_takes_nothing_is_told_in_one_line():
    space = Folder("/proc/limbeck-store")
    with pytest.raises(StoreError, match=r"cannot write a/x: (Read-only|Permission).*--store"):
        space.put("a/x", b"x")


def test_free_bytes_before_the_folder_is_there(tmp_path):
    assert Folder(tmp_path / "not/yet").free_bytes() > 0


@pytest.mark.parametrize("uri", ["{}/store", "file://{}/store", "file://localhost{}/sto%72e"])
def test_open_bytes(tmp_path, uri):
    space = open_bytes(uri.format(tmp_path))
    assert space.uri == str(tmp_path / "store")
    assert open_bytes(space.uri).uri == space.uri


@pytest.mark.parametrize(
    "uri", ["s3://b/p", "gs://b", "az://c/p", "file://host/p", "odd://x", "", " ", "a\0b"]
)
def test_open_bytes_refuses(uri):
    with pytest.raises(ValueError, match="expected a folder") as error:
        open_bytes(uri)
    if uri[:2] in ("s3", "gs", "az"):
        assert "object stores come with a later release" in str(error.value)


def test_open_bytes_refuses_a_file(tmp_path):
    (tmp_path / "file").touch()
    for uri in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match="is a file; expected a folder"):
            open_bytes(str(uri))
