"""What the tests run in processes of its own: `python child.py VERB STORE ...`."""

import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path

from orchestrator.errors import LimbeckError
from orchestrator.keys import digest
from orchestrator.store import Folder, Lease, Leases, RunRecord, StageRecord, Store, open_bytes
from orchestrator.task import Output

WATCHED = {"open", "os.mkdir", "os.link", "os.rename", "os.remove"}


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def steps(store: Store) -> None:
    """One of everything that is written: shards that share a file, an artifact, a run, a pin."""
    keys = [digest(["crash", number]) for number in range(2)]
    for number, key in enumerate(keys):
        output = Output(documents={"own": {"number": number}, "shared": [1, 2, 3]})
        picture = store.put_blob(b"picture")
        preview = {"name": "p", "step": 0, "blob": picture.digest, "size": picture.size}
        history = store.put_blob(b"[]")
        store.commit_shard(
            key, {"number": number}, f"number={number}", output, history=history, previews=[preview]
        )
    manifest = store.make_manifest(
        key=digest("crash"), kind="toys", task="toy", version=1, config={}, seed=0, inputs={}, facts={},
        output=Output(documents={"summary": {}}), shard_keys=keys, provenance={"created": 1},
    )  # fmt: skip
    store.publish(manifest)
    stage = StageRecord(stage="toys", task="toy", artifact=manifest.id, state="done")
    record = RunRecord(
        run_id="r", experiment="e", document={}, overrides=[], state="running", started=1, stages=[stage]
    )
    store.save_run(record)
    store.save_run(record)
    store.pin("r")


def die_at(step: int, root: str) -> None:
    """From now on the process dies, as by SIGKILL, just before its step-th touch of a file under `root`."""
    left = [step]

    def hook(event: str, args: tuple) -> None:
        if event in WATCHED and any(
            isinstance(arg, str | Path) and str(arg).startswith(root) for arg in args
        ):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)

    sys.addaudithook(hook)


class Dying(Folder):
    """A folder whose process dies after the n-th whole write."""

    def __init__(self, root: str, writes: int) -> None:
        super().__init__(root)
        self.left = writes

    def put(self, path: str, data: bytes) -> None:
        super().put(path, data)
        self._written()

    def put_if_absent(self, path: str, data: bytes) -> bool:
        won = super().put_if_absent(path, data)
        self._written()
        return won

    def _written(self) -> None:
        self.left -= 1
        if self.left <= 0:
            os._exit(9)


def crash(folder: str, kind: str) -> None:
    """Forks a process for each place where one can die, each with a store of its own; prints how many died."""
    for step in range(1000):
        root = os.path.realpath(f"{folder}/{step}")
        if os.fork() == 0:
            if kind == "touch":
                die_at(step, root)
                steps(Store.open(root))
            else:
                steps(Store.over(Dying(root, step + 1)))
            os._exit(0)
        _, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        if code != 9:
            assert code == 0
            say(step)
            return


def finish(folder: str) -> None:
    """Goes on in every store that `crash` left behind; prints what each ends with."""
    for root in sorted(Path(folder).iterdir(), key=lambda path: int(path.name)):
        store = Store.open(str(root))
        steps(store)
        say(store.artifact(digest("crash")).digest)


def race(root: str, me: str, rounds: str) -> None:
    """Commits shards that others commit too; prints what everyone must agree on."""
    store = Store.open(root)
    say("ready")
    sys.stdin.readline()
    seen, won = [], 0
    for number in range(int(rounds)):
        output = Output(documents={"who": me, "number": number})
        record = store.commit_shard(digest(["race", number]), {"number": number}, "x", output)
        seen.append(record.files["who.json"].digest)
        won += record.provenance == {} and store.shard(record.key).document("who") == me
    say(json.dumps({"seen": seen, "won": won}))


def absent(root: str, me: str, rounds: str) -> None:
    """Races for names by put_if_absent; prints which ones it won."""
    space = open_bytes(root)
    say("ready")
    sys.stdin.readline()
    say(json.dumps([n for n in range(int(rounds)) if space.put_if_absent(f"names/{n}", me.encode() * 999)]))


