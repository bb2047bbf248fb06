import os

import pytest
from deaths import Between

from orchestrator.errors import StoreError, UserError
from orchestrator.store import Folder, open_bytes


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


def test_many_names_of_a_folder_are_found_as_each_by_itself(tmp_path):
    space = Folder(tmp_path / "store")
    there = {f"a/{number}" for number in range(30)}
    for path in there:
        space.put(path, b"x")
    (tmp_path / "store/a/folder").mkdir()
    (tmp_path / "store/a/inside").symlink_to(tmp_path / "store/a/1")
    asked = {*there, "a/inside", "a/folder", "a/none", "b/1", *(f"c/{number}" for number in range(30))}
    assert space.among(asked) == set(filter(space.exists, asked)) == there | {"a/inside"}
    (tmp_path / "store/c").symlink_to(tmp_path)
    with pytest.raises(UserError, match="leads outside"):
        space.among(asked)


def test_a_root_behind_a_link_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    Folder(tmp_path / "link").put("a/x", b"x")
    assert Folder(tmp_path / "real").read("a/x") == b"x"


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


@pytest.mark.parametrize("written", [1000, 3000])
def test_what_is_replaced_after_the_look_stays_if_it_is_young(tmp_path, written):
    space, file = Folder(tmp_path), tmp_path / "a/x"

    def replace():
        space.put("a/x", b"again")
        os.utime(file, (written, written))

    space.put("a/x", b"x")
    os.utime(file, (1000, 1000))
    Between(str(tmp_path), 2, replace).delete_old("a/x", before=2000)
    assert file.exists() == (written > 2000)
    assert [entry.path for entry in space.list()] == ["a/x"] * file.exists()
    assert space.sweep(9000, apply=False) == (0, 0)


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


@pytest.mark.parametrize("uri", ["file://host/p", "odd://x", "hdfs://user:secret@host/p", "", " ", "a\0b"])
def test_open_bytes_refuses(uri):
    with pytest.raises(UserError, match="expected a folder") as error:
        open_bytes(uri)
    assert "secret" not in str(error.value)


def test_open_bytes_refuses_a_file(tmp_path):
    (tmp_path / "file").touch()
    for uri in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match="is a file; expected a folder"):
            open_bytes(str(uri))
