"""Commands that begin warm: forked from a process that has imported what takes longest, about four seconds of a core.

What is forked goes on as the command would: its own session, folder, environment, files, exit code. Tests of how a
command begins, or is killed, start it cold.
"""

import atexit
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

HEAVY = (
    "torch", "pandas", "sklearn.utils", "matplotlib.figure", "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
)  # fmt: skip
"""None starts a Python thread, which a fork would lose. Not ray: it reads its environment when it is imported."""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "CRITICAL"}
"""What Limbeck sets before it imports MLflow."""


class Nursery:
    """The process that others are forked from, one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=os.environ | QUIET, text=True, stdin=pipe, stdout=pipe)
        atexit.register(self._close)

    def run(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, timeout: float
    ) -> tuple[int, str, str]:
        """Runs `limbeck ARGV` to its end; after `timeout` seconds it is killed. Exit code, output, errors."""
        with TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            request = {
                "argv": list(argv),
                "env": dict(env),
                "cwd": str(cwd),
                "out": str(out),
                "err": str(err),
            }
            print(json.dumps(request), file=self._process.stdin, flush=True)
            code = self._wait(int(self._process.stdout.readline()), timeout)
            return code, out.read_text(), err.read_text()

    def _wait(self, pid: int, timeout: float) -> int:
        alarm = threading.Timer(timeout, kill_family, [pid])
        alarm.start()
        try:
            return int(self._process.stdout.readline())
        except BaseException:  # the test's own deadline, or Ctrl-C
            kill_family(pid)
            self._process.stdout.readline()
            raise
        finally:
            alarm.cancel()

    def _close(self) -> None:
        self._process.kill()
        self._process.communicate()


@cache
def nursery() -> Nursery:
    """That of this test process, from its first use on."""
    return Nursery()


def kill_family(pid: int) -> None:
    """Ends a process and all that it started, by process id."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for one in [*parent.children(recursive=True), parent]:
            with suppress(psutil.NoSuchProcess):
                one.kill()


def serve() -> None:
    """Forks a command for each line of standard input; answers with its process id, then with its exit code."""
    for name in HEAVY:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            become(**json.loads(line))
            break
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()


def become(argv: Sequence[str], env: Mapping[str, str], cwd: str, out: str, err: str) -> None:
    """Makes this process the one that a shell would have started, and runs the command in it."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate((os.devnull, out, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), number)
    sys.argv = ["limbeck", *argv]
    sys.path[0] = cwd
    sys.path[1:1] = env.get("PYTHONPATH", "").split(os.pathsep)
    from orchestrator.cli import main

    main()


if __name__ == "__main__":
    serve()
