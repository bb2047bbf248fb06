"""The working directory as one zip file: what travels to clusters that fetch it from an object store."""

import io
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import UserError

ROOT = "working_dir"
"""The one folder in the zip: Ray takes off a single folder at the top, and asks for it."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def travelling(folder: Path, exclude: Sequence[str]) -> list[Path]:
    """Files below `folder`, relative to it and sorted, that neither .gitignore files nor `exclude` leave out.

    Git answers, so that patterns mean what they mean there; the folder need not be a repository, and what is
    one inside it stays behind.
    """
    patterns = [f"--exclude={pattern}" for pattern in exclude]
    with tempfile.TemporaryDirectory() as nowhere:
        git = ["git", f"--git-dir={nowhere}", f"--work-tree={folder}"]
        _git([*git, "init", "--quiet"], folder)
        listed = _git(
            [
                *git,
                "ls-files",
                "-z",
                "--others",
                "--exclude=.git",
                "--exclude-per-directory=.gitignore",
                *patterns,
            ],
            folder,
        )
    names = sorted(name for name in listed.split("\0") if name)
    return [Path(name) for name in names if (folder / name).is_file()]


def pack(folder: Path, exclude: Sequence[str], root: str = ROOT) -> bytes:
    """A zip of `travelling`, below `root`: the same files give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name in travelling(folder, exclude):
            entry = zipfile.ZipInfo((Path(root) / name).as_posix(), _EPOCH)
            executable = (folder / name).stat().st_mode & 0o100
            entry.external_attr = (0o755 if executable else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, (folder / name).read_bytes())
    return packed.getvalue()


def _git(argv: Sequence[str], folder: Path) -> str:
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, timeout=60.0)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {error}; git is needed here to pack it") from error
    if done.returncode != 0:
        raise UserError(f"{folder}: cannot be listed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="surrogateescape")
