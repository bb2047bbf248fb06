"""What travels, and that the same files give the same bytes."""

import io
import os
import zipfile

from clusters.parcel import pack, travelling


def folder(path):
    for name in ("digits.yaml", "run.sh", "sub/a.log", "sub/b.txt", "weights.pt", "\u00e9 $(x).txt"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(name)
    (path / "run.sh").chmod(0o755)
    (path / ".gitignore").write_text("*.log\n")
    (path / "elsewhere").symlink_to("/nowhere")
    return path


def test_gitignore_and_exclude_are_honoured(tmp_path):
    found = {name.as_posix() for name in travelling(folder(tmp_path), ["/weights.pt"])}
    assert found == {".gitignore", "digits.yaml", "run.sh", "sub/b.txt", "\u00e9 $(x).txt"}


def test_a_folder_inside_a_repository_is_a_folder_too(tmp_path):
    (tmp_path / ".git").mkdir()
    assert len(travelling(folder(tmp_path), [])) == 6


def test_a_parcel_is_what_its_files_are(tmp_path):
    first = pack(folder(tmp_path), [])
    os.utime(tmp_path / "digits.yaml", (1, 1))
    assert pack(tmp_path, []) == first
    packed = zipfile.ZipFile(io.BytesIO(first))
    assert packed.read("working_dir/sub/b.txt") == b"sub/b.txt"
    assert packed.getinfo("working_dir/run.sh").external_attr >> 16 == 0o755
    assert packed.getinfo("working_dir/digits.yaml").external_attr >> 16 == 0o644
