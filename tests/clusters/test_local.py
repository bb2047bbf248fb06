"""A local Ray: offers what there is, asks for a token, and is gone when the session ends."""

import os
import stat
import subprocess
import sys
import time

import ports
import psutil
import pytest
from engine import end, gone

from clusters import local

SESSION = """
import os, sys
from clusters import local
with local.session(local.offer()):
    import ray
    assert os.environ["RAY_AUTH_MODE"] == "token"
    print("answers of ours", flush=True)
    ray.get(ray.remote(lambda: 0).remote())
    sys.stderr.write("up\\n")
    sys.stdin.readline()
sys.stdout.write(f"still {ray.is_initialized()}")
"""
SETTLED_S = 5


def test_an_offer_is_what_this_machine_has():
    offer = local.offer(disk_bytes=5 * 10**9)
    assert 1 <= offer.cpus <= os.cpu_count()
    assert 0 < offer.memory_gb < psutil.virtual_memory().total / 1e9
    assert offer.disk_gb == 5


def test_the_token_is_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "deep" / "token"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    local._use_token()
    path = tmp_path / "deep" / "token"
    token = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) == 64
    local._use_token()
    assert path.read_text() == token
    assert [file.name for file in path.parent.iterdir()] == ["token"]


@pytest.fixture
def session():
    """One of a process of its own, with a worker; what it waits for to end it is a line."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION], text=True, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        assert "up\n" in process.stderr
        yield process
    finally:
        end(process)
        process.stdin.close()


@pytest.mark.slow
def test_a_session_is_for_who_has_the_token_and_leaves_nothing(session):
    """Every port is on loopback, and refuses everybody else."""
    said = {port: ports.asked(port) for port in settled(session.pid)}
    assert [port for port in said if not port.on_loopback] == []
    assert {port: answer.given for port, answer in said.items() if answer.given} == {}
    assert [port for port, answer in said.items() if not answer.refused] == []
    refused = set().union(*(answer.refused for answer in said.values()))
    assert {
        "/ray.rpc.CoreWorkerService/PushTask",
        "/ray.rpc.NodeManagerService/RequestWorkerLease",
    } <= refused
    children = [child.pid for child in psutil.Process(session.pid).children(recursive=True)]
    out, _ = session.communicate("\n", timeout=120)
    assert out == "still False"
    assert children
    assert gone(children, timeout=10)


def settled(pid):
    """All ports, when none has come for a while: Ray goes on starting after it is up."""
    deadline, since, known = time.monotonic() + 120, time.monotonic(), set()
    while time.monotonic() < since + SETTLED_S:
        assert time.monotonic() < deadline
        found = set(ports.listening(pid))
        if found - known:
            known, since = known | found, time.monotonic()
        time.sleep(0.5)
    return found
