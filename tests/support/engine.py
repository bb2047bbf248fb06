"""Drives the real command line on real files: what a person would type, with toy tasks that misbehave."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from warm import kill_family, nursery

SUPPORT = Path(__file__).parent
WALKS = """\
name: walks
stages:
  walk: {task: toy_walk, walks: 4, steps: 6, folder: FOLDER}
  total: {task: toy_total, walks: "${walk}"}
"""


@dataclass
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Bench:
    """A folder with one experiment and one store; `marks` counts what the toy task leaves behind."""

    def __init__(self, folder: Path, text: str = WALKS) -> None:
        self.folder, self.marks_folder, self.store = folder, folder / "marks", folder / "store"
        self.marks_folder.mkdir(parents=True)
        self.experiment = folder / "walks.yaml"
        self.experiment.write_text(text.replace("FOLDER", str(self.marks_folder)))

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(SUPPORT), "LIMBECK_STORE": str(self.store)}

    def start(self, *argv: str) -> subprocess.Popen:
        """Starts a command in its own session, so that a kill hits it alone."""
        command = [sys.executable, "-m", "orchestrator", *argv]
        return subprocess.Popen(
            command, env=self.env, cwd=self.folder, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def limbeck(self, *argv: str, code: int = 0, timeout: float = 280) -> Done:
        """Runs a command to its end and checks its exit code; nothing of it is left behind."""
        found, out, err = nursery().run(argv, self.env, self.folder, timeout)
        assert found == code, f"exit code {found}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return Done(found, out, err)

    def run(self, *overrides: str, code: int = 0) -> Any:
        """`limbeck run --json`: the object that it answers with."""
        return self.limbeck("run", str(self.experiment), *overrides, "--json", code=code).json

    def marks(self, what: str, walk: int | str = "*") -> int:
        return len(list(self.marks_folder.glob(f"{what}-{walk}-*")))

    def wait_for_marks(self, what: str, count: int, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while self.marks(what) < count:
            assert time.monotonic() < deadline, f"no {count} marks {what!r} within {timeout} s"
            time.sleep(0.05)


def digests(answer: Any) -> dict[str, str]:
    """Stage to the digest of what it made."""
    return {name: stage["digest"] for name, stage in answer["stages"].items()}


def commits(bench: Bench) -> dict[str, tuple[int, int]]:
    """Records of shards and artifacts, each with what tells it from one written later."""
    found = [path for kind in ("shards", "artifacts") for path in (bench.store / kind).rglob("*.json")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def end(process: subprocess.Popen) -> None:
    """Ends a command and all that it started, by process id, and closes its pipes."""
    if process.poll() is None:
        kill_family(process.pid)
        process.wait(timeout=30)
    for pipe in (process.stdout, process.stderr):
        pipe.close()


def working_children(process: subprocess.Popen) -> list[int]:
    """Process ids of all that a command started, but for two agents of Ray's that do no work of ours and
    that take a minute to see that their raylet was killed."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child.pid for child in children if not _is_agent(child)]


def until(true: Callable[[], Any], seconds: float = 600, told: Callable[[], Any] = lambda: "") -> None:
    """Waits for it; fails with what is `told` where it does not come within the time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)


def gone(pids: list[int], timeout: float = 30) -> bool:
    """Whether none of these processes is left within the time."""
    deadline = time.monotonic() + timeout
    while any(map(runs, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def progress(bench: Bench) -> list[Path]:
    """What shards under way have saved."""
    return list(bench.store.glob("work/*/*/progress"))


def kill_when(bench: Bench, argv: list[str], happened: Callable[[], Any]) -> None:
    """Runs a command until something has happened in its store, and kills its driver there."""
    process = bench.start(*argv)
    try:
        deadline = time.monotonic() + 120
        while not happened():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = working_children(process)
        process.kill()
        process.wait(timeout=30)
    finally:
        end(process)
    assert gone(children)


def kill_server() -> None:
    """SIGKILL to all processes of the MLflow server that this process started: its sessions' groups."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # one that has ended between the two lines
            if "mlflow" in child.cmdline():
                os.killpg(child.pid, signal.SIGKILL)


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only what its parent has yet to take note of."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_agent(process: psutil.Process) -> bool:
    """A process may end between being listed and being asked; then it is none."""
    try:
        return "agent" in " ".join([process.name(), *process.cmdline()]).lower()
    except psutil.NoSuchProcess:
        return False
