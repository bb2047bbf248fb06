"""MLflow, written by one thread in the driver.

It reads the run's event log and writes what is new into MLflow, in batches, from a cursor that is moved after
each. MLflow away or broken never stops or slows the work: the events stay in the log until it is back, in this
run or a later one.

`mlflow` is imported when the first Tracker is made, with its telemetry off; none of its global state is set.
"""

import contextlib
import fcntl
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from orchestrator.errors import UserError
from orchestrator.mlflow_names import path_part, shorten
from orchestrator.places import home, is_remote
from orchestrator.projection import Known, Point, Projection, ReadBlob
from orchestrator.spool import EVENTS, Event, Spool, unfinished

Item = TypeVar("Item")

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""What is set before the import where the user has not: no telemetry, no chatter, and no retries inside
MLflow, which would make a run twice where the answer to the first request was lost."""

_POINTS, _PAIRS = 1000, 100
"""MLflow's limits for one request: metrics; parameters or tags."""
_PARAM, _TAG, _NAME, _DIGEST, _SOURCE = 6000, 8000, 500, 36, 65_535
"""MLflow 3.17's limits in characters: values of parameters and of tags, a dataset's name, digest and source."""
_POLL_S, _LONGEST_S, _CLOSING_S = 1.0, 30.0, 0.5
"""Seconds between two looks at the spool; the longest back-off; the longest while closing."""
_TRIES = 5
"""An event that fails so often while MLflow answers other requests is at fault itself and is put aside."""


def default_uri(store_root: Path) -> str:
    """SQLite in the store's folder."""
    path = store_root.resolve() / "tracking" / "mlflow.db"
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


def uri_of(store_uri: str, given: str | None) -> str:
    """Where the runs of a store (by its own `uri`) go: as given, else SQLite in the store's folder.

    UserError where the store is remote and nothing is given.
    """
    if given:
        return given
    if is_remote(store_uri):
        raise UserError(
            f"store {store_uri}: MLflow's SQLite database cannot lie in an object store; say where it is to be "
            "by --tracking or LIMBECK_TRACKING, such as sqlite:////home/me/mlflow.db or https://mlflow.example.org"
        )
    return default_uri(home(store_uri))


def default_artifacts(store_root: Path) -> Path:
    """Where the files of MLflow's runs lie in the store's folder."""
    return store_root.resolve() / "tracking" / "artifacts"


def files_root(store_root: Path) -> Path | str:
    """Where those files are to lie: what `LIMBECK_TRACKING_FILES` names, a folder or a URI such as
    s3://bucket/prefix, else in the store's folder."""
    given = os.environ.get("LIMBECK_TRACKING_FILES")
    if not given:
        return default_artifacts(store_root)
    return given if "://" in given else Path(given)


def prepare(uri: str, artifact_root: Path | str) -> None:
    """Makes the tables of a database that has none yet, one process at a time; a server does so itself.

    Raises what MLflow raises, among it an MlflowException for a database of another version.
    """
    if _is_server(uri):
        return
    _import_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with _alone(uri):
        store = SqlAlchemyStore(uri, _as_uri(artifact_root))  # type: ignore[no-untyped-call]
        store.engine.dispose()


def leftovers(runs_folder: Path, uri: str, but: Path | None = None) -> list[Path]:
    """The files of the spools below runs/ that still have something for `uri`, oldest first.

    Among them those whose driver died, even where MLflow has all their events: it believes that they still
    run. A spool that another process delivers is found too; `Spool.claim` tells. `but`: one to leave out.
    """
    found = runs_folder.resolve().glob(f"*/{EVENTS}")
    paths = [path for path in found if unfinished(path, uri) and not (but and path.samefile(but))]
    return sorted(paths, key=lambda path: path.stat().st_mtime)


