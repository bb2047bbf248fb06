"""Jobs on this machine: a process of our own that goes on when the terminal is closed, and starts its own Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

from clusters import local
from clusters import profile as base
from clusters.attached import ADDRESS
from clusters.launcher import Check, Order, Status, Submission
from clusters.supervisor import GRACE_S, OUT_OF_TIME, STOPPED, kill_tree, supervised
from clusters.tail import lines
from orchestrator.errors import last_line
from orchestrator.store import Owner, fate

_LOG, _OWNER, _ENDED = "log.txt", "process.json", "ended.json"
_LOOK_S = 0.2


class Profile(base.Profile):
    """A profile of kind `local`. The job has what this machine has, and its environment."""

    cannot: ClassVar[Mapping[str, str]] = {
        "exclude": "nothing travels, the job works in the folder itself",
        "env": "the job has the environment of this terminal",
        "mounts": "nothing is mounted",
        "resources": "the job has what this machine has",
    }
    python: str = sys.executable
    """The Python that runs it."""


def check(profile: Profile) -> Iterable[Check]:
    """What the machine offers, and whether that Python has Limbeck."""
    offer = local.offer()
    yield Check("machine", True, f"{offer.cpus:g} cpus, {offer.gpus:g} gpus, {offer.memory_gb:g} GB")
    try:
        done = subprocess.run(
            [profile.python, "-c", "import clusters.supervisor, orchestrator.cli"],
            capture_output=True, text=True, timeout=profile.wait_s,
        )  # fmt: skip
        ok, said = done.returncode == 0, last_line(done.stderr)
    except (OSError, subprocess.TimeoutExpired) as error:
        ok, said = False, str(error)
    yield Check("python", ok, profile.python if ok else f"{said}; name a Python that has limbeck by `python`")


def render(profile: Profile, order: Order) -> Submission:
    """The command that will run, under the supervisor's care."""
    care = ("--in", str(order.working_dir), "--ended", _ENDED)
    return Submission(
        {}, supervised(profile.python, order.argv, profile.retries, profile.time_limit_s, *care)
    )


def submit(profile: Profile, order: Order, submission: Submission, folder: Path) -> str:
    """Starts it in a session of its own. The handle is the job's folder."""
    env = {name: value for name, value in os.environ.items() if name != ADDRESS}
    with (folder / _LOG).open("xb") as log:
        process = subprocess.Popen(
            submission.command, cwd=folder, env=env | {"PYTHONUNBUFFERED": "1"}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    (folder / _OWNER).write_text(json.dumps(asdict(Owner.of(process.pid))))
    process.returncode = 0  # it is to outlive us: Python need not warn of that
    return str(folder)


def status(profile: Profile, handle: str) -> Status:
    """By the process, and by what the supervisor wrote down at the end."""
    folder = Path(handle)
    try:
        owner = _owner(folder)
        lives = fate(owner)
        code = json.loads((folder / _ENDED).read_text())["code"] if (folder / _ENDED).exists() else None
    except (OSError, ValueError, TypeError) as error:
        return Status("unknown", f"{folder} cannot be read: {error}")
    if code is not None:
        return _ended(code)
    if lives == "alive":
        return Status("running", f"process {owner.pid}")
    if lives == "unknown":
        return Status("unknown", f"it runs on {owner.host}, which cannot be seen from here")
    how = "the machine was restarted" if lives == "rebooted" else "its process was killed"
    return Status("failed", f"{how}; launch it again, and it goes on from what is stored")


def logs(profile: Profile, handle: str, follow: bool) -> Iterator[str]:
    """Lines of its output."""
    return lines(Path(handle) / _LOG, lambda: not follow or status(profile, handle).phase != "running")


def stop(profile: Profile, handle: str) -> None:
    """Ctrl-C to the job. What is left of it after a grace time is killed."""
    folder = Path(handle)
    owner = _owner(folder)
    if fate(owner) != "alive":
        return
    os.kill(owner.pid, signal.SIGINT)
    deadline = time.monotonic() + GRACE_S + 5.0
    while fate(owner) == "alive" and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    if fate(owner) == "alive":
        kill_tree(owner.pid)
        (folder / _ENDED).write_text(json.dumps({"code": STOPPED}))


def _owner(folder: Path) -> Owner:
    return Owner(**json.loads((folder / _OWNER).read_text()))


def _ended(code: int) -> Status:
    if code == 0:
        return Status("done")
    if code == STOPPED:
        return Status("stopped")
    if code == OUT_OF_TIME:
        return Status(
            "failed", "its time_limit_s was over; launch it again, and it goes on from what is stored"
        )
    return Status("failed", f"killed by signal {-code}" if code < 0 else f"exit code {code}")
