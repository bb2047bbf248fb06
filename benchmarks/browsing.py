"""How long one waits for a look into a large store: 10,000 artifacts of 2,000 runs, 2,000 runs of MLflow.

The store is filled by the engine's own writers: shards, artifacts, run records and event logs by `Store` and
`Spool`, each synced to disk, MLflow's database by `Tracker`. A run makes five artifacts in a chain; the first of
all is what every other one is made from. MLflow is given the events of every sixth run (one run for it, and one
for each of its five stages): the verbs do not read it.

Each verb is then started as a person would, three times after one that makes the index; the fastest counts. Seconds
on the clock, and of processor time, which tells more on a busy machine.

Prints a table and, last, one line of JSON: {"ls_s", "ls_cpu_s", "lineage_s", ...}.

    .venv/bin/python benchmarks/browsing.py
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.keys import digest
from orchestrator.places import home
from orchestrator.spool import EVENTS, Spool, unfinished
from orchestrator.store import InputRef, Manifest, RunRecord, StageRecord, Store
from orchestrator.task import Output
from orchestrator.tracking import Tracker, default_artifacts, default_uri

STAGES = ("experts", "distilled", "labels", "students", "scores")
TRIES, TRACKED_EVERY = 3, 6


def main() -> None:
    """Fills a store and times the verbs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a few runs, to see that it works")
    parser.add_argument("--folder", help="keep the store there; one that is there is used as it is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or scratch
        if not (done := Path(folder, "filled")).exists():
            fill(f"{folder}/store", 12 if given.small else 2000)
            done.touch()
        found = measured(f"{folder}/store", 1 if given.small else TRIES)
    print(f"{'verb':38}{'seconds':>9}{'processor':>11}")
    for verb, (seconds, processor) in found.items():
        print(f"{verb:38}{seconds:9.2f}{processor:11.2f}")
    line = {}
    for verb, (seconds, processor) in found.items():
        line |= {f"{verb}_s": round(seconds, 3), f"{verb}_cpu_s": round(processor, 3)}
    print(json.dumps(line))


def measured(store: str, tries: int) -> dict[str, tuple[float, float]]:
    """Verb to seconds and processor seconds."""
    first, last = (json.loads(called(store, *argv)[0])[0] for argv in (
        ("artifacts", "ls", "--reverse", "--limit", "1", "--json"), ("artifacts", "ls", "--limit", "1", "--json"),
    ))  # fmt: skip
    verbs = {
        "ls": ("artifacts", "ls"),
        "ls_where": ("artifacts", "ls", "--where", "scores.accuracy>0.5", "--sort", "scores.accuracy"),
        "show": ("artifacts", "show", "bench/scores"),
        "lineage": ("artifacts", "lineage", last["id"]),
        "lineage_of_the_first": ("artifacts", "lineage", first["id"]),
        "report": ("report",),
        "runs": ("runs",),
    }
    return {verb: fastest([called(store, *argv)[1:] for _ in range(tries)]) for verb, argv in verbs.items()}


def fastest(found: list[tuple[float, float]]) -> tuple[float, float]:
    """The least of each."""
    seconds, processor = zip(*found, strict=True)
    return min(seconds), min(processor)


def called(store: str, *argv: str) -> tuple[str, float, float]:
    """What a verb printed, its seconds, and those of its processor time."""
    with tempfile.TemporaryFile("w+") as out:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *argv, "--store", store], stdout=out
        )
        _, code, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(code)
        assert process.returncode == 0, argv
        out.seek(0)
        return out.read(), seconds, used.ru_utime + used.ru_stime


def fill(uri: str, runs: int) -> None:
    """A store with so many runs, and MLflow's database in it."""
    store, started = Store.open(uri), time.perf_counter()
    first = None
    for number in range(runs):
        run_id, made = f"bench-{number:05d}", []
        for place, stage in enumerate(STAGES):
            before = made[-1] if made else first
            made.append(artifact(store, number, place, stage, before))
            first = first or made[0]
        keep_run(store, run_id, number, made)
        if number % TRACKED_EVERY == 0:
            log(store, run_id, made)
        if number % 200 == 199:
            print(f"{number + 1} runs in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    track(store)
    print(f"MLflow told after {time.perf_counter() - started:.0f} s", file=sys.stderr)


def artifact(store: Store, number: int, place: int, stage: str, before: Manifest | None) -> Manifest:
    """One artifact of two shards, made from the one before it."""
    keys = []
    for shard in range(2):
        key = digest(["shard", number, place, shard])
        output = Output(
            documents={"value": {"run": number, "shard": shard}}, metrics={"loss": 1 / (1 + number)}
        )
        store.commit_shard(key, {"shard": shard}, f"shard={shard}", output)
        keys.append(key)
    config = {"dataset": {"name": "digits"}, "lr": 0.01 + number / 1e5, "epochs": 50, "batch_size": 64}
    manifest = store.make_manifest(
        key=digest(["stage", number, place]), kind=stage, task=f"make_{stage}", version=1, config=config, seed=0,
        inputs={STAGES[place - 1]: InputRef(before.id, before.digest)} if before else {},
        facts={"data_digest": "d0", "dataset": {"name": "digits"}, "shape": [1, 8, 8], "classes": 10},
        output=Output(documents={"summary": {"run": number}}, metrics={"accuracy": (number % 997) / 997}),
        shard_keys=keys,
        provenance={
            "created": 1_700_000_000_000 + 1000 * (number * len(STAGES) + place), "stage": stage,
            "experiment": "bench", "commit": "c" * 40, "source": "s" * 32, "shard_seconds": [1.0, 1.2],
        },
    )  # fmt: skip
    return store.publish(manifest)


def keep_run(store: Store, run_id: str, number: int, made: list[Manifest]) -> None:
    """The record of a run, and its plan."""
    stages = [
        StageRecord(stage=one.stage, task=one.task, artifact=one.id, state="done", metrics=one.metrics)
        for one in made
    ]
    document = {
        "name": "bench",
        "seed": 0,
        "stages": {one.stage: {"task": one.task, **one.config} for one in made},
    }
    started = made[0].created
    store.save_plan(run_id, {one.stage: [shard.key for shard in one.shards] for one in made})
    store.save_run(
        RunRecord(
            run_id=run_id, experiment="bench", document=document, overrides=[f"lr={number}"], state="done",
            started=started, ended=started + 5000, stages=stages,
        )
    )  # fmt: skip


def log(store: Store, run_id: str, made: list[Manifest]) -> None:
    """The event log of a run."""
    spool = Spool(home(store.uri) / "runs" / run_id / EVENTS)
    spool.run_started(run_id, "bench", {"seed": 0, **made[0].config}, {"commit": "c" * 40})
    for one in made:
        spool.stage_started(one.stage, one.task, one.config, {"cached": "false"}, shards=2)
        for step in range(5):
            spool.metrics(one.stage, "shard=0", step, {"loss": 1 / (1 + step)})
        spool.stage_ended(one.stage, "done", one.metrics, one.id, one.digest, one.to_json())
    spool.run_ended("done")
    spool.close()


def track(store: Store) -> None:
    """Delivers all event logs to MLflow, as a run delivers what those before it left."""
    folder = home(store.uri)
    uri, own = default_uri(folder), Spool(folder / "runs" / "bench-00000" / EVENTS)
    tracker = Tracker(uri, own, store.read_blob, default_artifacts(folder), earlier=folder / "runs")
    deadline = time.monotonic() + 3600
    logs = list((folder / "runs").glob(f"*/{EVENTS}"))
    while any(unfinished(path, uri) for path in logs) and time.monotonic() < deadline:
        time.sleep(2.0)
    left = tracker.close(60.0)
    own.close()
    assert left == 0, tracker.error


if __name__ == "__main__":
    main()
