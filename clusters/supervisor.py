"""Keeps one command: starts it again after a failure, ends it in time, and passes a stop on.

    PYTHON -m clusters.supervisor [--retries N] [--time-limit S] [--in FOLDER] [--ended FILE]
        [--stop-is-heard] -- COMMAND ...

The command works in FOLDER. It hears a stop, or the end of its time, as Ctrl-C; what is left of it and its children
after a grace time is killed. With --stop-is-heard whoever stops us tells the command too: a second Ctrl-C would end it
at once. The exit code is the command's, 130 after a stop, 124 after the time limit. FILE gets
how it ended, as JSON.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

GRACE_S = 30.0
"""A run that was asked to stop ends its workers after 20 s at most."""
STOPPED, OUT_OF_TIME = 130, 124
_HOPELESS = (0, 2, 3, STOPPED)
"""Exit codes after which the same command would end in the same way: done, the user's mistake, infeasible."""
_LOOK_S = 0.1


def supervised(
    python: str, argv: Sequence[str], retries: int, time_limit_s: float | None, *options: str
) -> tuple[str, ...]:
    """The command line that runs `limbeck ARGV` under care; `options` are further ones of the above."""
    limit = () if time_limit_s is None else ("--time-limit", f"{time_limit_s:g}")
    care = ("--retries", str(retries), *limit, *options)
    return (python, "-m", "clusters.supervisor", *care, "--", python, "-m", "orchestrator", *argv)


class Supervisor:
    """One command under care."""

    def __init__(
        self,
        command: Sequence[str],
        retries: int = 0,
        time_limit_s: float | None = None,
        folder: Path | None = None,
        stop_is_heard: bool = False,
    ) -> None:
        self._command, self._retries, self._folder = tuple(command), retries, folder
        self._stop_is_heard = stop_is_heard
        self._deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self._stop = False

    def stop(self, *_: Any) -> None:
        """May be called from a signal handler."""
        self._stop = True

    def expire(self, *_: Any) -> None:
        """The time is over. May be called from a signal handler."""
        self._deadline = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether a stop was asked for, or the time is over."""
        return self._stop or self._late

    def run(self) -> int:
        """The exit code."""
        for attempt in range(1 + self._retries):
            code = self._once()
            if code in (*_HOPELESS, OUT_OF_TIME) or attempt == self._retries:
                break
            _say(
                f"attempt {attempt + 1} ended with exit code {code}; the same command goes on from what is stored"
            )
        return code

    def _once(self) -> int:
        if self.over:
            return STOPPED if self._stop else OUT_OF_TIME
        child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, cwd=self._folder)
        while child.poll() is None and not self.over:
            time.sleep(_LOOK_S)
        if child.poll() is None:
            _say("stopping" if self._stop else "the time limit is reached")
            _end(child, tell=not (self._stop and self._stop_is_heard))
            return STOPPED if self._stop else OUT_OF_TIME
        return STOPPED if self._stop else child.returncode

    @property
    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


def _end(child: "subprocess.Popen[bytes]", tell: bool) -> None:
    if tell:
        child.send_signal(signal.SIGINT)
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        _say(f"still there after {GRACE_S:g} s: killed")
        kill_tree(child.pid)
        child.wait()


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and to all that descend from it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def _say(text: str) -> None:
    sys.stderr.write(f"limbeck: job: {text}\n")
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser("clusters.supervisor")
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--time-limit", type=float)
    parser.add_argument("--in", dest="folder", type=Path)
    parser.add_argument("--ended", type=Path)
    parser.add_argument("--stop-is-heard", action="store_true")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(argv)
    supervisor = Supervisor(given.command, given.retries, given.time_limit, given.folder, given.stop_is_heard)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, supervisor.stop)
    code = supervisor.run()
    if given.ended:
        draft = given.ended.with_suffix(".draft")
        draft.write_text(json.dumps({"code": code}))
        draft.replace(given.ended)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
