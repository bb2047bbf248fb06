"""What a search keeps: one file a trial, replaced at once, so that a killed search goes on with what is there.

searches/<name>-<digest>/
  search.json           the search's id and what it is a search of
  experiment.yaml       as it was when the search was last called
  asked.json            what that call asked
  trials/0003.json      a row: overrides, state, metric, run, shards reused and computed, curve
  results/              table, plots and the best experiment
  tune/                 Ray Tune's own files; not read again
"""

import csv
import fcntl
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from orchestrator.errors import LimbeckError, UserError
from orchestrator.search import Point, Search, parse
from orchestrator.task import Json

FINISHED = ("done", "stopped")
"""States of trials that are not run again."""


@dataclass(frozen=True)
class Row:
    """One trial."""

    number: int
    point: Point
    """Setting to its value."""
    run_id: str
    state: str = "running"
    """running, done, stopped (by the scheduler), failed or interrupted."""
    metric: float | None = None
    """The final one; of a stopped trial the last of its curve."""
    reused: int = 0
    """Shards that were there already."""
    computed: int = 0
    seconds: float = 0.0
    error: str | None = None
    curve: tuple[tuple[int, float], ...] = field(default=())
    """What the scheduler was told: steps and values."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The final metrics of the stage that the search goes by, of a trial that is done."""

    @property
    def finished(self) -> bool:
        """Whether it is over for good."""
        return self.state in FINISHED

    def shown(self) -> dict[str, Json]:
        """As plain JSON, without the curve."""
        row = {**asdict(self), "overrides": dict(self.point)}
        return {name: value for name, value in row.items() if name not in ("curve", "point")}


class Curve:
    """Makes one curve of those that the shards of a stage log.

    Its step is the sum of the last steps of all shards that have begun, its value the mean of their last
    values; a point that does not take the step further is left out. For a stage of one shard it is the curve
    of that shard.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float]] = {}
        self._step = 0

    def add(self, shard: str, step: int, value: float) -> tuple[int, float] | None:
        """The new point, where there is one."""
        if step < self._last.get(shard, (0, 0.0))[0]:
            return None
        self._last[shard] = step, value
        reached = sum(last for last, _ in self._last.values())
        if reached <= self._step:
            return None
        self._step = reached
        return reached, sum(value for _, value in self._last.values()) / len(self._last)


@dataclass(frozen=True)
class Asked:
    """What the last call of a search asked."""

    name: str
    """Of the experiment."""
    document: Mapping[str, Json]
    """The experiment with the `search` block, overrides merged in."""
    given: tuple[str, ...]
    """The overrides of the command line."""
    commit: str | None = None

    @property
    def search(self) -> Search:
        return parse(self.document["search"])


class Book:
    """The rows of one search, in its folder; `id` is part of the ids of its runs.

    `about` is written down when the search begins.
    """

    def __init__(self, folder: Path, about: Mapping[str, Json]) -> None:
        self.folder = folder
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        known = folder / "search.json"
        if not known.exists():
            self._put(known, {"id": f"{folder.name}-{secrets.token_hex(2)}", **about})
        self.id: str = json.loads(known.read_text())["id"]
        found = (_read(path) for path in sorted((folder / "trials").glob("*.json")))
        self._rows = {row.number: row for row in found if row is not None}

    def ask(self, asked: Asked, experiment: str) -> None:
        """Writes down what this call asks, and the text of the experiment's file."""
        (self.folder / "experiment.yaml").write_text(experiment, encoding="utf-8")
        self._put(self.folder / "asked.json", asdict(asked))

    @property
    def asked(self) -> Asked:
        """UserError where it is a search of an earlier release, which wrote none down."""
        path = self.folder / "asked.json"
        if not path.exists():
            raise UserError(
                f"{path}: not there, search {self.id} is of an earlier release; type its `limbeck tune` again"
            )
        values = json.loads(path.read_text())
        return Asked(**{**values, "given": tuple(values["given"])})

    @property
    def results(self) -> Path:
        """The folder for what a person wants to see."""
        path = self.folder / "results"
        path.mkdir(exist_ok=True)
        return path

    def rows(self, count: int | None = None) -> list[Row]:
        """By number; with `count` the first so many trials alone."""
        return [row for _, row in sorted(self._rows.items()) if count is None or row.number < count]

    def get(self, number: int) -> Row | None:
        return self._rows.get(number)

    def begin(self, number: int, point: Point) -> Row:
        """A row for a trial that is about to run, new or once more."""
        row = Row(number=number, point=dict(point), run_id=f"{self.id}-{number:04d}")
        self.keep(row)
        return row

    def keep(self, row: Row, *, write: bool = True) -> None:
        """Takes a row in the place of what it was, and writes it unless it is about to change again."""
        self._rows[row.number] = row
        if write:
            self._put(self.folder / "trials" / f"{row.number:04d}.json", asdict(row))

    def settled(self, count: int | None = None) -> list[Row]:
        """The rows as they are: where no process is at the search, none is running."""
        try:
            with self.alone():
                over = True
        except LimbeckError:
            over = False
        rows = self.rows(count)
        return [replace(row, state="interrupted") if over and row.state == "running" else row for row in rows]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes from the same search; LimbeckError where one is at it."""
        with (self.folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LimbeckError(
                    f"search {self.id}: another process is at it; wait for it, or stop it, and run this again"
                ) from error
            yield

    def _put(self, path: Path, value: Json) -> None:
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(value))
        draft.replace(path)


def ranked(rows: Sequence[Row], search: Search) -> list[Row]:
    """The trials that are done, best first; then the stopped ones, best first; then the rest by number."""
    sign = -1.0 if search.mode == "max" else 1.0
    order = {"done": 0, "stopped": 1}

    def place(row: Row) -> tuple[int, float, int]:
        value = sign * row.metric if row.metric is not None and row.finished else 0.0
        return order.get(row.state, 2), value, row.number

    return sorted(rows, key=place)


def best_of(rows: Sequence[Row], search: Search) -> Row | None:
    """The best trial that is done; the first of equal ones."""
    return next((row for row in ranked(rows, search) if row.state == "done"), None)


def as_csv(rows: Sequence[Row]) -> str:
    """One line a trial, one column a setting and a metric; values as JSON has them."""
    names = list(dict.fromkeys(name for row in rows for name in row.point))
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    columns = ("number", "state", "metric", "reused", "computed", "seconds", "run_id", "error")
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*columns[:3], *names, *metrics, *columns[3:]])
    for row in rows:
        values = row.shown()
        point = [_cell(row.point.get(name)) for name in names]
        rest = ["" if values[name] is None else values[name] for name in columns]
        found = [row.metrics.get(name, "") for name in metrics]
        writer.writerow([*rest[:3], *point, *found, *rest[3:]])
    return out.getvalue()


def _cell(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read(path: Path) -> Row | None:
    try:
        values: Mapping[str, Json] = json.loads(path.read_text())
        return Row(**{**values, "curve": tuple((step, value) for step, value in values["curve"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not a trial of this version of limbeck ({error}); move the search's folder away, or remove it"
        ) from error
