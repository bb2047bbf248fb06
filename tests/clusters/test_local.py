"""A local Ray: offers what there is, asks for a token, and is gone when the session ends."""

import os
import stat
import subprocess
import sys

import psutil
import pytest
from engine import gone

from clusters import local

SESSION = """
import os, psutil
from clusters import local
with local.session(local.offer()):
    import ray
    assert os.environ["RAY_AUTH_MODE"] == "token"
    node = ray.nodes()[0]
    print("answers of ours", flush=True)
    children = [child.pid for child in psutil.Process().children(recursive=True)]
import sys
sys.stdout.write(f"{node['NodeManagerAddress']} {ray.is_initialized()} {' '.join(map(str, children))}")
"""


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


@pytest.mark.slow
def test_a_session_starts_a_ray_and_ends_it():
    done = subprocess.run(
        [sys.executable, "-c", SESSION], capture_output=True, text=True, timeout=120, check=True
    )
    _, initialized, *children = done.stdout.split()
    assert "answers" not in done.stdout
    assert initialized == "False"
    assert children
    assert gone([int(pid) for pid in children], timeout=10)
