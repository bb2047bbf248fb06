import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.data import digest as module
from tasks.data.digest import digest_of_files

LONG_AGO_NS = 10**18


@pytest.fixture
def files(tmp_path):
    """Two settled files by label."""
    made = {}
    for label in ("train", "test"):
        made[label] = tmp_path / f"{label}.bin"
        made[label].write_bytes(label.encode() * 100)
        os.utime(made[label], ns=(LONG_AGO_NS, LONG_AGO_NS))
    return made


def rewrite(path, content):
    """Other content under the same size and time: what the remembered digest cannot see."""
    assert len(content) == path.stat().st_size
    path.write_bytes(content)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


def test_is_independent_of_folder_and_of_the_order_of_labels(files, tmp_path):
    (tmp_path / "other").mkdir()
    copies = {label: Path(shutil.copy(files[label], tmp_path / "other")) for label in reversed(files)}
    assert digest_of_files("npz", copies) == digest_of_files("npz", files)


def test_depends_on_content_label_and_name(files):
    digests = {
        digest_of_files("npz", files),
        digest_of_files("idx", files),
        digest_of_files("npz", {"train": files["test"], "test": files["train"]}),
        digest_of_files("npz", {"train": files["train"]}),
        digest_of_files("npz", {"train": files["train"], "other": files["test"]}),
    }
    assert len(digests) == 5
    assert all(len(digest) == 64 for digest in digests)


def test_a_known_file_is_not_read_again(files, cache):
    before = digest_of_files("npz", files)
    rewrite(files["train"], b"x" * 500)
    assert digest_of_files("npz", files) == before
    (cache / "digests.json").unlink()
    assert digest_of_files("npz", files) != before


def test_another_size_or_time_is_seen(files):
    before = digest_of_files("npz", files)
    rewrite(files["train"], b"x" * 500)
    os.utime(files["train"], ns=(LONG_AGO_NS, LONG_AGO_NS + 1))
    assert digest_of_files("npz", files) != before


def test_a_file_written_just_now_is_not_remembered(files, cache):
    files["train"].write_bytes(b"new")
    digest_of_files("npz", files)
    assert not (cache / "digests.json").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[1]", b'{"a": 1}', b"null"],
    ids=["empty", "cut", "bytes", "list", "odd", "null"],
)
def test_a_damaged_memory_is_ignored_and_rewritten(files, cache, content):
    before = digest_of_files("npz", files)
    (cache / "digests.json").write_bytes(content)
    assert digest_of_files("npz", files) == before
    assert list(json.loads((cache / "digests.json").read_text()).values()) == [before]


def test_a_remembered_value_that_is_no_digest_is_not_believed(files, cache):
    before = digest_of_files("npz", files)
    path = cache / "digests.json"
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), "short")))
    assert digest_of_files("npz", files) == before


def test_digests_of_other_datasets_stay_remembered(files, cache):
    digest_of_files("npz", files)
    digest_of_files("idx", files)
    assert len(json.loads((cache / "digests.json").read_text())) == 2
    assert [path.name for path in cache.iterdir()] == ["digests.json"]


def test_racing_writers_leave_a_whole_file(files, cache):
    names = [f"name{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda name: digest_of_files(name, files), names))
    known = json.loads((cache / "digests.json").read_text())
    assert set(known.values()) <= set(digests)
    assert [digest_of_files(name, files) for name in names] == digests


def test_a_memory_that_cannot_be_written_is_only_a_warning(files, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "file" / "folder"))
    assert digest_of_files("npz", files) == digest_of_files("npz", files)
    assert "cannot be remembered" in caplog.text


def test_long_files_are_read_in_pieces(files, monkeypatch):
    before = digest_of_files("npz", files)
    monkeypatch.setattr(module, "CHUNK_BYTES", 7)
    assert digest_of_files("npz2", files) != before
    monkeypatch.setattr(module, "_remembered", dict)
    assert digest_of_files("npz", files) == before


def test_names_a_file_that_vanished(files, refuses):
    files["train"].unlink()
    with refuses(files["train"], "no such file", "correct the path"):
        digest_of_files("npz", files)
