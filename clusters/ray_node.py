"""Ray's processes on one node that may be shared with others: own ports, own files, and an end of these alone."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.errors import LimbeckError, last_line

_OBJECT_STORE_BYTES = 200 * 10**6
"""Ray carries only small answers: data goes through the store."""
_STARTED = "ray_current_cluster"
"""Where `ray start` writes the address when all its processes run."""
_RAY = (
    "from ray.scripts import scripts; scripts.get_ray_client_dependency_error = lambda: 'not wanted'; "
    "scripts.main()"
)
"""Ray's command line, but for its client server: nobody needs it, it listens on the network, and where it is slow to
start all of the node is ended. No option leaves it out."""
_SAID = "start.txt"
_LOOK_S = 0.5
_END_S = 10.0


@dataclass(frozen=True)
class RayNode:
    """Its processes."""

    start: "subprocess.Popen[bytes]"
    """`ray start --block`, which lives as long as they do."""
    files: Path
    """Ray's folder."""

    @property
    def alive(self) -> bool:
        """Whether none of them has ended."""
        return self.start.poll() is None

    def up(self, over: Callable[[], bool]) -> bool:
        """True once all have started; False where that is `over`, or one has ended, before."""
        while self.alive and not over():
            if (self.files / _STARTED).exists():
                return True
            time.sleep(_LOOK_S)
        return False

    @property
    def said(self) -> str:
        """What it said last."""
        return last_line((self.files / _SAID).read_text(errors="replace"))


@contextlib.contextmanager
def ray_node(
    options: Sequence[str], scratch: str, wait_s: float, over: Callable[[], bool]
) -> Iterator[RayNode]:
    """`ray start OPTIONS`, up unless that is `over`; it is ended with the context.

    Ray gives a node 30 s to start, in which a busy machine may not: then it is tried again, for `wait_s` seconds.
    LimbeckError where it does not start, or has ended within the context.
    """
    deadline = time.monotonic() + wait_s
    while True:
        with _started(options, scratch) as node:
            if node.up(over) or over():
                yield node
                if not node.alive:
                    raise LimbeckError(f"Ray has ended: {node.said}")
                return
            if time.monotonic() > deadline:
                raise LimbeckError(f"Ray does not start: {node.said}")


@contextlib.contextmanager
def _started(options: Sequence[str], scratch: str) -> Iterator[RayNode]:
    """Its files lie in a folder of their own in `scratch`."""
    with tempfile.TemporaryDirectory(prefix="limbeck-", dir=scratch, ignore_cleanup_errors=True) as files:
        own = (f"--temp-dir={files}", f"--object-store-memory={_OBJECT_STORE_BYTES}")
        start = [sys.executable, "-c", _RAY, "start", "--block", *options, *own]
        with (Path(files) / _SAID).open("wb") as out:
            process = subprocess.Popen(
                [*start, "--dashboard-agent-listen-port=0"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            yield RayNode(process, Path(files))
        finally:
            _end(process)


def free_port() -> int:
    """A port of this node that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def ip_of(interface: str) -> str:
    """This node's IPv4 address there; LimbeckError names the interfaces that it has."""
    found = psutil.net_if_addrs()
    for address in found.get(interface, []):
        if address.family == socket.AF_INET:
            return str(address.address)
    raise LimbeckError(f"interface {interface}: no IPv4 address; there are {', '.join(found)}")


def _end(ray: "subprocess.Popen[bytes]") -> None:
    """Asks first; what is left of its processes is killed."""
    family = psutil.Process(ray.pid).children(recursive=True) if ray.poll() is None else []
    ray.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        ray.wait(_END_S)
    ray.kill()
    ray.wait()
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(family, timeout=_END_S)