class Tracker:
    """Delivers the events of `spool` to the MLflow at `uri`, from the moment it is made until `close`.

    `read_blob` gives the bytes of a picture by its digest. New experiments in a database keep their files
    below `artifact_root`, a folder or an object store's URI; a server keeps them where it is told to.
    `earlier`, the folder runs/, has what earlier runs left delivered too, whenever there is nothing newer.
    What other processes append to spools of their own is delivered as well: `follow` them.
    """

    error: str | None = None
    """What MLflow said when it last failed; None once it works again."""

    def __init__(
        self,
        uri: str,
        spool: Spool,
        read_blob: ReadBlob,
        artifact_root: Path | str | None = None,
        earlier: Path | None = None,
    ) -> None:
        self._uri, self._read_blob, self._earlier = uri, read_blob, earlier
        self._root = artifact_root or spool.path.parent / "artifacts"
        self._closing, self._deadline, self._own_is_done = threading.Event(), float("inf"), False
        self._own = _Delivery(spool, uri, self._projection, self._expired)
        self._followed: list[_Delivery] = []
        self._left: list[Path] | None = None
        self._old: _Delivery | None = None
        self._backend: _Mlflow | None = None
        spool.claim()
        with contextlib.suppress(ImportError):
            _import_mlflow()  # here: two threads that import the same package at once may deadlock
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def follow(self, spool: Spool) -> None:
        """Delivers what another process appends to `spool` from now on. Call it before that process begins,
        so that no other driver takes it for one that was left behind."""
        spool.claim()
        self._followed.append(_Delivery(spool, self._uri, self._projection, self._expired))

    @property
    def refused(self) -> int:
        """Events that MLflow would not take, put aside in the spool's folder."""
        return sum(delivery.refused for delivery in self._deliveries())

    def close(self, deadline_s: float) -> int:
        """Delivers what is left of this run, and then of earlier ones, for `deadline_s` seconds at most.

        Returns how many events of this run remain.
        """
        self._deadline = time.monotonic() + deadline_s
        self._closing.set()
        self._thread.join(deadline_s)
        return sum(delivery.spool.left(self._uri) for delivery in self._deliveries())

    def _work(self) -> None:
        delay = _POLL_S
        while not (self._expired() or self._own_is_done):
            last = self._closing.is_set()
            try:
                for delivery in self._deliveries():
                    delivery.drain()
                self.error, delay = None, _POLL_S
                self._own_is_done = last
                self._catch_up()
                if last:
                    break
            except Exception as error:  # noqa: BLE001 - whatever MLflow does, the work goes on
                self.error, delay = one_line(error), min(2 * delay, _LONGEST_S)
            self._wait(delay)
        if self._old:
            self._old.spool.close()
        for delivery in self._deliveries():
            delivery.spool.release()

    def _deliveries(self) -> "list[_Delivery]":
        return [self._own, *self._followed]

    def _catch_up(self) -> None:
        """Delivers what earlier runs left, one after another: thousands of open files are more than a process may
        have."""
        if self._left is None:
            found = leftovers(self._earlier, self._uri, but=self._own.spool.path) if self._earlier else []
            self._left = found
        while self._left and not self._gives_way():
            if self._old is None:
                self._old = _Delivery(Spool(self._left[0]), self._uri, self._projection, self._gives_way)
            if not self._old.finish():
                return
            self._old = None
            self._left.pop(0)

    def _gives_way(self) -> bool:
        """Whether the backlog has to wait for the end of this run's own events, or the time is up."""
        return self._expired() or (self._closing.is_set() and not self._own_is_done)

    def _wait(self, delay: float) -> None:
        if self._closing.is_set():
            time.sleep(max(0.0, min(delay, _CLOSING_S, self._deadline - time.monotonic())))
        else:
            self._closing.wait(delay)

    def _expired(self) -> bool:
        return self._closing.is_set() and time.monotonic() > self._deadline

    def _projection(self) -> Projection:
        if self._backend is None:
            prepare(self._uri, self._root)
            self._backend = _Mlflow(self._uri, self._root)
        return Projection(self._backend, self._read_blob)


class _Delivery:
    """Brings one spool from its cursor to its end."""

    def __init__(
        self, spool: Spool, uri: str, connect: Callable[[], Projection], expired: Callable[[], bool]
    ) -> None:
        self.spool, self.refused = spool, 0
        self._uri, self._connect, self._expired = uri, connect, expired
        self._projection: Projection | None = None
        self._failures = 0

    def drain(self) -> None:
        """Delivers until nothing is left or the time is up; raises what MLflow raises."""
        if not self.spool.claim():
            raise OSError(f"{self.spool.path}: another process delivers this run's events")
        projection = self._connected()
        for batch, end in _batches(self.spool.read(self.spool.cursor(self._uri))):
            if self._expired():
                return
            self._deliver(projection, batch)
            self.spool.advance(self._uri, end)

    def finish(self) -> bool:
        """Delivers what another driver left, unless one is at it, and says that its run has ended.

        False where it was cut short; the next call goes on.
        """
        if self.spool.claim():
            if self.spool.state is None:
                self.spool.abandoned()
            self.drain()
            if self._expired():
                return False
        self.spool.close()
        return True

    def _connected(self) -> Projection:
        if self._projection is None:
            projection = self._connect()
            for event, _ in self.spool.read(0, self.spool.cursor(self._uri)):
                projection.learn(event)
            self._projection = projection
        return self._projection

    def _deliver(self, projection: Projection, batch: Sequence[Event]) -> None:
        """Writes a batch; one that fails again and again while MLflow answers is put aside, event by event."""
        try:
            projection.write(batch)
        except Exception as error:
            projection.forget()
            projection.backend.probe()
            self._failures += 1
            if self._failures < _TRIES:
                raise
            if len(batch) == 1:
                self.spool.put_aside(batch[0], one_line(error))
                self.refused += 1
            for event in batch if len(batch) > 1 else ():
                self._failures = _TRIES - 1
                self._deliver(projection, [event])
        self._failures = 0


