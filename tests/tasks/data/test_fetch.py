import hashlib
import io
import tarfile

import pytest

from tasks.data.fetch import fetch_file, fetch_members

WRONG = "0" * 64


def archive(path, *members):
    """A tar.gz at `path` of (name, content), or (name, None) for a link to /etc/passwd; its URL and digest."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content or b""))
    return path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_appears_when_it_is_whole_and_right(tmp_path):
    (tmp_path / "source").write_bytes(b"content" * 1000)
    sha256 = hashlib.sha256(b"content" * 1000).hexdigest()
    fetch_file((tmp_path / "source").as_uri(), sha256, tmp_path / "new" / "target")
    assert (tmp_path / "new" / "target").read_bytes() == b"content" * 1000
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["target"]


def test_nothing_is_left_of_a_file_with_another_digest(tmp_path):
    (tmp_path / "source").write_bytes(b"content")
    with pytest.raises(ConnectionError, match=f"expected {WRONG}, and thrown away"):
        fetch_file((tmp_path / "source").as_uri(), WRONG, tmp_path / "new" / "target")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_earlier_file_stays_when_a_download_fails(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(ConnectionError, match="cannot be downloaded"):
        fetch_file((tmp_path / "none").as_uri(), WRONG, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_members_land_flat_in_the_folder(tmp_path):
    url, sha256 = archive(
        tmp_path / "a.tar.gz", ("top/one.bin", b"1"), ("top/two.bin", b"2"), ("top/three", b"3")
    )
    fetch_members(url, sha256, ["one.bin", "two.bin"], tmp_path / "new")
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {
        "one.bin": b"1",
        "two.bin": b"2",
    }


@pytest.mark.parametrize("name", ["../../one.bin", "/one.bin", "top/../../one.bin"])
def test_names_that_escape_stay_inside(tmp_path, name):
    url, sha256 = archive(tmp_path / "a.tar.gz", (name, b"1"), ("../evil.bin", b"2"))
    fetch_members(url, sha256, ["one.bin"], tmp_path / "deep" / "new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "deep", "new", "one.bin"]
    assert (tmp_path / "deep" / "new" / "one.bin").read_bytes() == b"1"


def test_links_are_not_followed(tmp_path):
    url, sha256 = archive(tmp_path / "a.tar.gz", ("top/one.bin", None))
    with pytest.raises(ValueError, match=r"holds no file one\.bin"):
        fetch_members(url, sha256, ["one.bin"], tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_archive_with_another_digest_is_not_opened(tmp_path):
    url, _ = archive(tmp_path / "a.tar.gz", ("one.bin", b"1"))
    with pytest.raises(ConnectionError, match="thrown away"):
        fetch_members(url, WRONG, ["one.bin"], tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
