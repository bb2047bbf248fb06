"""A Ray on this machine: what it offers, started on loopback with token authentication, and ended with us."""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import psutil

from clusters.private import write_private
from orchestrator.errors import LimbeckError, last_line
from orchestrator.feasibility import GB, Offer

_OBJECT_STORE_BYTES = 200 * 10**6
"""Ray carries only small answers: data goes through the store."""
KEEP_FREED = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""For workers' glibc: a large block that is freed serves the next step of a training as it is. Else it goes back
to the system after every operation, and is zeroed anew for the next."""
_NO_PORT = "-1"
NO_METRICS = {
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": _NO_PORT,
    "DASHBOARD_METRIC_PORT": _NO_PORT,
}
"""Ray's own metrics, which nobody here reads and which it would tell without the token, are off. Two of its processes
know no switch for that: they go on where there is no such port."""
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""What Ray does on a Mac: its node is 127.0.0.1. Elsewhere it takes that address, also where it is named to
`ray.init`, for the one of the network, and listens on all interfaces."""


def offer(disk_bytes: int | None = None) -> Offer:
    """What this machine has to give: cores we may run on, GPUs, four fifths of the memory that is free."""
    memory = psutil.virtual_memory().available * 0.8
    cards = _gpus()
    return Offer(
        where="this machine",
        cpus=float(len(os.sched_getaffinity(0))),
        gpus=float(len(cards)),
        memory_gb=round(memory / GB, 2),
        disk_gb=None if disk_bytes is None else disk_bytes / GB,
        gpu_memory_gb=min(cards, default=None),
    )


@contextlib.contextmanager
def session(offered: Offer) -> Iterator[None]:
    """A Ray with just these resources while the context lasts."""
    _use_token()
    for name, value in {"RAY_DEDUP_LOGS": "0", **KEEP_FREED, **NO_METRICS, **_LOOPBACK}.items():
        os.environ.setdefault(name, value)
    import ray  # after these: Ray reads its settings when it is imported

    try:
        ray.init(
            address="local",
            num_cpus=int(offered.cpus),
            num_gpus=int(offered.gpus),
            _memory=int(offered.memory_gb * GB),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            configure_logging=False,
            namespace="limbeck",
        )
    except Exception as error:  # a bare one where Ray is not up in 30 s
        raise LimbeckError(
            f"Ray does not start on this machine: {last_line(str(error))}; see `limbeck doctor`, and whether the "
            "machine is overloaded"
        ) from error
    with until_shut_down():
        yield


@contextlib.contextmanager
def until_shut_down() -> Iterator[None]:
    """Leaves Ray at the end. It prints what the engine says in its own words, and standard output is for answers."""
    import ray

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield
        finally:
            ray.shutdown()


def _use_token() -> None:
    """Ray reads the token from a file; we make it ourselves, because Ray's own would be readable by all."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] != "token" or "RAY_AUTH_TOKEN" in os.environ:
        return
    path = Path(os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(Path.home() / ".cache/limbeck/ray_token")))
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    write_private(draft, secrets.token_hex(32))
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def _gpus() -> list[float]:
    """Memory in GB of each GPU that torch can use; torch is imported only where a driver is present."""
    if not Path("/proc/driver/nvidia").exists() and not Path("/dev/kfd").exists():
        return []
    import torch

    found = range(torch.cuda.device_count())
    return [torch.cuda.get_device_properties(number).total_memory / GB for number in found]
