"""Real processes that die, race, and run out of room."""

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from orchestrator.keys import digest
from orchestrator.store import Folder, Store, collect, verify


@pytest.fixture
def in_memory():
    """A folder in memory where there is such a place: a killed process loses nothing that is not synced."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("kind", ["write", "touch"])
def test_a_crash_between_any_two_steps_leaves_nothing_half_done(in_memory, answer, kind):
    """Dead after every single write, and before every single touch of a file (open, mkdir, link, rename,
    remove): readers see whole records with whole files; going on ends with the same content."""
    died = int(answer("crash", in_memory, kind))
    assert died > (10 if kind == "write" else 60)
    stores = [Store.open(str(in_memory / str(step))) for step in range(died + 1)]
    seen = [read(store) for store in stores]
    assert sorted(set(seen)) == [(0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 1, 0), (2, 1, 1)]
    undisturbed = stores[-1].artifact(digest("crash")).digest
    assert answer("finish", in_memory).split() == [undisturbed] * len(stores)
    for store in stores[::4]:
        assert verify(store).ok
        assert collect(store, apply=True, grace_s=-60).blobs.count <= 1
        assert not list((store.bytes.root / ".tmp").iterdir())


def read(store) -> tuple[int, int, int]:
    """How many shards, artifacts and runs there are; that all of them are whole."""
    found = verify(store)
    assert found.ok, found.problems
    folders = {"store.json", "blobs", "shards", "artifacts", "runs", "pins"}
    assert {entry.path.split("/")[0] for entry in store.bytes.list()} <= folders
    assert all(store.shard(key).document("shared") == [1, 2, 3] for key in store.shard_keys())
    assert all(len(manifest.shards) == 2 for manifest in store.manifests())
    return found.shards, found.artifacts, len(store.runs())


def test_killed_at_random_moments(tmp_path, child):
    store, random_ = Store.open(str(tmp_path)), random.Random(0)
    done = 0
    for _ in range(4):
        process = child("commit_forever", tmp_path)
        assert process.stdout.readline() == "ready\n"
        time.sleep(random_.uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        found = verify(store)
        assert found.ok, found.problems
        assert found.shards >= done
        done = found.shards
    for number in range(done):
        assert store.shard(digest(["forever", number])).document("number") == number


def test_two_processes_commit_the_same_shards(tmp_path, child):
    rounds = 60
    processes = [child("race", tmp_path, me, rounds) for me in ("one", "two", "three")]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert answers[0]["seen"] == answers[1]["seen"] == answers[2]["seen"]
    assert sum(one["won"] for one in answers) == rounds
    found = verify(Store.open(str(tmp_path)))
    assert (found.ok, found.shards) == (True, rounds)


def test_collecting_while_another_commits_what_was_to_go(store, fill, child):
    """Its files are old and unnamed when the collection begins; once named they are all there."""
    count = 200
    for number in range(count):
        store.put_blob(b"%d" % number)
    fill.age()
    process = child("reuse", store.uri, count)
    assert process.stdout.readline() == "ready\n"
    swept = 0
    while process.poll() is None:
        swept += collect(store, apply=True).blobs.count
    assert process.returncode == 0
    found = verify(store)
    assert found.ok, found.problems
    assert found.shards == count
    assert swept > 0


def test_a_limit_on_the_size_of_files_is_told_in_one_line(tmp_path, answer):
    error, listed, unfinished = answer("too_large", tmp_path, 100_000).splitlines()
    assert error.startswith(f"StoreError store {tmp_path}: cannot write blobs/")
    assert "File too large; raise the limit" in error
    assert json.loads(listed) == ["store.json"]
    assert json.loads(unfinished) == [0, 0]


def mounts() -> bool:
    """Whether file systems can be mounted here without privilege, in a namespace of one's own."""
    if not shutil.which("unshare"):
        return False
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not mounts(), reason="no user namespaces here")
def test_a_full_disk_is_told_in_one_line(tmp_path, answer):
    script = f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec "$@"'
    lines = answer(
        "full", tmp_path / "store", before=("unshare", "-rm", "sh", "-c", script, "sh")
    ).splitlines()
    assert len(lines) == 6
    for error, listed, unfinished in (lines[:3], lines[3:]):
        assert error.startswith("StoreError store")
        assert "No space left on device; free space there (`limbeck artifacts gc`" in error
        assert json.loads(listed) == ["store.json"]
        assert json.loads(unfinished) == [0, 0]


@pytest.mark.skipif(not mounts(), reason="no user namespaces here")
def test_a_read_only_store_is_told_in_one_line_and_can_be_read(tmp_path, fill, answer):
    key = fill.shard("x")
    root = fill.store.uri
    script = f'mount --bind {root} {root} && mount -o remount,bind,ro {root} && exec "$@"'
    lines = answer("opened", root, before=("unshare", "-rm", "sh", "-c", script, "sh")).splitlines()
    assert lines[0].startswith(
        f"StoreError store {root}: cannot write: Read-only file system; mount it writable"
    )
    assert lines[1] == str([key])


def test_a_folder_on_another_disk_takes_files_too(tmp_path):
    """A local file from another file system is copied, not linked."""
    space = Folder(tmp_path)
    assert space.put_file_if_absent("proc/version", Path("/proc/version"))
    assert space.read("proc/version").startswith(b"Linux")
