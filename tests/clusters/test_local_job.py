"""Jobs of kind local: what is run, what becomes of it, and that it is told right."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from engine import gone

from clusters import local_job
from clusters.launcher import Order, Submission
from clusters.local_job import Profile

ORDER = Order("walks-1", ("run", "walks.yaml", "walk.steps=3", "--store", "/store"), Path("/work dir"), {})


def test_what_is_submitted():
    profile = Profile(kind="local", python="/py", retries=2, time_limit_s=90.5)
    assert local_job.render(profile, ORDER) == Submission(
        {},
        (
            "/py", "-m", "clusters.supervisor", "--retries", "2", "--time-limit", "90.5", "--in", "/work dir",
            "--ended", "ended.json", "--", "/py", "-m", "orchestrator", *ORDER.argv,
        ),
    )  # fmt: skip


@pytest.mark.parametrize("field", [{"env": ("A",)}, {"resources": {"nodes": 2}}, {"exclude": ("data",)}])
def test_what_it_cannot_honour_is_refused(field):
    with pytest.raises(ValueError, match="not for this kind"):
        Profile(kind="local", **field)


@pytest.fixture
def started(tmp_path):
    """Submits some Python instead of a run, under the same care."""
    handles = []

    def start(code):
        folder = tmp_path / f"job{len(handles)}"
        folder.mkdir()
        order = Order(folder.name, (), tmp_path, {})
        command = local_job.render(Profile(kind="local"), order).command
        command = (*command[: command.index("--") + 1], sys.executable, "-c", code)
        handles.append(local_job.submit(Profile(kind="local"), order, Submission({}, command), folder))
        return handles[-1]

    yield start
    for handle in handles:
        local_job.stop(Profile(kind="local"), handle)
        assert gone([local_job._owner(Path(handle)).pid])


def ended(handle):
    deadline = time.monotonic() + 60
    while (found := local_job.status(Profile(kind="local"), handle)).phase == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found.phase, found.message


def test_how_it_ends_is_told(started):
    codes = {
        "pass": ("done", ""),
        "raise SystemExit(3)": ("failed", "exit code 3"),
        "import os; os.kill(os.getpid(), 9)": ("failed", "killed by signal 9"),
    }
    handles = [started(code) for code in codes]
    assert [ended(handle) for handle in handles] == list(codes.values())


def test_logs_follow_to_the_end(started):
    handle = started(
        "import time\nfor i in range(3): print('line', i); time.sleep(0.3)\nprint('end', end='')"
    )
    lines = list(local_job.logs(Profile(kind="local"), handle, follow=True))
    assert lines == ["line 0", "line 1", "line 2", "end"]
    assert list(local_job.logs(Profile(kind="local"), handle, follow=False)) == lines


def test_a_stop_is_heard_as_ctrl_c(started):
    handle = started(
        "import time\nprint('up')\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('heard')"
    )
    lines = local_job.logs(Profile(kind="local"), handle, follow=True)
    assert next(lines) == "up"
    local_job.stop(Profile(kind="local"), handle)
    assert ended(handle) == ("stopped", "")
    assert "heard" in list(lines)
    local_job.stop(Profile(kind="local"), handle)  # no error where it has ended


def test_a_killed_job_has_failed_and_one_that_cannot_be_read_is_unknown(started):
    handle = started("import time; time.sleep(60)")
    owner = local_job._owner(Path(handle))
    assert local_job.status(Profile(kind="local"), handle).phase == "running"
    os.killpg(owner.pid, signal.SIGKILL)
    assert gone([owner.pid])
    assert ended(handle)[0] == "failed"
    assert "its process was killed" in ended(handle)[1]
    (Path(handle) / "process.json").rename(Path(handle) / "elsewhere.json")
    assert local_job.status(Profile(kind="local"), handle).phase == "unknown"
    (Path(handle) / "elsewhere.json").rename(Path(handle) / "process.json")


def test_a_job_has_a_session_of_its_own(started):
    handle = started("import os, time; print(os.getsid(0)); time.sleep(60)")
    session = int(next(local_job.logs(Profile(kind="local"), handle, follow=True)))
    assert session == local_job._owner(Path(handle)).pid != os.getsid(0)


def test_the_machine_and_its_python_are_checked():
    machine, python = local_job.check(Profile(kind="local"))
    assert machine.ok
    assert python.ok
    _, python = local_job.check(Profile(kind="local", python="/nowhere/python"))
    assert not python.ok
    assert "name a Python that has limbeck by `python`" in python.found