def upload(root: str, name: str, size: str) -> None:
    """Puts one large object."""
    open_bytes(root).put(name, b"x" * int(size))
    say("done")


def fetch(root: str, name: str, times: str) -> None:
    """Asks for the local copy of a file, in a process that has none; prints its digest each time."""
    space = open_bytes(root)
    say("ready")
    sys.stdin.readline()
    for _ in range(int(times)):
        say(hashlib.sha256(space.local(name).read_bytes()).hexdigest())


def commit_forever(root: str) -> None:
    """Commits shard after shard until it is killed."""
    store = Store.open(root)
    say("ready")
    for number in range(10**9):
        output = Output(documents={"number": number, "shared": number // 3})
        store.commit_shard(digest(["forever", number]), {"number": number}, f"number={number}", output)


def reuse(root: str, count: str) -> None:
    """Commits shards whose files lie in the store for long."""
    store = Store.open(root)
    say("ready")
    for number in range(int(count)):
        output = Output(documents={"number": number})
        store.commit_shard(digest(["reuse", number]), {"number": number}, f"number={number}", output)


def outputs(root: str) -> None:
    """Writes one output of every sort; prints its digests."""
    import pyarrow as pa
    import torch

    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(40, 30, generator=generator)
    output = Output(
        tensors={"w": {"b": weights, "a": weights.T, "half": weights.half(), "n": torch.arange(5)}},
        tables={"t": pa.table({"x": list(range(1000)), "s": [f"row {i % 7}" for i in range(1000)]})},
        documents={"d": {"z": 1, "a": [1.5, None, "\u00e4"]}},
    )
    record = Store.open(root).commit_shard(digest("outputs"), {"n": 1}, "n=1", output)
    say(json.dumps({name: ref.digest for name, ref in record.files.items()}))


def too_large(root: str, limit: str) -> None:
    """Commits under a limit on the size of files; prints the error and what is left."""
    store = Store.open(root)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    commit_large(store, Output(documents={"d": "x" * 10**7}))


def full(root: str) -> None:
    """Commits more than the disk holds; prints the errors and what is left."""
    import torch

    store = Store.open(root)
    commit_large(store, Output(documents={"d": "x" * 10**7}))
    commit_large(store, Output(tensors={"t": {"t": torch.zeros(2500000)}}))


def commit_large(store: Store, output: Output) -> None:
    try:
        store.commit_shard(digest("large"), {}, "large", output)
    except LimbeckError as error:
        say(f"{type(error).__name__} {error}")
    say(json.dumps([entry.path for entry in store.bytes.list()]))
    say(json.dumps(list(store.bytes.sweep(10**12, apply=False))))


def opened(root: str) -> None:
    try:
        Store.open(root)
    except LimbeckError as error:
        say(f"{type(error).__name__} {error}")
    say(sorted(Store.open(root, create=False).shard_keys()))


def hold(root: str, number: str, times: str, *dies: str) -> None:
    """Takes a lease so many times, and adds one to the number in a file each time while it holds it."""
    leases, file = Leases(Store.open(root).bytes), Path(number)
    left = int(times)
    while left:
        lease = leases.take(digest("hold"))
        if not isinstance(lease, Lease):
            time.sleep(0.005)
            continue
        before = int(file.read_text()) if file.exists() else 0
        time.sleep(0.01)
        if dies:
            os._exit(9)
        file.write_text(str(before + 1))
        leases.release(lease)
        left -= 1


def keep(root: str, key: str) -> None:
    """Keeps a lease alive until it is lost."""
    leases = Leases(Store.open(root).bytes)
    lease = leases.take(key)
    assert isinstance(lease, Lease)
    say("taken")
    while leases.beat(lease):
        time.sleep(0.05)
    say("lost")


if __name__ == "__main__":
    verbs = (
        crash, finish, race, absent, upload, fetch, commit_forever, reuse, outputs, too_large, full, opened,
        hold, keep,
    )  # fmt: skip
    {verb.__name__: verb for verb in verbs}[sys.argv[1]](*sys.argv[2:])
