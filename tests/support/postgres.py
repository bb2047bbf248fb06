"""A real PostgreSQL of one test's own, in a folder that nobody keeps; skipped where the machine has none."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

_DEBIAN = Path("/usr/lib/postgresql")
_PASSWORD = "not@a/secret"


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The URI of an empty database. Its server listens on the loopback alone."""
    initdb, server = _program("initdb"), _program("postgres")
    with tempfile.TemporaryDirectory(prefix="limbeck-pg-") as folder:
        data, word = Path(folder, "data"), Path(folder, "word")
        word.write_text(_PASSWORD)
        for path in (Path(folder), word):
            shutil.chown(path, *_owner())
        make = [initdb, "-D", data, "-U", "limbeck", "-A", "scram-sha-256", f"--pwfile={word}", "-E", "UTF8"]
        subprocess.run(
            [*_as_owner(), *make, "--no-sync"], check=True, capture_output=True, cwd="/", timeout=250
        )
        port = _free_port()
        run = [server, "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"]
        nowhere = subprocess.DEVNULL
        process = subprocess.Popen([*_as_owner(), *run], cwd="/", stdout=nowhere, stderr=nowhere)
        try:
            uri = f"postgresql://limbeck:not%40a%2Fsecret@127.0.0.1:{port}/postgres"
            _wait(process, uri)
            yield uri
        finally:
            process.send_signal(signal.SIGINT)  # ends what clients have open, too
            process.wait(120)


def _program(name: str) -> str:
    found = [str(path) for path in sorted(_DEBIAN.glob(f"*/bin/{name}"))] or [shutil.which(name)]
    if found[-1] is None:
        pytest.skip(f"no PostgreSQL here: neither {name} nor {_DEBIAN} is there")
    return found[-1]


def _owner() -> tuple[int, int]:
    """PostgreSQL does not run as root: then as the user that its package made."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user `postgres`")
    return user.pw_uid, user.pw_gid


def _as_owner() -> list[str]:
    user, group = _owner()
    return [] if os.getuid() != 0 else ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen, uri: str) -> None:
    deadline = time.monotonic() + 120
    while not _answers(uri):
        assert process.poll() is None, "PostgreSQL ended"
        assert time.monotonic() < deadline, "PostgreSQL does not answer"
        time.sleep(0.2)


def _answers(uri: str) -> bool:
    try:
        psycopg.connect(uri).close()
    except psycopg.OperationalError:
        return False
    return True
