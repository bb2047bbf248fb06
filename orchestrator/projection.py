"""A run's events as MLflow shows them: one parent run an experiment run, one child a stage. Pure.

Every write may be repeated at no harm, so that after a crash, a lost answer or a lost cursor the same events
are simply sent again: runs are found by their tags before they are made, a point keeps its own time (MLflow's
primary key is run, name, step, time and value), parameters are written once, files are overwritten.
"""

import hashlib
import io
import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from orchestrator.mlflow_names import image_key, mlflow_key
from orchestrator.served import model_files
from orchestrator.spool import Event

ReadBlob = Callable[[str], bytes]

REPORT = "report.html"
_THUMBNAIL = 256
"""Pixels of the longer side, as MLflow makes its own."""
_STATUS = {"done": "FINISHED", "cached": "FINISHED", "interrupted": "KILLED", "stopped": "KILLED"}


class Point(NamedTuple):
    """A point of a curve; `t` in ms."""

    key: str
    value: float
    t: int
    step: int


@dataclass(frozen=True)
class Known:
    """What MLflow knows of one of its runs; `metrics` are the latest values."""

    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]


class Backend(Protocol):
    """What is asked of MLflow. `run` is an id of MLflow's; every call raises what MLflow raises."""

    def experiment(self, name: str) -> str:
        """The id of the experiment, made where there is none."""
        ...

    def find(self, experiment: str, tag: str, value: str) -> list[tuple[str, Mapping[str, str]]]:
        """The runs that carry a tag, oldest first: each one's id and its tags."""
        ...

    def create(self, experiment: str, name: str, t: int, tags: Mapping[str, str]) -> str: ...
    def known(self, run: str) -> Known: ...
    def points(self, run: str, points: Sequence[Point]) -> None: ...
    def params(self, run: str, params: Mapping[str, str]) -> None: ...
    def tags(self, run: str, tags: Mapping[str, str]) -> None: ...
    def datasets(self, run: str, datasets: Sequence[Mapping[str, str]]) -> None: ...
    def text(self, run: str, text: str, name: str) -> None: ...
    def files(self, run: str, folder: Path, below: str) -> None: ...
    def model(
        self, run: str, name: str, kind: str, tags: Mapping[str, str], folder: Path, points: Sequence[Point]
    ) -> None:
        """The one model of a run, of the files in a folder; made where the run has none. `points` of the run's are
        its metrics too."""
        ...

    def status(self, run: str, status: str, t: int | None = None) -> None:
        """RUNNING, or how and when it ended."""
        ...

    def probe(self) -> None:
        """Raises where MLflow does not answer."""
        ...