class _Mlflow:
    """The `Backend` over MLflow's client, within MLflow's limits.

    The files of a new experiment in a database lie below `root`; a server puts them where it is told to.
    """

    def __init__(self, uri: str, root: Path | str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        self._location = None if _is_server(uri) else _as_uri(root)

    def experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        if known is None:
            location = self._location and f"{self._location.rstrip('/')}/{path_part(name)}"
            return self._client.create_experiment(name, location)
        if known.lifecycle_stage == "deleted":
            self._client.restore_experiment(known.experiment_id)
        return str(known.experiment_id)

    def find(self, experiment: str, tag: str, value: str) -> list[tuple[str, Mapping[str, str]]]:
        order = ["attributes.start_time ASC"]
        runs = self._client.search_runs(
            [experiment], f"tags.`{tag}` = '{value}'", max_results=50_000, order_by=order
        )
        return [(run.info.run_id, run.data.tags) for run in runs]

    def create(self, experiment: str, name: str, t: int, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(experiment, start_time=t, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def known(self, run: str) -> Known:
        found = self._client.get_run(run)
        return Known(found.info.status, found.data.params, found.data.metrics)

    def points(self, run: str, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        for part in _parts(points, _POINTS):
            self._client.log_batch(run, metrics=[Metric(*point) for point in part])

    def params(self, run: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        for part in _parts(list(params.items()), _PAIRS):
            self._client.log_batch(run, params=[Param(key, shorten(value, _PARAM)) for key, value in part])

    def tags(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for part in _parts(list(tags.items()), _PAIRS):
            self._client.log_batch(run, tags=[RunTag(key, shorten(value, _TAG)) for key, value in part])

    def datasets(self, run: str, datasets: Sequence[Mapping[str, str]]) -> None:
        """The digest is cut to what MLflow takes; the whole one is a tag of the input."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for dataset in datasets:
            name, digest, source = dataset["name"], dataset["digest"], shorten(dataset["source"], _SOURCE)
            tags = [InputTag("mlflow.data.context", "training"), InputTag("limbeck.digest", digest)]
            entity = Dataset(shorten(name, _NAME), digest[:_DIGEST], source_type="local", source=source)
            inputs.append(DatasetInput(entity, tags))
        if inputs:
            self._client.log_inputs(run, inputs)

    def text(self, run: str, text: str, name: str) -> None:
        self._client.log_text(run, text, name)

    def files(self, run: str, folder: Path, below: str) -> None:
        self._client.log_artifacts(run, str(folder), below)

    def model(
        self, run: str, name: str, kind: str, tags: Mapping[str, str], folder: Path, points: Sequence[Point]
    ) -> None:
        from mlflow.entities import LoggedModelOutput

        told = self._client.get_run(run)
        found = self._client.search_logged_models(
            [told.info.experiment_id], f"source_run_id = '{run}'", max_results=1
        )
        if found:
            model = found[0].model_id
            self._client.set_logged_model_tags(model, dict(tags))
        else:
            model = self._client.create_logged_model(
                told.info.experiment_id, name, run, dict(tags), model_type=kind
            ).model_id
        self._client.log_model_artifacts(model, str(folder))
        self._client.finalize_logged_model(model, "READY")
        known = told.outputs.model_outputs if told.outputs else []
        if model not in [output.model_id for output in known]:
            self._client.log_outputs(run, [LoggedModelOutput(model, step=0)])
        self._model_points(run, model, points)

    def _model_points(self, run: str, model: str, points: Sequence[Point]) -> None:
        """Those that the model lacks. MLflow keeps one of two equal points of a run, so that there is no second one."""
        from mlflow.entities import Metric

        known = {one.key: one.value for one in self._client.get_logged_model(model).metrics or ()}
        fresh = [point for point in points if known.get(point.key) != point.value]
        for part in _parts(fresh, _POINTS):
            self._client.log_batch(run, metrics=[Metric(*point, model_id=model) for point in part])

    def status(self, run: str, status: str, t: int | None = None) -> None:
        if t is None:
            self._client.update_run(run, status=status)
        else:
            self._client.set_terminated(run, status, t)

    def probe(self) -> None:
        self._client.search_experiments(max_results=1)


def _batches(events: Iterable[tuple[Event, int]]) -> Iterator[tuple[list[Event], int]]:
    """Points that follow one another together, up to what one request takes; other events one by one.

    Each batch comes with the offset behind it.
    """
    batch: list[Event] = []
    points = end = 0
    for event, behind in events:
        size = len(event["values"]) if event["kind"] == "metrics" else 0
        if batch and (not size or points + size > _POINTS):
            yield batch, end
            batch, points = [], 0
        batch, points, end = [*batch, event] if size else [event], points + size, behind
        if not size:
            yield batch, end
            batch, points = [], 0
    if batch:
        yield batch, end


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def one_line(error: Exception) -> str:
    """What MLflow said, short enough for a message."""
    return shorten(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _as_uri(root: Path | str) -> str:
    return root.resolve().as_uri() if isinstance(root, Path) else root


def _import_mlflow() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    importlib.import_module("mlflow.tracking")


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Holds a lock beside an SQLite file, whose first migration two processes may not make at once."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
