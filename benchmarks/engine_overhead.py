"""What the engine itself costs. Ray's and the workers' start are told apart; syncing to disk is on.

Runs of a toy task in one Ray, timed from the first commits to the last, by the shards' own records:

- 1,000 shards that do nothing, on all cores: milliseconds a shard;
- shards that wait for a second, one worker: the share of the time that is not the shards';
- shards that keep one core busy, one worker against two: the speedup. It asks for two idle cores; what two
  bare processes reach over one at that moment is told beside it.

Prints a table and, last, one line of JSON: {"ms_per_shard", "overhead_1s", "speedup_2_workers", ...}.

    .venv/bin/python benchmarks/engine_overhead.py
"""

import argparse
import json
import os
import subprocess
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

EXPERIMENT = "name: bench\nstages:\n  walk: {task: toy_walk, steps: 1}\n"
SPIN = "from toytasks import spin; import time; s = time.perf_counter(); spin(ROUNDS); print(time.perf_counter() - s)"


class Bench:
    """One store and one experiment; runs are told apart by their seed, so that nothing is cached."""

    def __init__(self, folder: str) -> None:
        self.folder, self.experiment = Path(folder), Path(folder, "bench.yaml")
        self.experiment.write_text(EXPERIMENT)
        self.store = Store.open(f"{folder}/store")
        self.runs = 0

    def commits(self, shards: int, *overrides: str) -> list[float]:
        """Runs so many shards anew; seconds from the start of the run to each commit, in order."""
        from orchestrator.run import Run

        self.runs += 1
        options = [f"seed={self.runs}", f"walk.walks={shards}", *(f"walk.{text}" for text in overrides)]
        plan = make_plan(load_experiment(self.experiment, options), self.store, local.offer())
        record = begin_run(plan, self.store)
        spool = Spool(self.folder / f"{record.run_id}.jsonl")
        started = time.time()
        state = Run(plan, record, self.store, spool, Console(quiet=True)).go().state
        spool.close()
        assert state == "done"
        (stage,) = plan.stages
        made = [self.store.shard(key).record.provenance["created"] for key in stage.shard_keys]
        return sorted(moment / 1000 - started for moment in made)


def main() -> None:
    """Plans, runs and times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a few short shards, to see that it works")
    small = parser.parse_args().small
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder)
        started = time.perf_counter()
        with local.session(local.offer()):
            ray_start = time.perf_counter() - started
            empty = bench.commits(50 if small else 1000)
            waiting = bench.commits(3 if small else 30, "pause_s=1.0", "resources.workers=1")
            speedup, alone = busy_shards(bench, 6 if small else 24, 200 if small else 1000)
    found = {
        "ms_per_shard": 1000 / rate(empty),
        "overhead_1s": 1 - rate(waiting, workers=1),
        "speedup_2_workers": speedup,
        "speedup_bare": alone,
        "ray_start_s": ray_start,
        "workers_start_s": empty[0],
    }
    print(f"Ray starts in                     {ray_start:8.2f} s")
    print(f"workers start in                  {empty[0]:8.2f} s")
    print(f"an empty shard                    {found['ms_per_shard']:8.2f} ms")
    print(f"overhead of 1-second shards       {found['overhead_1s']:8.2%}")
    print(f"speedup of two workers over one   {speedup:8.2f}")
    print(f"  of two bare processes over one  {alone:8.2f}")
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


def rate(commits: list[float], workers: int = 2) -> float:
    """Shards a second, from the moment when every worker has committed its first."""
    return (len(commits) - workers) / (commits[-1] - commits[workers - 1])


def busy_shards(bench: Bench, shards: int, rounds: int) -> tuple[float, float]:
    """How much faster two workers are than one, and two bare processes than one, on the same work."""
    one, two = (
        rate(bench.commits(shards, f"spin={rounds}", f"resources.workers={workers}"), workers)
        for workers in (1, 2)
    )
    return two / one, 2 * bare(1, rounds) / bare(2, rounds)


def bare(processes: int, rounds: int) -> float:
    """Seconds that the slowest of so many processes needs for one shard's work."""
    command = [sys.executable, "-c", SPIN.replace("ROUNDS", str(4 * rounds))]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return max(float(process.communicate()[0]) for process in started)


if __name__ == "__main__":
    main()
