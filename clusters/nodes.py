"""Before work starts on a cluster: has each node the driver's software, and does it see the driver's store?

    PYTHON -m clusters.nodes

tells the versions of the machine that it runs on, as one line of JSON.
"""

import functools
import hashlib
import importlib.metadata
import json
import platform
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.catalogue import source_digest
from orchestrator.errors import Infeasible, LimbeckError, last_line
from orchestrator.executors.worker import first_line
from orchestrator.store import Store, open_bytes

_PACKAGES = ("limbeck", "ray", "torch", "numpy", "pyarrow", "deepspeed", "transformers")
_ROOT = Path(__file__).parent.parent
_ANSWER_S = 180.0
"""More than an object store is given to answer."""
Versions = dict[str, str]


@dataclass(frozen=True)
class Probe:
    """What a node is asked: plain values only."""

    store_uri: str
    path: str
    """Of a file in the store."""
    nonce: str
    """What the driver wrote there."""
    targets: tuple[str, ...]
    """The tasks that it may have to compute."""


def check_nodes(nodes: Mapping[str, str], store: Store, targets: Sequence[str]) -> None:
    """Asks every node (id to name). Infeasible names those that could not do the work, and why. Needs Ray."""
    nonce = secrets.token_hex(16)
    probe = Probe(store.uri, f"work/{nonce}/nonce", nonce, tuple(targets))
    store.bytes.put(probe.path, nonce.encode())
    try:
        answers = _asked(nodes, probe)
    finally:
        store.bytes.delete(probe.path)
    here = versions(targets)
    found = [line for name, answer in answers.items() for line in complaints(name, answer, here)]
    if found:
        raise Infeasible("\n".join(found))


def complaints(
    node: str, answer: Mapping[str, Any] | str, here: Versions, who: str = "the driver"
) -> list[str]:
    """One line for each thing that is not as `who` has it; an answer that is a text is why there is none."""
    if isinstance(answer, str):
        return [f"node {node}: {answer}"]
    there, found = answer["versions"], []
    for name, expected in here.items():
        if there.get(name) != expected:
            found.append(
                f"node {node}: {name} is {there.get(name, 'missing')}, expected {expected} as {who} has it; "
                "make them the same"
            )
    if answer["store"]:
        found.append(
            f"node {node}: it does not see the store: {answer['store']}; name a folder that all nodes share, or "
            "s3://BUCKET/PREFIX, by --store or the profile's `store`"
        )
    return found


def look(probe: Probe) -> dict[str, Any]:
    """What the machine that it runs on has to say."""
    return {"versions": versions(probe.targets), "store": _trouble(probe)}


def versions(targets: Sequence[str]) -> Versions:
    """Of Python, of packages, and of the code of Limbeck and of tasks."""
    found = {"python": platform.python_version(), "code of limbeck": source()}
    for package in _PACKAGES:
        found[package] = _version(package)
    return found | {f"code of {target}": _code(target) for target in targets}


@functools.cache
def source() -> str:
    """Digest of all modules of Limbeck."""
    hashed = hashlib.sha256()
    for package in ("clusters", "orchestrator", "tasks"):
        for path in sorted((_ROOT / package).rglob("*.py")):
            hashed.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return hashed.hexdigest()[:32]


def _trouble(probe: Probe) -> str | None:
    try:
        found = open_bytes(probe.store_uri).read(probe.path)
    except FileNotFoundError:
        return f"{probe.store_uri} there has not what the driver wrote"
    except (OSError, LimbeckError) as error:
        return first_line(error)
    return None if found == probe.nonce.encode() else f"{probe.store_uri} there is another one"


def _code(target: str) -> str:
    try:
        return source_digest(target)
    except ImportError:
        return "missing"


def _version(package: str) -> str:
    """Without what tells builds for different devices from each other, such as `+cpu`: nodes may be mixed."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _asked(nodes: Mapping[str, str], probe: Probe) -> dict[str, dict[str, Any] | str]:
    """Name of each node to its answer, or to why there is none; a node that has left meanwhile is passed over."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asking: Any = ray.remote(look)
    calls = {
        name: asking.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(probe)
        for node, name in nodes.items()
    }
    deadline, answers = time.monotonic() + _ANSWER_S, dict[str, dict[str, Any] | str]()
    for name, call in calls.items():
        try:
            answers[name] = ray.get(call, timeout=max(0.0, deadline - time.monotonic()))
        except GetTimeoutError:
            answers[name] = (
                f"no answer within {_ANSWER_S:g} s; see whether it is well, or take it out of the cluster"
            )
        except RayError as error:
            answers[name] = (
                f"{last_line(str(error)) or type(error).__name__}; has it the driver's Python and limbeck?"
            )
    here = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    left = {name for node, name in nodes.items() if node not in here}
    return {name: answer for name, answer in answers.items() if name not in left}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(versions(())) + "\n")
