"""Processes, named beyond doubt, and what became of them: by this a dead driver is told from a silent one."""

import os
from pathlib import Path
from typing import Literal

import psutil
from pydantic.dataclasses import dataclass as record

_BOOT = Path("/proc/sys/kernel/random/boot_id")
Fate = Literal["alive", "gone", "rebooted", "unknown"]


@record(frozen=True)
class Owner:
    """A process, named beyond doubt: a process id alone may be used again."""

    host: str
    boot: str
    """The boot of its machine; empty where the system tells none."""
    processes: str
    """The set of processes that its id counts in; each container may have its own."""
    pid: int
    process_started: float
    """Clock ticks after the boot, or seconds since 1970 where the system tells only these."""

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> "Owner":
        """A process of this machine."""
        boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
        return cls(os.uname().nodename, boot, _processes(), pid, _started(pid) or 0.0)


def fate(owner: Owner) -> Fate:
    """What became of it, as seen from here; `unknown` where that cannot be seen from here."""
    here = Owner.here()
    if owner.host != here.host:
        return "unknown"
    if owner.boot != here.boot:
        return "rebooted"
    if owner.processes != here.processes:
        return "unknown"
    return "alive" if _runs(owner) else "gone"


def _processes() -> str:
    space = Path("/proc/self/ns/pid")
    return str(space.readlink()) if space.is_symlink() else ""


def _runs(owner: Owner) -> bool:
    started = _started(owner.pid)
    return _hidden(owner.pid) if started is None else started == owner.process_started


def _started(pid: int) -> float | None:
    """When a process started; None where there is none, or only what its parent has yet to take note of.

    psutil's time hangs on the system's clock, which may be set; ticks after the boot do not.
    """
    if not Path("/proc/self/stat").exists():
        return _started_elsewhere(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return None if fields[0] in "ZX" else float(fields[19])


def _started_elsewhere(pid: int) -> float | None:
    """On systems without /proc."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _hidden(pid: int) -> bool:
    """Whether there is such a process of another user, which the system does not let us look at."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False
