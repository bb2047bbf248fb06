"""MLflow's own web page over the store's runs: `mlflow server` as a child, on loopback only."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from orchestrator import guard
from orchestrator.errors import LimbeckError, UserError
from orchestrator.tracking import default_artifacts, one_line, prepare

_LOOPBACK = ("127.0.0.1", "localhost")
_START_S, _STOP_S = 90.0, 10.0
_KEPT = ("MLFLOW_S3_", "MLFLOW_GCS_", "MLFLOW_AZURE_")
"""Of MLflow's own variables only those that reach an artifact store are passed on: others could open the
server to the world."""


@contextlib.contextmanager
def serve(
    store_root: Path,
    tracking_uri: str,
    host: str = "127.0.0.1",
    port: int = 5000,
    artifact_root: Path | str | None = None,
) -> Iterator[str]:
    """Serves the runs at `tracking_uri`, a database, and yields the page's URL once it answers.

    Files that the driver wrote below `artifact_root` (default: in the store's folder) are served too, and
    what others log through this server goes there. Port 0 takes any that is free. The server and all its
    processes end with the context, and with this process, however it ends. Raises UserError for a host that
    is not loopback, a port that is taken and a URI that is a server's already, LimbeckError where the
    database or the server does not start; the server's own log is tracking/server.log in the store's folder.
    """
    if host not in _LOOPBACK:
        raise UserError(
            f"host {host}: MLflow's page has no authentication here, so it is served on {' or '.join(_LOOPBACK)} "
            f"only; from another machine use a tunnel: ssh -L {port}:127.0.0.1:{port} THIS_MACHINE"
        )
    if tracking_uri.startswith(("http://", "https://")):
        raise UserError(f"tracking {tracking_uri} is a server already: open it in a browser")
    port = _free_port(host, port)
    root = artifact_root or default_artifacts(store_root)
    _open_database(tracking_uri, root)
    log = store_root / "tracking" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    server = _start(tracking_uri, root, host, port, log)
    try:
        url = f"http://{host}:{port}"
        _wait_until_it_answers(server, url, log)
        yield url
    finally:
        _stop(server)


def _open_database(uri: str, root: Path | str) -> None:
    try:
        prepare(uri, root)
    except Exception as error:
        raise LimbeckError(f"MLflow's database cannot be used: {one_line(error)}") from error


def _start(uri: str, root: Path | str, host: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    hosts = ",".join(f"{name},{name}:*" for name in _LOOPBACK)
    destination = root.resolve().as_uri() if isinstance(root, Path) else root
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        host,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--serve-artifacts", "--artifacts-destination", destination, "--allowed-hosts", hosts]
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-I", guard.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(uri),
            start_new_session=True,
        )


def _environment(uri: str) -> dict[str, str]:
    """The database's URI goes by environment, since it may hold a password."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_") or k.startswith(_KEPT)}
    return kept | {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "PYTHONSAFEPATH": "1",
    }


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Lets go of the guard, which ends the group; kills the group where the guard does not."""
    assert server.stdin is not None
    server.stdin.close()
    try:
        server.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_until_it_answers(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not _answers(url):
        if server.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
            how = "ended" if server.poll() is not None else f"did not answer within {_START_S:.0f} s"
            raise LimbeckError(f"MLflow's server at {url} {how}; it last said: {said[0]}; its log is {log}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_port(host: str, port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            if port == 0:
                raise
            free = _free_port(host, 0)
            raise UserError(f"port {port} on {host} cannot be had ({error}); port {free} is free") from error
        return int(probe.getsockname()[1])
