"""What the driver does for a million shards on a thousand workers, without the workers.

The planner, the store, the run and the core of the executor are the real ones; behind the interface at which Ray's
actors stand (orchestrator/executors/hands.py) answers come at once, one at a time. A simulated worker commits a real
record, like those of real workers but not synced to disk. Every hundredth shard's worker dies, half of them after the
commit; every hundredth fails in a way that is tried again; both once. Half way the driver is killed (SIGKILL), and the
same command goes on. Each driver is a process of its own, and so is the worker that closes the stage, a real one.

Prints a table and, last, one line of JSON: {"shards", "workers", "driver_us_per_shard", "peak_mb", "resume_plan_s",
...}. driver_us_per_shard is the processor time of the driver's thread from its start to its end, planning too, less
that of the simulated workers; peak_mb the most memory that a driver took, less that before it planned.

    .venv/bin/python benchmarks/scale.py                                   # 100,000 shards, closed by a real worker
    .venv/bin/python benchmarks/scale.py --shards 1000000 --names-only     # the driver alone
"""

import argparse
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent.parent / "tests" / "support"  # the toy task
sys.path.insert(0, str(SUPPORT))

from orchestrator.console import Console  # noqa: E402
from orchestrator.executors.hands import Heard, Lost  # noqa: E402
from orchestrator.executors.worker import Assignment, Worker  # noqa: E402
from orchestrator.experiment import load_experiment  # noqa: E402
from orchestrator.feasibility import Offer  # noqa: E402
from orchestrator.identity import begin_run  # noqa: E402
from orchestrator.plan import StagePlan, make_plan  # noqa: E402
from orchestrator.provenance import environment, now_ms  # noqa: E402
from orchestrator.run import Run  # noqa: E402
from orchestrator.spool import EVENTS, Spool  # noqa: E402
from orchestrator.store import ShardRecord, Store  # noqa: E402
from orchestrator.store.records import encode  # noqa: E402
from orchestrator.store.store import record_path  # noqa: E402
from orchestrator.task import Json  # noqa: E402

EXPERIMENT = """
name: scale
stages:
  count: {task: toy_count, shards: SHARDS, resources: {workers: WORKERS, cpus: 1}}
"""
EVERY = 100
SPAWN = multiprocessing.get_context("spawn")


class Simulation:
    """The workplace and the hands of one stage. Answers queue up in the order of the calls."""

    def __init__(self, store: Store, kill_after: int | None, names_only: bool) -> None:
        self.store, self.kill_after, self.names_only = store, kill_after, names_only
        self.commits = self.hired = self.polls = 0
        self.seconds = self.close_s = self.close_mb = 0.0
        self.tried: set[int] = set()
        self.answers: deque[Heard] = deque()
        self.free: set[int] = set()
        self.provenance = {"seconds": 1.0, "created": now_ms(), "ranks": 1, **environment()}

    def staff(self, plan: StagePlan, assignment: Assignment, offer: Offer) -> "Simulation":
        self.stage, self.assignment = plan.name, assignment
        for prefix in range(256):
            Path(self.store.uri, "shards", f"{prefix:02x}").mkdir(parents=True, exist_ok=True)
        return self

    def hear(self, timeout_s: float) -> list[Heard]:
        return [self.answers.popleft()] if self.answers else []

    def hire(self, closing: bool) -> int:
        self.hired += 1
        self._answer(self.hired, {"pid": 0, "node": f"node{self.hired % 125}"})
        return self.hired

    def compute(self, worker: int, key: str, identity: Mapping[str, Json], label: str) -> None:
        with self.not_the_driver():
            number, first = int(identity["number"]), identity["number"] not in self.tried
            self.tried.add(number) if number % EVERY in (1, 2, 3) else None
            if first and number % EVERY == 1:
                return self._answer(worker, Lost("the node went away"))
            if first and number % EVERY == 2:
                problem = {
                    "state": "failed",
                    "error": "OSError: a passing fault",
                    "retry": True,
                    "class": "error",
                }
                return self._answer(worker, {**news(label), **problem})
            self._commit(key, identity, label)
            if first and number % EVERY == 3:
                return self._answer(worker, Lost("the node went away with the answer"))
            point = {"step": 0, "values": {"value": float(number)}, "time_ms": now_ms()}
            return self._answer(worker, {"state": "done", "seconds": 1.0, **news(label, point)})

    def close(self, worker: int, key: str, shard_keys: Sequence[str]) -> None:
        if self.names_only:
            return self._answer(worker, {"state": "done", "seconds": 0.0, **news("")})
        with self.not_the_driver(), SPAWN.Pool(1) as pool:
            answer, self.close_s, self.close_mb = pool.apply(closed, (self.assignment, key, list(shard_keys)))
        return self._answer(worker, answer)

    def can_close(self, worker: int) -> bool:
        return True

    def poll(self, worker: int) -> None:
        self.polls += 1
        self.answers.append(Heard(self.stage, worker, True, {**news(f"of {worker}"), "beats": self.polls}))

    def stop(self, worker: int) -> None: ...
    def dismiss(self, worker: int) -> None: ...

    def _answer(self, worker: int, answer: Any) -> None:
        self.answers.append(Heard(self.stage, worker, False, answer))

    def _commit(self, key: str, identity: Mapping[str, Json], label: str) -> None:
        """As a worker: once, whoever else tried. But a shard that is committed twice is found by O_EXCL."""
        path = Path(self.store.uri, record_path("shards", key))
        value = float(identity["number"])
        empty = self.names_only and value % 5
        if int(value) % EVERY != 3 or not path.exists():
            with path.open("xb") as file:
                file.write(b"" if empty else encode(self._record(key, identity, label)))
            self.commits += 1
        if self.commits == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def _record(self, key: str, identity: Mapping[str, Json], label: str) -> ShardRecord:
        return ShardRecord(
            key=key, identity=dict(identity), files={}, facts={}, label=label,
            metrics={"value": float(identity["number"])}, provenance=self.provenance,
        )  # fmt: skip

    @contextmanager
    def not_the_driver(self) -> Iterator[None]:
        started = time.thread_time()
        yield
        self.seconds += time.thread_time() - started