class Projection:
    """Writes the events of one run; `read_blob` gives the bytes of a picture by its digest."""

    def __init__(self, backend: Backend, read_blob: ReadBlob) -> None:
        self.backend, self._read_blob = backend, read_blob
        self._started: Event = {"run_id": "", "experiment": "limbeck"}
        self._stages: dict[str, Event] = {}
        self._experiment: str | None = None
        self._runs: dict[str, str] = {}

    def learn(self, event: Event) -> None:
        """Takes note of an event that MLflow has already."""
        if event["kind"] == "run_started":
            self._started = event
        elif event["kind"] == "stage_started":
            self._stages[event["stage"]] = event

    def forget(self) -> None:
        """Has everything that was learnt from MLflow looked up again."""
        self._experiment, self._runs = None, {}

    def write(self, batch: Sequence[Event]) -> None:
        """Writes either curves' points, any number of events, or one event of another kind."""
        if batch[0]["kind"] == "metrics":
            self._points(batch)
        else:
            self.learn(batch[0])
            getattr(self, f"_on_{batch[0]['kind']}")(batch[0])

    def _points(self, batch: Sequence[Event]) -> None:
        points: dict[str, list[Point]] = {}
        for event in batch:
            of_run = points.setdefault(self._run(event["stage"], event["t"]), [])
            for name, value in event["values"].items():
                key = mlflow_key(self._series(name, event))
                of_run.append(Point(key, float(value), event["t"], event["step"]))
        for run, of_run in points.items():
            self.backend.points(run, of_run)

    def _on_run_started(self, event: Event) -> None:
        self._describe(self._run("", event["t"]), event["params"], event["tags"])

    def _on_files(self, event: Event) -> None:
        """A folder that is gone by now has nothing to show."""
        if Path(event["folder"]).is_dir():
            self.backend.files(self._run("", event["t"]), Path(event["folder"]), event["below"])

    def _on_report(self, event: Event) -> None:
        """The page; one that was written anew since is not what this event tells of, and a later one tells of it."""
        path = Path(event["path"])
        page = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(page).hexdigest() == event["digest"]:
            self.backend.text(self._run("", event["t"]), page.decode(), REPORT)

    def _on_stage_started(self, event: Event) -> None:
        run = self._run(event["stage"], event["t"])
        self._describe(run, event["params"], {"task": event["task"], **event["tags"]})
        self.backend.datasets(run, event["datasets"])

    def _on_preview(self, event: Event) -> None:
        """Puts the picture where MLflow's own image view looks for it, with the thumbnail it expects beside.

        `MlflowClient.log_image` names each file by a random UUID, so that a replay would double it.
        """
        run = self._run(event["stage"], event["t"])
        png = self._read_blob(event["blob"])
        key = image_key(self._series(event["name"], event)).replace("/", "~")
        place = [self._started["run_id"], event["stage"], event["shard"], event["name"], event["step"]]
        name = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(place))
        stem = f"{key}+step+{event['step']}+timestamp+{event['t']}+{name}"
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, f"{stem}.png").write_bytes(png)
            Path(folder, f"{stem}+compressed.webp").write_bytes(_thumbnail(png))
            self.backend.files(run, Path(folder), "images")
        self.backend.tags(run, {"mlflow.loggedImages": "True"})

    def _on_stage_ended(self, event: Event) -> None:
        stage, t = event["stage"], event["t"]
        run, parent = self._run(stage, t), self._run("", t)
        final = {name: float(value) for name, value in event["metrics"].items()}
        self._final(run, final, event["step"], t)
        self._final(parent, {f"{stage}.{name}": value for name, value in final.items()}, 0, t)
        found = {name: event[name] for name in ("artifact", "digest", "state") if event[name]}
        self.backend.tags(run, _tags({**found, "failed_shards": str(event["failed_shards"])}))
        if event["manifest"] is not None:
            self.backend.text(run, _text(event["manifest"]), "manifest.json")
        if event["tables"] is not None:
            self.backend.text(run, event["tables"], "tables.txt")
        self.backend.status(run, _STATUS.get(event["state"], "FAILED"), t)
        if event.get("model"):  # last: servers before MLflow 3 know no models, and lack nothing else then
            self._show_model(run, event, final)

    def _show_model(self, run: str, event: Event, final: Mapping[str, float]) -> None:
        """The artifact as a model of MLflow's, which refers to it, with the final metrics."""
        name = re.sub(r"[/:.%\"']", "_", f"{self._started['experiment']} {event['stage']}")
        tags = _tags({name: event[name] for name in ("artifact", "digest", "stage")})
        with tempfile.TemporaryDirectory() as folder:
            for file, text in model_files(event["model"], event["t"]).items():
                Path(folder, file).write_text(text)
            points = _as_points(final, event["step"], event["t"])
            self.backend.model(run, name, event["model"]["kind"], tags, Path(folder), points)

    def _on_run_ended(self, event: Event) -> None:
        self._run("", event["t"])
        status = _STATUS.get(event["state"], "FAILED")
        for stage, run in self._runs.items():
            if stage == "" or self.backend.known(run).status == "RUNNING":
                self.backend.status(run, status, event["t"])

    def _series(self, name: str, event: Event) -> str:
        """A curve's or picture's name: with the shard's label where the stage has several."""
        several = self._stages.get(event["stage"], {}).get("shards", 1) > 1
        return f"{name}/{event['shard']}" if several and event["shard"] else name

    def _run(self, stage: str, t: int) -> str:
        """MLflow's run of a stage, that of the whole run for "": found, or made with the tags to find it by."""
        if self._experiment is None:
            self._experiment = self.backend.experiment(self._started["experiment"])
        self._runs = self._runs or self._find(self._experiment)
        if stage not in self._runs:
            tags = {**self._identity(), **self._nested(stage, t)}
            name = stage or self._name()
            self._runs[stage] = self.backend.create(self._experiment, name, t, tags)
        return self._runs[stage]

    def _nested(self, stage: str, t: int) -> dict[str, str]:
        """The tags that put a stage below its run, and a trial below its search."""
        search = self._started.get("search")
        if stage:
            return {"mlflow.parentRunId": self._run("", t), "limbeck.stage": stage}
        return {"mlflow.parentRunId": self._parent(search, t), "limbeck.search": search} if search else {}

    def _parent(self, search: str, t: int) -> str:
        """MLflow's run of a search: found, or made where a trial comes to it before the search itself."""
        assert self._experiment is not None
        found = self.backend.find(self._experiment, "limbeck.run_id", search)
        if found:
            return found[0][0]
        tags = {**self._identity(), "limbeck.run_id": search}
        return self.backend.create(self._experiment, self._started["experiment"], t, tags)

    def _name(self) -> str:
        """A trial is shown by its number, which its id ends with."""
        if self._started.get("search"):
            return f"trial {self._started['run_id'].rpartition('-')[2]}"
        return str(self._started["experiment"])

    def _find(self, experiment: str) -> dict[str, str]:
        """MLflow's runs of this run by stage; the oldest, should there be two."""
        runs: dict[str, str] = {}
        for run, tags in self.backend.find(experiment, "limbeck.run_id", self._started["run_id"]):
            runs.setdefault(tags.get("limbeck.stage", ""), run)
        return runs

    def _identity(self) -> dict[str, str]:
        return {
            "limbeck.run_id": self._started["run_id"],
            "limbeck.experiment": self._started["experiment"],
            "mlflow.user": os.environ.get("USER", "unknown"),
            "mlflow.source.name": "limbeck",
            "mlflow.source.type": "LOCAL",
        }

    def _describe(self, run: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Adds the parameters that are not there yet (they cannot be changed) and the tags; it runs."""
        known = self.backend.known(run)
        named = {mlflow_key(name): _text(value) for name, value in params.items()}
        self.backend.params(run, {key: value for key, value in named.items() if key not in known.params})
        self.backend.tags(run, _tags(tags))
        if known.status != "RUNNING":
            self.backend.status(run, "RUNNING")

    def _final(self, run: str, values: Mapping[str, float], step: int, t: int) -> None:
        """Final metrics, the changed ones only: a stage that is reported again shows no second point."""
        known = self.backend.known(run).metrics
        points = _as_points(values, step, t)
        self.backend.points(run, [point for point in points if known.get(point.key) != point.value])


def _as_points(values: Mapping[str, float], step: int, t: int) -> list[Point]:
    return [Point(mlflow_key(name), value, t, step) for name, value in values.items()]


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    named = {mlflow_key(name if "." in name else f"limbeck.{name}"): str(v) for name, v in tags.items()}
    return named | ({"mlflow.source.git.commit": tags["commit"]} if tags.get("commit") else {})


def _thumbnail(png: bytes) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    small = io.BytesIO()
    image.save(small, "WEBP")
    return small.getvalue()


def _text(value: Any) -> str:
    return (
        value if isinstance(value, str) else json.dumps(value, indent=1 if isinstance(value, dict) else None)
    )
