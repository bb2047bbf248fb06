"""What the engine itself costs: 1,000 shards that do nothing, syncing on; Ray's start is told apart.

Prints a table and, last, one line of JSON: {"ms_per_shard", "ray_start_s"}. Run it on an idle machine:

    .venv/bin/python benchmarks/engine_overhead.py
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

SUPPORT = Path(__file__).parent.parent / "tests" / "support"  # the toy tasks
sys.path.insert(0, str(SUPPORT))
os.environ["PYTHONPATH"] = str(SUPPORT)

from clusters import local  # noqa: E402
from orchestrator.console import Console  # noqa: E402
from orchestrator.experiment import load_experiment  # noqa: E402
from orchestrator.identity import begin_run  # noqa: E402
from orchestrator.plan import make_plan  # noqa: E402
from orchestrator.spool import Spool  # noqa: E402
from orchestrator.store import Store  # noqa: E402

SHARDS = 1000


def main() -> None:
    """Plans, runs and times; the first two shards, which load torch, are run before and reused."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = Path(folder, "bench.yaml")
        experiment.write_text("name: bench\nstages:\n  walk: {task: toy_walk, steps: 1}\n")
        store = Store.open(f"{folder}/store")
        started = time.perf_counter()
        with local.session(local.offer()):
            ray_start = time.perf_counter() - started
            few = timed(experiment, store, folder, 2)
            many = timed(experiment, store, folder, SHARDS + 2)
    ms = 1000 * (many - few) / SHARDS
    print(f"Ray starts in             {ray_start:8.2f} s")
    print(f"2 shards, workers' start  {few:8.2f} s")
    print(f"{SHARDS} further shards     {many:8.2f} s")
    print(f"a shard                   {ms:8.2f} ms")
    print(json.dumps({"ms_per_shard": round(ms, 3), "ray_start_s": round(ray_start, 2)}))


def timed(path: Path, store: Store, folder: str, shards: int) -> float:
    """Seconds of one run, without plan and without Ray's start."""
    from orchestrator.run import Run

    plan = make_plan(load_experiment(path, [f"walk.walks={shards}"]), store, local.offer())
    record = begin_run(plan, store)
    spool = Spool(Path(folder, f"{shards}.jsonl"))
    started = time.perf_counter()
    state = Run(plan, record, store, spool, Console(quiet=True)).go().state
    seconds = time.perf_counter() - started
    spool.close()
    assert state == "done"
    return seconds


if __name__ == "__main__":
    main()