def news(label: str, *points: Json) -> dict[str, Any]:
    """What a worker tells of a shard."""
    return {"shard": label, "beats": 1, "metrics": list(points), "previews": []}


def closed(assignment: Assignment, key: str, shard_keys: list[str]) -> tuple[dict[str, Any], float, float]:
    """A real worker closes the stage: its answer, its seconds, the most memory it took."""
    worker, started, before = Worker(assignment), time.perf_counter(), peak_mb()
    worker.load()
    answer = worker.close(key, shard_keys)
    return answer, time.perf_counter() - started, peak_mb() - before


def peak_mb() -> float:
    """The most resident memory of this program so far; `ru_maxrss` would count that of its parent too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def drive(
    folder: str, shards: int, workers: int, kill_after: int | None, names_only: bool
) -> dict[str, float]:
    """One driver, from the YAML file to the end of its run."""
    store = Store.open(f"{folder}/store")
    experiment = Path(folder, "scale.yaml")
    experiment.write_text(EXPERIMENT.replace("SHARDS", str(shards)).replace("WORKERS", str(workers)))
    before, wall, started = peak_mb(), time.perf_counter(), time.thread_time()
    offer = Offer("a simulation", cpus=workers, gpus=0, memory_gb=workers, disk_gb=None)
    plan = make_plan(load_experiment(experiment), store, offer)
    plan_s, plan_cpu_s = time.perf_counter() - wall, time.thread_time() - started
    record = begin_run(plan, store)
    spool, place = (
        Spool(Path(folder, "runs", record.run_id, EVENTS)),
        Simulation(store, kill_after, names_only),
    )
    state = Run(plan, record, store, spool, Console(quiet=True), workplace=place).go().state
    spool.close()
    assert state == "done", store.failures(record.run_id)[:1]
    driver_s, (stage,) = time.thread_time() - started - place.seconds, plan.stages
    manifest = store.manifest(stage.key)
    assert names_only or (manifest and manifest.metrics["sum"] == shards * (shards - 1) / 2)
    return {
        "todo": len(stage.todo), "committed": place.commits, "driver_s": driver_s, "peak_mb": peak_mb() - before,
        "plan_s": plan_s, "plan_cpu_s": plan_cpu_s, "close_s": place.close_s, "close_mb": place.close_mb,
        "hired": place.hired, "polls": place.polls, "log_mb": spool.size / 1e6,
        "list_mb": manifest.listing.file.size / 1e6 if manifest and manifest.listing else 0.0,
    }  # fmt: skip


def child(folder: str, shards: int, workers: int, kill_after: int | None, names_only: bool) -> None:
    """A driver in a process of its own, which leaves what it found beside the store."""
    found = drive(folder, shards, workers, kill_after, names_only)
    Path(folder, "found.json").write_text(json.dumps(found))


def main() -> None:
    """Half a run, a kill, the other half."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument(
        "--names-only",
        action="store_true",
        help="most records are empty and nothing is closed: the driver sees the same",
    )
    parser.add_argument("--folder", help="where the store is made and removed again")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        for half, kill_after in enumerate((asked.shards // 2, None)):
            told = (folder, asked.shards, asked.workers, kill_after, asked.names_only)
            process = SPAWN.Process(target=child, args=told)
            process.start()
            process.join()
            assert process.exitcode == (-signal.SIGKILL, 0)[half], f"driver {half + 1}: {process.exitcode}"
        tell(asked, json.loads(Path(folder, "found.json").read_text()))


def tell(asked: argparse.Namespace, found: Mapping[str, float]) -> None:
    """The table and the line of JSON."""
    assert found["todo"] == found["committed"] == asked.shards - asked.shards // 2
    answer = {
        "shards": asked.shards, "workers": asked.workers,
        "driver_us_per_shard": 1e6 * found["driver_s"] / found["todo"], "peak_mb": found["peak_mb"],
        "resume_plan_s": found["plan_s"], "resume_plan_cpu_s": found["plan_cpu_s"], "close_s": found["close_s"],
        "close_peak_mb": found["close_mb"], "log_mb": found["log_mb"], "list_mb": found["list_mb"],
    }  # fmt: skip
    print(f"driver, a shard           {answer['driver_us_per_shard']:10.1f} us")
    print(f"peak memory of a driver   {answer['peak_mb']:10.1f} MB")
    print(f"to plan the resume        {answer['resume_plan_s']:10.2f} s")
    print(f"to close, in the worker   {answer['close_s']:10.2f} s, {answer['close_peak_mb']:.1f} MB")
    print(f"the run's log             {answer['log_mb']:10.3f} MB")
    print(f"the list of shards        {answer['list_mb']:10.3f} MB (0: the manifest holds them)")
    print(json.dumps({name: round(value, 4) for name, value in answer.items()}), flush=True)


if __name__ == "__main__":
    main()
