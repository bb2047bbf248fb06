"""The event log of a run: what happened, one JSON object a line, kept until MLflow has it.

The driver appends; the tracker reads on from a cursor, one for each place the events go to. A line that a
crash tore is dropped when read. Curves and previews that are in the log already are not written again, so
that after a resume the engine may emit the same history once more. Nothing here knows MLflow.
"""

import fcntl
import hashlib
import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import StoreError

Json = Any
Event = dict[str, Json]
Series = tuple[str, str, str, str]
"""Kind of event, stage, shard, name."""

EVENTS = "events.jsonl"
_LAST = (b'"kind":"run_ended"', b'"kind":"report"')
"""Kinds of event that end a log: a report follows the run's end."""
_POINTS = 100_000
"""Of a stage's curves all are kept up to here, of the next so many every second one, then every fourth."""
_SPREAD = 2_654_435_769
"""Of the golden ratio: products with it, modulo 2 ** 32, are spread evenly for evenly spaced steps."""
_ADVICE = "free space there, or check that disk; then run the same command again"


class Spool:
    """Appends events to `path` (runs/<run_id>/events.jsonl), safely from several threads.

    Each event holds its `kind` and its time `t` in milliseconds since 1970. It is with the operating system
    when the call returns: it outlives this process, not a power cut. Raises StoreError where the file cannot
    be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._cursor_lock = threading.Lock()
        self._claim: int | None = None
        self._steps: dict[Series, set[int]] = {}
        self._points: Counter[str] = Counter()
        self._last, self._last_start = 0, 0
        self._state: str | None = None
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_CLOEXEC, 0o644)
        self._torn = not _ends_a_line(self._file)
        for event, _ in self.read():
            self._remember(event)

    def run_started(
        self,
        run_id: str,
        experiment: str,
        params: Mapping[str, Json],
        tags: Mapping[str, str],
        search: str | None = None,
    ) -> None:
        """`params`: the settings under dotted names. A tag without a dot is shown as `limbeck.<tag>`.
        `search`: the id of the search whose trial the run is; a search is a run too, under its own id."""
        fields = {"search": search} if search else {}
        self._append("run_started", run_id=run_id, experiment=experiment, params=params, tags=tags, **fields)

    def files(self, folder: Path, below: str) -> None:
        """Files of the whole run: a folder, and the place they are shown at."""
        self._append("files", folder=str(folder), below=below)

    def stage_started(
        self,
        stage: str,
        task: str,
        params: Mapping[str, Json],
        tags: Mapping[str, str],
        datasets: Sequence[Mapping[str, str]] = (),
        shards: int = 1,
    ) -> None:
        """`datasets`: each with name, digest and source. `shards`: how many the stage has, done ones among
        them; curves and previews of a stage with one do not name it."""
        with self._lock:
            fields = {
                "task": task,
                "params": params,
                "tags": tags,
                "datasets": list(datasets),
                "shards": shards,
            }
            self._write("stage_started", max(_now_ms(), self._last_start + 1), stage=stage, **fields)

    def metrics(
        self, stage: str, shard: str, step: int, values: Mapping[str, float], time_ms: int | None = None
    ) -> None:
        """Points of a shard's curves; a point (stage, shard, step, name) counts once, the first time.

        `time_ms`: when they were logged, where that was not now.
        """
        with self._lock:
            new = {
                name: v for name, v in values.items() if not self._seen("metrics", stage, shard, name, step)
            }
            if new and not self._thinned(stage, step):
                self._write("metrics", time_ms, stage=stage, shard=shard, step=step, values=_encoded(new))

    def preview(
        self, stage: str, shard: str, name: str, step: int, blob: str, time_ms: int | None = None
    ) -> None:
        """A picture, `blob` being the digest of a PNG; (stage, shard, name, step) counts once."""
        with self._lock:
            if not self._seen("preview", stage, shard, name, step):
                self._write("preview", time_ms, stage=stage, shard=shard, name=name, step=step, blob=blob)

    def stage_ended(
        self,
        stage: str,
        state: str,
        metrics: Mapping[str, float],
        artifact: str | None = None,
        digest: str | None = None,
        manifest: Json = None,
        tables: str | None = None,
        failed_shards: int = 0,
        model: Json = None,
    ) -> None:
        """`state`: done, cached, failed, interrupted or stopped. `metrics`: the final ones. `manifest`: JSON,
        or its text. `tables`: text for people to read. `model`: what it is when asked as a model (served.py)."""
        with self._lock:
            fields = {"artifact": artifact, "digest": digest, "failed_shards": failed_shards}
            final = {"metrics": _encoded(metrics), "step": self._last_step(stage)}
            files = {"manifest": manifest, "tables": tables, **({"model": model} if model else {})}
            self._write("stage_ended", None, stage=stage, state=state, **fields, **final, **files)

    def run_ended(self, state: str) -> None:
        """`state`: done, failed or interrupted."""
        self._append("run_ended", state=state)

    def report(self, path: Path, digest: str) -> None:
        """The page of the whole run as it ended: where it lies, and the sha256 of its bytes."""
        self._append("report", path=str(path), digest=digest)

    def abandoned(self) -> None:
        """Says for a driver that died that its run was interrupted, at the time of its last event."""
        with self._lock:
            self._write("run_ended", min(self._last, _now_ms()), state="interrupted")

    @property
    def state(self) -> str | None:
        """How the run ended; None while it goes on, or since its driver died."""
        return self._state

    def put_aside(self, event: Event, reason: str) -> None:
        """Keeps an event that was refused, with the reason, beside the log."""
        with self.path.with_suffix(".refused.jsonl").open("a") as file:
            file.write(json.dumps({"reason": reason, "event": event}) + "\n")

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Event, int]]:
        """The events between two byte offsets, each with the offset at which the next one begins.

        Only whole lines are read, up to what was written when the reading began.
        """
        stop = self.size if stop is None else stop
        with self.path.open("rb") as file:
            file.seek(start)
            end = start
            while end < stop and (line := file.readline()).endswith(b"\n"):
                end += len(line)
                if (event := _decoded(line)) is not None:
                    yield event, end

    @property
    def size(self) -> int:
        """Bytes in the log."""
        return self.path.stat().st_size

    def cursor(self, target: str) -> int:
        """How many bytes `target`, a tracking URI, has."""
        return min(_cursors(self.path).get(target_key(target), 0), self.size)

    def advance(self, target: str, offset: int) -> None:
        """Says that `target` has everything up to `offset`. Replaces the cursor file at once."""
        with self._cursor_lock:
            cursors = _cursors(self.path) | {target_key(target): offset}
            path = _cursor_path(self.path)
            draft = path.with_suffix(f".{os.getpid()}.tmp")
            draft.write_text(json.dumps(cursors))
            draft.replace(path)

    def left(self, target: str) -> int:
        """How many events `target` does not have yet."""
        return sum(1 for _ in self.read(self.cursor(target)))

    def claim(self) -> bool:
        """Makes this process the one that delivers, until `release` or its death; False: another one is."""
        if self._claim is None:
            file = os.open(self.path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return False
            self._claim = file
        return True

    def release(self) -> None:
        """Ends the claim."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def close(self) -> None:
        """Ends the claim and closes the file. Reading still works, appending does not."""
        self.release()
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _append(self, kind: str, **fields: Json) -> None:
        with self._lock:
            self._write(kind, None, **fields)

    def _write(self, kind: str, t: int | None, **fields: Json) -> None:
        now = max(_now_ms(), self._last_start)
        event = {"t": now if t is None else t, "kind": kind, **fields}
        line = json.dumps(event, separators=(",", ":"), allow_nan=False, default=str).encode() + b"\n"
        line = b"\n" + line if self._torn else line
        self._torn = True
        try:
            self._torn = os.write(self._file, line) != len(line)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot write: {error.strerror}; {_ADVICE}") from error
        if self._torn:
            raise StoreError(f"{self.path}: written in part only, the disk is full; {_ADVICE}")
        self._remember(event)

    def _remember(self, event: Event) -> None:
        kind = event["kind"]
        self._last = max(self._last, event["t"])
        if kind != "report":
            self._state = event["state"] if kind == "run_ended" else None
        if kind in ("run_started", "stage_started"):
            self._last_start = max(self._last_start, event["t"])
        if kind in ("metrics", "preview"):
            for name in event["values"] if kind == "metrics" else [event["name"]]:
                series = (kind, event["stage"], event["shard"], name)
                self._steps.setdefault(series, set()).add(event["step"])
        if kind == "metrics":
            self._points[event["stage"]] += len(event["values"])

    def _seen(self, kind: str, stage: str, shard: str, name: str, step: int) -> bool:
        return step in self._steps.get((kind, stage, shard, name), ())

    def _thinned(self, stage: str, step: int) -> bool:
        """Whether a point is one of those that a stage with very many does without."""
        return step * _SPREAD % 2**32 >= 2**32 >> (self._points[stage] // _POINTS)

    def _last_step(self, stage: str) -> int:
        """The highest step of the stage's curves: where final metrics of the same names belong."""
        of_stage = (steps for series, steps in self._steps.items() if series[:2] == ("metrics", stage))
        return max((max(steps) for steps in of_stage), default=0)


def target_key(target: str) -> str:
    """A name for a tracking URI that keeps the secrets out that it may hold."""
    return hashlib.sha256(target.encode()).hexdigest()[:16]


def unfinished(path: Path, target: str) -> bool:
    """Whether the log at `path` has events that `target` lacks, or ends without its run having ended.

    Looks at sizes and at the last line only. False for an empty log and one that is sent elsewhere.
    """
    size = path.stat().st_size
    cursors = _cursors(path)
    if size == 0 or (cursors and target_key(target) not in cursors):
        return False
    tail = _tail(path)
    return cursors.get(target_key(target), 0) < size or not any(kind in tail for kind in _LAST)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _tail(path: Path, length: int = 8192) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(length, path.stat().st_size), os.SEEK_END)
        return file.read().rstrip(b"\n").rpartition(b"\n")[2]


def _ends_a_line(file: int) -> bool:
    size = os.fstat(file).st_size
    return size == 0 or os.pread(file, 1, size - 1) == b"\n"


def _encoded(values: Mapping[str, float]) -> dict[str, float | str]:
    """JSON has no NaN and no infinity: they travel as words that `float` reads."""
    return {name: float(v) if math.isfinite(v) else str(float(v)) for name, v in values.items()}


def _decoded(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "t" in event and "kind" in event else None


def _cursor_path(path: Path) -> Path:
    return path.with_suffix(".cursor")


def _cursors(path: Path) -> dict[str, int]:
    try:
        cursors = json.loads(_cursor_path(path).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return cursors if isinstance(cursors, dict) else {}
