"""The Ray of a run that is itself inside a cluster: attaches to it, and leaves it as it was but for what is ours."""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clusters import local
from clusters.nodes import check_nodes
from orchestrator.errors import LimbeckError
from orchestrator.feasibility import GB, Node, Offer
from orchestrator.store import Store

ADDRESS = "LIMBECK_RAY_ADDRESS"
"""Set where a run is to attach: `auto`, or HOST:PORT of the head."""


def address() -> str | None:
    """Where to attach; None: the run starts a Ray of its own."""
    return os.environ.get(ADDRESS) or None


def offer(disk_bytes: int | None = None) -> Offer:
    """What the nodes that are alive have. Attaches."""
    _attach()
    nodes = [_node(node["Resources"]) for node in _alive()]
    return Offer.of(
        f"the cluster ({len(nodes)} nodes)", nodes, None if disk_bytes is None else disk_bytes / GB
    )


@contextlib.contextmanager
def session(store: Store, targets: Sequence[str]) -> Iterator[None]:
    """The cluster, once every node is seen to have our software and to see the store; Infeasible where not.

    Nothing of ours is left at the end: workers belong to this driver, and end with it.
    """
    _attach()
    with local.until_shut_down():
        check_nodes({node["NodeID"]: _name(node) for node in _alive()}, store, targets)
        yield


def _attach() -> None:
    import ray

    if ray.is_initialized():
        return
    where = address()
    try:
        ray.init(
            address=where,
            namespace=f"limbeck-{secrets.token_hex(4)}",
            runtime_env={"env_vars": local.KEEP_FREED},
            logging_level=logging.ERROR,
            log_to_driver=False,
            configure_logging=False,
        )
    except (RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
        raise LimbeckError(
            f"no Ray can be attached to at {where} ({ADDRESS}): {error}; see that it runs, that RAY_AUTH_MODE and "
            "its token are the cluster's, and that its versions of Ray and Python are those here"
        ) from error


def _alive() -> list[dict[str, Any]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeName']} ({node['NodeID'][:8]})"


def _node(resources: Mapping[str, float]) -> Node:
    memory_gb = resources.get("memory", 0.0) / GB
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0), round(memory_gb, 2))
