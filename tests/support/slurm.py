"""A Slurm of a controller and two nodes on this machine. Each node has processes, a host name, a network and two
folders of its own, as on a machine of its own; all other files are shared. Needs root."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "unshare")
_APART = ("unshare", "--net", "--uts", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child")
_CONF = """\
ClusterName=test
SlurmctldHost=localhost({net}.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SchedulerParameters=sched_interval=1
NodeName=n1 NodeAddr={net}.11 NodeHostname=n1 CPUs=8 RealMemory=16000
NodeName=n2 NodeAddr={net}.12 NodeHostname=n2 CPUs=8 RealMemory=16000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""
_NODE = """\
hostname "$1"; mount -t tmpfs none "$2"/local; mount -t tmpfs none "$2"/scratch; ip link set lo up
until ip address add "$3"/24 dev "$4" 2> /dev/null; do sleep 0.1; done
ip link set "$4" up; ip route add default via "$5"
exec slurmd -D -N "$1" -f "$2"/slurm.conf
"""
_WAIT_S = 120


def missing() -> str | None:
    """Why there can be no such Slurm here."""
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if os.geteuid() != 0:
        return "needs root"
    if subprocess.run([*_APART, "true"], capture_output=True).returncode != 0:
        return "no namespaces of our own can be made here"
    return None


@dataclass(frozen=True)
class Slurm:
    """One that runs. Clients find it by `conf`, in the variable SLURM_CONF."""

    conf: Path
    local: Path
    """Each node has a file system of its own there, for what a person keeps on it."""
    scratch: Path
    """As `local`, for what jobs write while they run."""
    nodes: Sequence["subprocess.Popen[bytes]"]

    def left(self) -> list[str]:
        """Processes on nodes that are not Slurm's own, and what jobs wrote there."""
        found = []
        for node in self.nodes:
            [first] = psutil.Process(node.pid).children()
            for each in first.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, or one that has just ended
                    found.append(" ".join(each.cmdline()))
            found += [str(path) for path in Path(f"/proc/{first.pid}/root{self.scratch}").iterdir()]
        return found


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """With all its files in `folder`, whose path is short. Nothing of it is left at the end."""
    tag, conf = secrets.token_hex(2), folder / "slurm.conf"
    net = f"10.213.{int(tag[:2], 16)}"
    for name in ("state", "local", "scratch"):
        (folder / name).mkdir()
    conf.write_text(_CONF.format(net=net, port=_free_port(), folder=folder))
    with contextlib.ExitStack() as ends:
        ends.enter_context(_running(folder, "munged", *_munge(folder)))
        _ip("link", "add", f"lb{tag}", "type", "bridge")
        ends.callback(_ip, "link", "delete", f"lb{tag}")
        _ip("address", "add", f"{net}.1/24", "dev", f"lb{tag}")
        _ip("link", "set", f"lb{tag}", "up")
        nodes = [ends.enter_context(_node(folder, tag, net, number)) for number in (1, 2)]
        ends.enter_context(_running(folder, "slurmctld", "-D", "-f", str(conf)))
        _await_idle(conf)
        yield Slurm(conf, folder / "local", folder / "scratch", nodes)


def _munge(folder: Path) -> list[str]:
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    files = {"key-file": key, "socket": "munge.sock", "pid-file": "munge.pid", "log-file": "munge.log"}
    files["seed-file"] = "munge.seed"
    return ["--foreground", "--force", *(f"--{name}={folder / file}" for name, file in files.items())]


@contextlib.contextmanager
def _node(folder: Path, tag: str, net: str, number: int) -> Iterator["subprocess.Popen[bytes]"]:
    outside, inside = f"lo{tag}{number}", f"li{tag}{number}"
    _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
    _ip("link", "set", outside, "master", f"lb{tag}", "up")
    words = (f"n{number}", str(folder), f"{net}.1{number}", inside, f"{net}.1")
    with _running(folder, *_APART, "sh", "-c", _NODE, "sh", *words) as process:
        _until(lambda: not Path(f"/proc/{process.pid}/ns/net").samefile("/proc/self/ns/net"))
        _ip("link", "set", inside, "netns", str(process.pid))
        yield process


@contextlib.contextmanager
def _running(folder: Path, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder / "daemons.txt").open("ab") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        psutil.wait_procs(family, timeout=_WAIT_S)


def _await_idle(conf: Path) -> None:
    env = os.environ | {"SLURM_CONF": str(conf)}
    asked = ["sinfo", "--noheader", "--format=%T %D"]
    _until(lambda: subprocess.run(asked, env=env, capture_output=True, text=True).stdout == "idle 2\n")


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
