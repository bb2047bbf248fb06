"""One trial of a search: an experiment with overrides, planned and run as `limbeck run` does it.

It lives in an actor without a core of its own, which drives the trial's workers. Ray Tune asks it for one
result after another; the run goes on meanwhile, in a thread.
"""

import contextlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ray.tune import PlacementGroupFactory, Trainable

from orchestrator.console import Console
from orchestrator.errors import Infeasible, Interrupted, LimbeckError, RunFailed, UserError, nearest
from orchestrator.experiment import load_experiment
from orchestrator.feasibility import Offer, problems
from orchestrator.identity import begin_run
from orchestrator.plan import Plan, make_plan
from orchestrator.report.writing import walk_and_report
from orchestrator.run import Run
from orchestrator.spaces import metric_stage
from orchestrator.spool import EVENTS, Spool
from orchestrator.store import RunRecord, Store
from orchestrator.trials import Curve

_LOOK_S = 0.2
_STOP_S = 60.0
"""A run that was asked to stop ends its workers after 20 s at most."""
Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Told:
    """All that a trial is told."""

    run_id: str
    search: str
    """Id of the search."""
    experiment: str
    """Path of the YAML file."""
    overrides: Sequence[str]
    metric: str
    store_uri: str
    runs_folder: str
    """Where the logs of events lie."""
    offer: Offer
    """What this trial may use."""
    node: str
    """Ray's resource that the driver's node alone has: trials write into folders that it reads."""
    stop_file: str
    """Stop in order once it exists."""


class TrialDriver(Trainable):
    """What Ray Tune runs; its config is a `Told`, below `told`."""

    @classmethod
    def default_resource_request(cls, config: Mapping[str, Any]) -> PlacementGroupFactory:
        """No core: the workers are those who work. A little of what the driver's node alone has."""
        return PlacementGroupFactory([{config["told"].node: 0.001}])

    def setup(self, config: dict[str, Any]) -> None:
        """Begins the trial."""
        self._walk = _Walk(config["told"])

    def step(self) -> Result:
        """The next point of the metric's curve, or, as the last, how the trial ended."""
        while True:
            if Path(self._walk.told.stop_file).exists():
                self._walk.request_stop()
            with contextlib.suppress(Empty):
                return self._walk.results.get(timeout=_LOOK_S)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Goes over to another trial: this process has all imported already."""
        self._walk.end()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Ends the trial, if it is not over, and its workers."""
        self._walk.end()


class _Walk:
    """The run of one trial, in a thread; `results` are read by the actor."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.results: SimpleQueue[Result] = SimpleQueue()
        self._curve, self._step, self._started = Curve(), 0, time.monotonic()
        self._stage = self._name = ""
        self._run: Run | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._work, name="trial", daemon=True)
        self._thread.start()

    def request_stop(self) -> None:
        """Has the workers save their progress and end."""
        self._stop = True
        if self._run:
            self._run.request_stop()

    def end(self) -> None:
        """Returns when nothing of the trial is left. Raises LimbeckError where that takes too long."""
        self.request_stop()
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise LimbeckError(f"trial {self.told.run_id} does not stop within {_STOP_S:g} s")

    def _work(self) -> None:
        try:
            metrics = self._go()
            last: Result = {"state": "done", "metric": metrics[self._name], "metrics": metrics}
        except Interrupted:
            last = {"state": "interrupted", "metric": math.nan}
        except LimbeckError as error:
            last = {"state": "failed", "metric": math.nan, "error": str(error)}
        except Exception as error:  # noqa: BLE001  a failed trial is a row with its error
            last = {"state": "failed", "metric": math.nan, "error": f"{type(error).__name__}: {error}"}
        seconds = round(time.monotonic() - self._started, 3)
        self.results.put({**last, **self._shards(), "seconds": seconds, "step": self._step + 1, "done": True})

    def _go(self) -> dict[str, float]:
        """Runs the experiment and returns the metrics of the stage that the search goes by."""
        told = self.told
        experiment = load_experiment(Path(told.experiment), told.overrides)
        store, offer = Store.open(told.store_uri, create=False), told.offer
        plan = make_plan(experiment, store, offer)
        found = problems([stage for stage in plan.stages if stage.active], offer)
        if found:
            raise Infeasible("\n".join(found))
        self._stage = metric_stage(told.metric, experiment)
        self._name = told.metric.removeprefix(f"{self._stage}.")
        record = self._drive(plan, store)
        if record.state != "done":
            raise RunFailed(_failure(record, store))
        return self._metrics(record)

    def _drive(self, plan: Plan, store: Store) -> RunRecord:
        told = self.told
        record = begin_run(plan, store, told.run_id)
        store.save_run(record)
        spool = Spool(Path(told.runs_folder) / told.run_id / EVENTS)
        with contextlib.closing(spool):
            console = Console(quiet=True)
            self._run = Run(plan, record, store, spool, console, on_metrics=self._hear, search=told.search)
            if self._stop:
                self._run.request_stop()
            record, _ = walk_and_report(self._run, store, spool, console)
            return record

    def _hear(self, stage: str, shard: str, step: int, values: Mapping[str, float]) -> None:
        if stage != self._stage or self._name not in values:
            return
        point = self._curve.add(shard, step, values[self._name])
        if point:
            self._step = point[0]
            result = {"state": "running", "step": point[0], "metric": point[1]}
            self.results.put({**result, **self._shards()})

    def _shards(self) -> dict[str, int]:
        stages = self._run.record.stages if self._run else []
        return {
            "reused": sum(stage.cached_shards for stage in stages),
            "computed": sum(stage.computed_shards for stage in stages),
        }

    def _metrics(self, record: RunRecord) -> dict[str, float]:
        metrics = next(stage.metrics for stage in record.stages if stage.stage == self._stage)
        if self._name not in metrics:
            raise UserError(
                f"search.metric: stage {self._stage} has no metric {self._name!r}; {nearest(self._name, metrics)}"
            )
        return dict(metrics)


def _failure(record: RunRecord, store: Store) -> str:
    """What went wrong first, in one line."""
    kept = store.failures(record.run_id)
    if not kept:
        return f"run {record.run_id} {record.state}"
    more = f" (and {len(kept) - 1} more)" if len(kept) > 1 else ""
    return f"{kept[0].stage} {kept[0].shard}: {kept[0].failure['error']}{more}"
