"""Where and with what something was made: recorded beside a key, never in it."""

import functools
import importlib.metadata
import platform
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = (
    "limbeck", "ray", "torch", "deepspeed", "transformers", "tokenizers", "numpy", "scikit-learn", "pyarrow",
    "safetensors", "mlflow",
)  # fmt: skip


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def data_of(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{name, digest, source} of each dataset that an artifact's facts name: `data_digest` beside `dataset`, or
    `datasets` with `label` and `data`."""
    found = [
        {"name": one["label"], "digest": one["data"], "source": one} for one in facts.get("datasets", ())
    ]
    digest, dataset = facts.get("data_digest"), facts.get("dataset")
    if digest:
        name = dataset.get("name") if isinstance(dataset, Mapping) else None
        found.append({"name": name or "data", "digest": digest, "source": dataset})
    return found


@functools.cache
def environment() -> dict[str, Any]:
    """Versions, commit and hardware of this process's machine."""
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cpus": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": commit(),
    }


@functools.cache
def commit() -> str | None:
    """The commit of the working tree that this code runs from, `-dirty` where it was changed; else None."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    return f"{head}-dirty" if head and _git(root, "status", "--porcelain", "-uno") else head


def _git(root: Path, *argv: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *argv], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
