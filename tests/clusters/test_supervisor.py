"""A command under care: started again, ended in time, stopped in order, killed where it does not hear."""

import json
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from engine import gone

from clusters import supervisor
from clusters.supervisor import OUT_OF_TIME, STOPPED, Supervisor, main


def python(code):
    return [sys.executable, "-c", code]


@pytest.fixture
def tries(tmp_path):
    """A command that counts its starts and ends with the exit codes that it is given, one after another."""
    count = tmp_path / "count"

    def command(*codes):
        return python(
            f"import pathlib, sys; count = pathlib.Path({str(count)!r}); before = count.read_text() if count.exists() "
            f"else ''; count.write_text(before + '.'); sys.exit({list(codes)!r}[len(before)])"
        )

    command.count = lambda: len(count.read_text())
    return command


@pytest.mark.parametrize(
    ("codes", "retries", "code", "starts"),
    [
        ((0,), 3, 0, 1),
        ((1, 0), 3, 0, 2),
        ((1, 1, 1), 2, 1, 3),
        ((2,), 3, 2, 1),
        ((3,), 3, 3, 1),
        ((1,), 0, 1, 1),
    ],
)
def test_what_may_be_cured_is_tried_again(tries, codes, retries, code, starts):
    assert Supervisor(tries(*codes), retries).run() == code
    assert tries.count() == starts


def test_a_killed_command_is_started_again(tmp_path):
    mark = tmp_path / "mark"
    code = f"import os, pathlib; mark = pathlib.Path({str(mark)!r}); new = not mark.exists(); mark.touch()\n"
    assert Supervisor(python(code + "if new: os.kill(os.getpid(), 9)"), 1).run() == 0


def test_the_time_limit_ends_it_for_good():
    assert Supervisor(python("import time; time.sleep(60)"), retries=5, time_limit_s=0.5).run() == OUT_OF_TIME


def test_its_time_can_be_declared_over():
    care = Supervisor(python("import time; time.sleep(60)"), retries=5)
    assert not care.over
    threading.Timer(0.5, care.expire).start()
    assert care.run() == OUT_OF_TIME
    assert care.over
    care.stop()
    assert care.run() == STOPPED  # it is not started any more


def test_one_that_does_not_hear_is_killed_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "GRACE_S", 0.5)
    code = (
        "import pathlib, signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid)); time.sleep(60)"
    )
    care = Supervisor(python(code))
    threading.Thread(target=lambda: (wait_for(tmp_path / "pid"), care.stop()), daemon=True).start()
    assert care.run() == STOPPED
    assert gone([int((tmp_path / "pid").read_text())])


def test_a_stop_that_the_command_hears_by_itself_is_not_told_again(tmp_path):
    """A second Ctrl-C would end a run at once."""
    up, whole = tmp_path / "up", tmp_path / "whole"
    code = f"import pathlib, time; pathlib.Path({str(up)!r}).write_text('.'); time.sleep(1.5); "
    care = Supervisor(python(code + f"pathlib.Path({str(whole)!r}).touch()"), stop_is_heard=True)
    threading.Thread(target=lambda: (wait_for(up), care.stop()), daemon=True).start()
    assert care.run() == STOPPED
    assert whole.exists()


def wait_for(path):
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_signal_is_passed_on_and_the_end_written_down(tmp_path):
    ready, ended = tmp_path / "ready", tmp_path / "ended.json"
    code = "import pathlib, time; pathlib.Path('ready').write_text('.'); time.sleep(60)"
    command = [sys.executable, "-m", "clusters.supervisor", "--in", str(tmp_path), "--ended", str(ended)]
    process = subprocess.Popen([*command, "--", *python(code)], stderr=subprocess.DEVNULL)
    try:
        wait_for(ready)
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == STOPPED
    finally:
        process.kill()
        process.wait()
    assert json.loads(ended.read_text()) == {"code": STOPPED}
    assert gone(children)


def test_options_of_the_command_are_its_own():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert (
            main(["--retries", "1", "--", *python("import sys; sys.exit(len(sys.argv))"), "--ended", "x"])
            == 3
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
