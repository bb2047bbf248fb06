"""A driver on a Ray of two nodes on this machine, one of which is killed while its worker computes.

    python two_nodes.py EXPERIMENT STORE MARKS ANSWER

Writes the answer of the run to the file ANSWER, as Ray prints what it likes.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from clusters import local
from orchestrator.console import Console
from orchestrator.experiment import load_experiment
from orchestrator.feasibility import Offer
from orchestrator.identity import begin_run
from orchestrator.plan import make_plan
from orchestrator.spool import Spool
from orchestrator.store import Store
from orchestrator.verbs.running import answer

BUSY = 2
"""Marks that show both workers at work."""


def main(experiment: str, uri: str, marks: str, told: str) -> None:
    local._use_token()
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=node_of(1), shutdown_at_exit=True)
    try:
        second = cluster.add_node(**node_of(2))
        ray.init(address=cluster.address, namespace="limbeck", log_to_driver=False, logging_level="ERROR")
        deed = threading.Thread(target=kill_when_busy, args=(second, Path(marks)), daemon=True)
        deed.start()
        Path(told).write_text(json.dumps(walked(experiment, uri)))
        deed.join(timeout=10)
    finally:
        ray.shutdown()
        cluster.shutdown()


def node_of(number: int) -> dict[str, Any]:
    return {
        "num_cpus": 1,
        "object_store_memory": 10**8,
        "include_dashboard": False,
        "node_name": f"node{number}",
    }


def kill_when_busy(node: Any, marks: Path) -> None:
    while len(list(marks.glob("start-*"))) < BUSY:
        time.sleep(0.05)
    time.sleep(1.0)
    node.kill_raylet()


def walked(experiment: str, uri: str) -> dict[str, Any]:
    from orchestrator.run import Run

    store = Store.open(uri)
    offer = Offer(where="two nodes", cpus=2, gpus=0, memory_gb=4, disk_gb=None)
    plan = make_plan(load_experiment(Path(experiment)), store, offer)
    record = begin_run(plan, store)
    spool = Spool(Path(uri) / "runs" / record.run_id / "events.jsonl")
    record = Run(plan, record, store, spool, Console(as_json=True)).go()
    spool.close()
    return answer(record, store)


if __name__ == "__main__":
    main(*sys.argv[1:])
