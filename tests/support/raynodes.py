"""Ray on several nodes of this machine that are as good as machines: each has an address, a process space, a name of
its host and Ray's files of its own, by Linux namespaces. Needs root; without it `reason()` says why not.

A node is killed with all its processes at once, and its network can be cut.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

SUPPORT = Path(__file__).parent
PORT, DASHBOARD = 6379, 8265
_RAY_FILES = Path("/tmp/ray")
_STARTED, _UP_S, _TRIES = "Ray runtime started.", 240.0, 4
_TIED = ("setpriv", "--pdeathsig", "KILL")
"""Nodes end with us, also where we are killed."""
_SCRIPT = """
set -e
hostname {name}
mount -t tmpfs tmpfs /dev/shm
mount --bind {files} {ray_files}
mount --bind {hosts} /etc/hosts
{more}
exec {ray} "$@"
"""


@cache
def reason() -> str | None:
    """Why such nodes cannot be had here; None: they can."""
    if missing := [
        tool for tool in ("ip", "unshare", "nsenter", "setpriv", "mount") if shutil.which(tool) is None
    ]:
        return f"needs {', '.join(missing)} for nodes with a network of their own"
    name = f"lb{secrets.token_hex(3)}"
    try:
        _sh("ip", "netns", "add", name)
        _sh("ip", "link", "add", name, "type", "bridge")
        _sh(
            "ip",
            "netns",
            "exec",
            name,
            "unshare",
            "--mount",
            "--pid",
            "--uts",
            "--fork",
            "--mount-proc",
            "true",
        )
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    finally:
        for words in (("netns", "del", name), ("link", "del", name)):
            subprocess.run(["ip", *words], capture_output=True)
    return None


@dataclass
class Node:
    """One of them, under way."""

    name: str
    address: str
    process: "subprocess.Popen[str]"
    log: Path

    @property
    def pids(self) -> list[int]:
        """All processes in its network, by the ids that they have outside."""
        return [int(pid) for pid in _sh("ip", "netns", "pids", self.name).split()]

    def cut(self) -> None:
        """Takes its network away."""
        _sh("ip", "link", "set", f"{self.name}h", "down")

    def mend(self) -> None:
        _sh("ip", "link", "set", f"{self.name}h", "up")

    def run(self, *argv: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        """A command on it, beside its Ray."""
        [first] = psutil.Process(self.process.pid).children()
        inside = ("nsenter", "--target", str(first.pid), "--net", "--mount", "--pid", "--uts")
        return subprocess.run([*inside, *argv], env=env, capture_output=True, text=True, timeout=280)

    def kill(self) -> None:
        """SIGKILL to all its processes: the first of its process space takes the others with it."""
        self.process.kill()
        self.process.wait(30)
        deadline = time.monotonic() + 30
        while self.pids:
            assert time.monotonic() < deadline, f"{self.name}: {self.pids} are left"
            time.sleep(0.05)


@dataclass
class RayNodes:
    """A network with nodes in it. A context: at its end nothing is left of either."""

    folder: Path
    """For their logs, and Ray's files of each, which it finds in /tmp/ray."""
    nodes: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id = f"lb{secrets.token_hex(3)}"
        self.net = f"10.{100 + secrets.randbelow(150)}.{secrets.randbelow(256)}"
        self.token_file = self.folder / "token"
        self.folder.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.token_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as out:
            out.write(secrets.token_hex(32))
        self.hosts = self.folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")

    def __enter__(self) -> "RayNodes":
        _sh("ip", "link", "add", self.id, "type", "bridge")
        _sh("ip", "addr", "add", f"{self.net}.1/24", "dev", self.id)
        _sh("ip", "link", "set", self.id, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.nodes):
            self.remove(name)
        for line in _sh("ip", "netns", "list").splitlines():
            if line.startswith(self.id):  # of a node that was cut short while it was made
                _sh("ip", "netns", "del", line.split()[0])
        _sh("ip", "link", "del", self.id)
        deadline = time.monotonic() + 30
        while self.id in (left := _sh("ip", "link") + _sh("ip", "netns", "list")):
            assert time.monotonic() < deadline, left  # the kernel takes links down in its own time
            time.sleep(0.2)

    @property
    def url(self) -> str:
        """Of the head's dashboard."""
        return f"http://{self.net}.10:{DASHBOARD}"

    def head(self, cpus: int = 0) -> Node:
        """Starts the head, also where an earlier one was killed, and waits until it answers."""
        ports = (f"--port={PORT}", f"--dashboard-port={DASHBOARD}", f"--dashboard-host={self.net}.10")
        self._start({"head": 10}, cpus, {}, "", "--head", *ports)
        node = self.nodes["head"]
        deadline = time.monotonic() + _UP_S
        while self.asked() != 401:
            assert time.monotonic() < deadline, node.log.read_text()
            time.sleep(0.2)
        return node

    def add(
        self,
        *numbers: int,
        cpus: int = 1,
        gpus: int = 0,
        env: dict[str, str] | None = None,
        hides: Path | None = None,
    ) -> None:
        """Starts worker nodes beside each other and waits until they have joined; `hides` is a folder that is empty
        there. The GPUs are said to be there, and no more."""
        more = f"mount -t tmpfs tmpfs {hides}" if hides else ""
        self._start(
            {f"n{number}": 10 + number for number in numbers}, cpus, env or {}, more,
            f"--address={self.net}.10:{PORT}", f"--num-gpus={gpus}",
        )  # fmt: skip

    def remove(self, name: str) -> None:
        """Kills a node and takes its network away."""
        node = self.nodes.pop(name)
        node.kill()
        _sh("ip", "link", "del", f"{node.name}h")  # at once; with its network the kernel would take its time
        _sh("ip", "netns", "del", node.name)

    def asked(self, path: str = "/api/version", token: str | None = None) -> int:
        """The status of an answer of the dashboard's; 0: none."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, headers=headers), timeout=5
            ) as got:
                return int(got.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0

    def _start(self, hosts: dict[str, int], cpus: int, env: dict[str, str], more: str, *argv: str) -> None:
        """Ray gives up a node that is not there after 30 s: on a busy machine it is begun again."""
        for _ in range(_TRIES):
            begun = [self._begun(role, host, cpus, env, more, *argv) for role, host in hosts.items()]
            ended = [role for role, node in zip(hosts, begun, strict=True) if not _is_up(node)]
            if not ended:
                return
            hosts = {role: hosts[role] for role in ended}
            said = "".join(self.nodes[role].log.read_text() for role in ended)
            for role in ended:
                self.remove(role)
        raise AssertionError(said)

    def _begun(self, role: str, host: int, cpus: int, env: dict[str, str], more: str, *argv: str) -> Node:
        name, address = f"{self.id}{role}", f"{self.net}.{host}"
        self._connect(name, address)
        if f" {role}\n" not in self.hosts.read_text():
            self.hosts.write_text(f"{self.hosts.read_text()}{address} {role}\n")
        files = self.folder / "files" / f"{role}-{time.time_ns():x}"
        files.mkdir(parents=True)
        _RAY_FILES.mkdir(exist_ok=True)
        ray = f"{sys.executable} -m ray.scripts.scripts start"
        script = _SCRIPT.format(
            name=role, files=files, ray_files=_RAY_FILES, hosts=self.hosts, more=more, ray=ray
        )
        alone = ("unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc")
        command = [*_TIED, "ip", "netns", "exec", name, *alone]
        options = (
            "--block", "--disable-usage-stats", f"--node-name={role}", f"--node-ip-address={address}",
            f"--num-cpus={cpus}", "--memory=2000000000", "--object-store-memory=80000000",
        )  # fmt: skip
        log = self.folder / f"{role}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [*command, "sh", "-c", script, "ray", *argv, *options], env=self.env | env,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, text=True, cwd="/",
            )  # fmt: skip
        node = self.nodes[role] = Node(name, address, process, log)
        return node

    def _connect(self, name: str, address: str) -> None:
        _sh("ip", "netns", "add", name)
        _sh("ip", "link", "add", f"{name}h", "type", "veth", "peer", "name", f"{name}n")
        _sh("ip", "link", "set", f"{name}n", "netns", name)
        _sh("ip", "link", "set", f"{name}h", "master", self.id, "up")
        inside = ("ip", "-n", name)
        _sh(*inside, "addr", "add", f"{address}/24", "dev", f"{name}n")
        for device in ("lo", f"{name}n"):
            _sh(*inside, "link", "set", device, "up")

    @property
    def env(self) -> dict[str, str]:
        """Little: what a machine that was set up for limbeck would have."""
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(SUPPORT), "LIMBECK_CACHE": os.environ["LIMBECK_CACHE"],
            "RAY_worker_register_timeout_seconds": "240",  # a busy machine is no failure
            "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "5000",
            "RAY_health_check_failure_threshold": "4",  # Ray gives up a silent node in 24 s, else in 65 s
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file),
        }  # fmt: skip


def _is_up(node: Node) -> bool:
    """Whether its Ray has come up; False where it has ended instead."""
    deadline = time.monotonic() + _UP_S
    while _STARTED not in node.log.read_text():
        if node.process.poll() is not None:
            return False
        assert time.monotonic() < deadline, node.log.read_text()
        time.sleep(0.2)
    return True


def _sh(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout
