"""A store in a folder of its own, and short ways to fill it."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import s3

from orchestrator.keys import digest
from orchestrator.store import FileRef, InputRef, RunRecord, StageRecord, Store, open_bytes
from orchestrator.task import Output

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DAY = 24 * 3600.0


class Filler:
    """Commits toy shards and artifacts to a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @staticmethod
    def key(*name) -> str:
        return digest(name)

    def shard(self, name, value=None, **kwargs) -> str:
        key = self.key("shard", name)
        output = Output(
            documents={"value": {"name": name, "value": value}}, facts={"n": 1}, metrics={"m": 0.5}
        )
        self.store.commit_shard(key, {"name": name}, f"name={name}", output, **kwargs)
        return key

    def artifact(
        self, name, shards=(), inputs=(), experiment="exp", created=1, output=None, previews=()
    ) -> str:
        keys = [self.shard(shard) for shard in shards]
        refs = {
            f"field{i}": InputRef(made, self.store.artifact(made).digest) for i, made in enumerate(inputs)
        }
        manifest = self.store.make_manifest(
            key=self.key("stage", name), kind="toys", task="toy", version=1, config={"a": 1}, seed=0, inputs=refs,
            facts={"data_digest": "d0"}, output=output or Output(documents={"summary": {"of": name}}),
            shard_keys=keys, previews=previews,
            provenance={"created": created, "stage": name, "experiment": experiment, "commit": "c0"},
        )  # fmt: skip
        return self.store.publish(manifest).id

    def run(self, run_id, stages=(), plan=None, experiment="exp", state="done", started=1) -> None:
        records = [StageRecord(stage=name, task="toy", artifact=made, state="done") for name, made in stages]
        ended = None if state == "running" else started + 1
        record = RunRecord(
            run_id=run_id, experiment=experiment, document={"seed": 0}, overrides=[], state=state,
            started=started, ended=ended, stages=records,
        )  # fmt: skip
        self.store.save_run(record)
        self.store.save_plan(run_id, plan or {})

    def files(self) -> list[str]:
        return sorted(entry.path for entry in self.store.bytes.list())

    def age(self, days: float = 3, under: str = "") -> None:
        """Makes everything look as if it were written long ago."""
        then = time.time() - days * DAY
        for path in (self.store.bytes.root / under).rglob("*"):
            if path.is_file():
                os.utime(path, (then, then))

    def blob(self, ref: FileRef | str) -> Path:
        found = ref if isinstance(ref, str) else ref.digest
        return self.store.bytes.root / "blobs" / found[:2] / found

    def flip(self, ref: FileRef | str, at: int = 3) -> None:
        """Changes one byte of a blob where it lies."""
        data = bytearray(self.blob(ref).read_bytes())
        data[at] ^= 1
        self.blob(ref).write_bytes(data)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def filler() -> type[Filler]:
    """For stores elsewhere."""
    return Filler


@pytest.fixture
def fill(store) -> Filler:
    return Filler(store)


@pytest.fixture(scope="session")
def server():
    """A real S3 server with one bucket, `bucket`."""
    with s3.serving() as running:
        running.bucket("bucket")
        yield running


@pytest.fixture
def wire(server, monkeypatch, tmp_path):
    """What lies between this process and the server; the environment leads to it, and the cache is empty."""
    with s3.wired(server) as wire:
        s3.environment(monkeypatch, wire.url, LIMBECK_CACHE=str(tmp_path / "cache"))
        yield wire


@pytest.fixture
def bucket(wire):
    """The URI of a fresh place in the bucket."""
    return f"s3://bucket/{uuid.uuid4().hex}"


@pytest.fixture(params=["folder", "s3"])
def places(request, tmp_path):
    """Makes fresh places for bytes, in a folder and in an object store."""
    if request.param == "s3":
        request.getfixturevalue("wire")
    root = "s3://bucket" if request.param == "s3" else str(tmp_path / "places")
    return lambda: open_bytes(f"{root}/{uuid.uuid4().hex}")


@pytest.fixture
def child():
    """Starts `child.py` with these words; ends what is left at the end of the test."""
    started = []

    def start(*argv: object, before: tuple[str, ...] = ()) -> subprocess.Popen:
        command = [*before, sys.executable, str(HERE / "child.py"), *map(str, argv)]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


@pytest.fixture
def answer(child):
    """Runs `child.py` to its end and gives what it printed."""

    def run(*argv: object, before: tuple[str, ...] = ()) -> str:
        process = child(*argv, before=before)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out

    return run
