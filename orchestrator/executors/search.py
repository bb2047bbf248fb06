"""Ray Tune over an experiment. Tune schedules; the rows of the book are the truth, and all a later search reads.

Tune's own snapshots come every ten seconds at best, so nothing is restored from them: finished trials are
told to a fresh searcher and a fresh scheduler, and those that were under way are begun again with the same
overrides; the store has what they had finished.
"""

import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from orchestrator.executors.trial import Told, TrialDriver
from orchestrator.feasibility import Offer
from orchestrator.search import Distribution, Point, Search, overrides, point
from orchestrator.task import derive_seed
from orchestrator.trials import Book, Row

_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "70",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Signals, files, messages and the working folder are ours."""
_ENDLESS = 10**6


@dataclass(frozen=True, kw_only=True)
class Job:
    """A search that is to be made."""

    search: Search
    seed: int
    book: Book
    given: tuple[str, ...]
    """Overrides of the command line; those of a trial come after them."""
    store_uri: str
    runs_folder: Path
    share: Offer
    """What one trial may use."""
    concurrency: int
    on_begin: Callable[[Row], None]
    """Is told a trial's row before its process begins."""
    on_row: Callable[[Row], None]
    """Is told each change of a row."""
    on_tick: Callable[[], None]
    """Is called several times a second."""

    @property
    def stop_file(self) -> Path:
        """Trials stop in order once it exists."""
        return self.book.folder / "stop"

    def left(self) -> list[tuple[int, Point | None]]:
        """The trials that are still to be made; those of Optuna's that were never begun have no point yet."""
        found: list[tuple[int, Point | None]] = []
        for number in range(self.search.count):
            row = self.book.get(number)
            if row and row.finished:
                continue
            known = row.point if row else None
            drawn = self.search.algorithm != "optuna"
            found.append((number, point(self.search, self.seed, number) if drawn else known))
        return sorted(found, key=lambda one: (one[1] is None, one[0]))


class Stop:
    """Ends a search: no trial is begun any more, and those under way stop in order."""

    def __init__(self, job: Job) -> None:
        self._file, self._budget = job.stop_file, job.search.time_budget_s
        self._file.unlink(missing_ok=True)
        self._started = time.monotonic()
        self.asked = self.out_of_time = False

    def request(self) -> None:
        """May be called from a signal handler."""
        self.asked = True
        self._file.touch()

    @property
    def now(self) -> bool:
        """Whether it was asked for, or the time is up."""
        if self._budget is not None and time.monotonic() - self._started > self._budget:
            self.out_of_time = True
            self._file.touch()
        return self.asked or self.out_of_time


def search(job: Job, stop: Stop) -> None:
    """Makes the trials that are left. Needs a Ray to be up; the rows say how it went."""
    for name, value in _ENVIRONMENT.items():
        os.environ[name] = value
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    left, folder = job.left(), job.book.folder / "tune"
    shutil.rmtree(folder, ignore_errors=True)
    tune.run(
        TrialDriver, name="tune", storage_path=str(job.book.folder), num_samples=len(left),
        search_alg=_Numbered(job, stop, left, _resource_of_this_node()), scheduler=_scheduler(job),
        callbacks=[_Ledger(job, stop)], max_concurrent_trials=job.concurrency, reuse_actors=True,
        raise_on_failed_trial=False, verbose=0, trial_name_creator=_name,
        trial_dirname_creator=_name,
    )  # fmt: skip


def _name(trial: Any) -> str:
    return f"{trial.config['number']:04d}"


class _Numbered(Searcher):
    """Hands out the trials by number; asks Optuna where a trial has no point yet."""

    def __init__(self, job: Job, stop: Stop, left: list[tuple[int, Point | None]], node: str) -> None:
        super().__init__(metric="metric", mode=job.search.mode)
        self._job, self._stop, self._left, self._node = job, stop, deque(left), node
        self._optuna = _Optuna(job) if job.search.algorithm == "optuna" else None
        self._given: dict[str, Point] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The config of the next trial."""
        if self._stop.now or not self._left:
            finished: Any = Searcher.FINISHED
            return cast(None, finished)
        number, chosen = self._left.popleft()
        if chosen is None:
            assert self._optuna
            chosen = self._optuna.ask(trial_id)
        else:
            self._given[trial_id] = chosen
        row = self._job.book.begin(number, chosen)
        self._job.on_begin(row)
        return {"number": number, "told": _told(self._job, row, self._node)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells Optuna how it went."""
        value = result.get("metric") if result and result.get("state") in ("done", "running") else None
        if self._optuna and trial_id in self._given and value is not None:
            self._optuna.add(self._given[trial_id], value)
        elif self._optuna and trial_id not in self._given:
            self._optuna.tell(trial_id, value)

    def save(self, checkpoint_path: str) -> None:
        """There is nothing to save: the book has it."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """As above."""


def _told(job: Job, row: Row, node: str) -> Told:
    return Told(
        run_id=row.run_id, search=job.book.id, experiment=str(job.book.folder / "experiment.yaml"),
        overrides=[*job.given, *overrides(row.point)], metric=job.search.metric, store_uri=job.store_uri,
        runs_folder=str(job.runs_folder), offer=job.share, stop_file=str(job.stop_file),
        node=node,
    )  # fmt: skip


def _resource_of_this_node() -> str:
    """Ray gives every node one with its address in its name."""
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return next(f"node:{node['NodeManagerAddress']}" for node in nodes if node["NodeID"] == here)


class _Optuna:
    """Tune's OptunaSearch over our space, knowing all trials that are finished."""

    def __init__(self, job: Job) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._dimensions = job.search.dimensions
        known = [row for row in job.book.rows() if row.finished and row.metric is not None]
        seed = derive_seed(job.seed, "search", "optuna", len(known)) % 2**32
        self._search = OptunaSearch(
            space={name: _distribution(one) for name, one in self._dimensions.items()},
            metric="metric",
            mode=job.search.mode,
            sampler=optuna.samplers.TPESampler(seed=seed),
        )
        for row in known:
            assert row.metric is not None
            self.add(row.point, row.metric)

    def ask(self, trial_id: str) -> Point:
        """A new point."""
        found = self._search.suggest(trial_id)
        assert found is not None
        return {name: self._decoded(name, found[name]) for name in self._dimensions}

    def tell(self, trial_id: str, value: float | None) -> None:
        """How a point that it was asked for did; None where it failed."""
        result = None if value is None else {"metric": value}
        self._search.on_trial_complete(trial_id, result, error=value is None)

    def add(self, chosen: Point, value: float) -> None:
        """How another point did."""
        encoded = {name: self._encoded(name, chosen[name]) for name in self._dimensions}
        self._search.add_evaluated_point(encoded, value)

    def _decoded(self, name: str, value: Any) -> Any:
        values = self._dimensions[name].values
        return self._dimensions[name].snapped(value) if values is None else values[value]

    def _encoded(self, name: str, value: Any) -> Any:
        values = self._dimensions[name].values
        return value if values is None else values.index(value)


def _distribution(one: Distribution) -> Any:
    """As Optuna has it. It cannot both round and take logarithms: then the value is rounded afterwards."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.values is not None:
        return CategoricalDistribution(range(len(one.values)))
    low, high = one.ends
    if one.step is None or one.kind == "qloguniform":
        return FloatDistribution(low, high, log=one.log)
    if isinstance(low, int) and isinstance(one.step, int):
        return IntDistribution(low, high, log=one.log, step=one.step)
    return FloatDistribution(low, high, step=one.step)


@dataclass(frozen=True)
class _Past:
    """A trial of before, as a scheduler sees it."""

    trial_id: str


def _scheduler(job: Job) -> TrialScheduler:
    """The scheduler, told the curves of the trials that are finished."""
    asked = job.search
    common: dict[str, Any] = {"time_attr": "step", "metric": "metric", "mode": asked.mode}
    made: TrialScheduler
    if asked.scheduler == "asha":
        made = ASHAScheduler(
            **common, grace_period=asked.grace_period, reduction_factor=asked.reduction_factor,
            max_t=asked.max_t or max(_ENDLESS, asked.grace_period), stop_last_trials=False,
        )  # fmt: skip
    elif asked.scheduler == "median":
        # a pause would need a checkpoint: no trial gives way to another
        slices: Any = float("inf")
        made = MedianStoppingRule(
            **common, grace_period=asked.grace_period, min_time_slice=slices, hard_stop=True
        )
    else:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    controller: Any = None
    for row in job.book.rows():
        if row.finished and row.curve:
            past: Any = _Past(row.run_id)
            results = [{"step": step, "metric": value} for step, value in row.curve]
            made.on_trial_add(controller, past)
            for result in results:
                made.on_trial_result(controller, past, result)
            made.on_trial_complete(controller, past, results[-1])
    return made


class _Ledger(tune.Callback):
    """Writes into the book what Tune hears of the trials."""

    def __init__(self, job: Job, stop: Stop) -> None:
        self._job, self._stop = job, stop

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called about ten times a second: looks at the clock."""
        if not self._stop.now:
            self._job.on_tick()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A point of a trial's curve, or its end."""
        row = self._row(trial)
        state = result["state"]
        counts = {"reused": result["reused"], "computed": result["computed"]}
        if state == "running":
            curve = (*row.curve, (int(result["step"]), float(result["metric"])))
            self._tell(replace(row, **counts, curve=curve, metric=float(result["metric"])), keep=False)
            return
        metric = float(result["metric"]) if state == "done" else None
        ended: Mapping[str, Any] = {
            **counts, "seconds": result["seconds"], "error": result.get("error"),
            "metrics": result.get("metrics", {}),
        }  # fmt: skip
        self._tell(replace(row, state=state, metric=metric, **ended))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Over, or stopped by the scheduler: then it said nothing of its end."""
        row = self._row(trial)
        if row.state == "running":
            seconds = round(float(trial.last_result.get("time_total_s", 0.0)), 3)
            self._tell(replace(row, state="stopped", seconds=seconds))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The actor died, or something of ours is wrong."""
        row = self._row(trial)
        if row.state == "running":
            why = next((line for line in reversed(str(trial.get_error()).splitlines()) if line.strip()), "")
            self._tell(replace(row, state="failed", error=f"the trial's driver ended: {why.strip()}"))

    def _row(self, trial: Any) -> Row:
        row = self._job.book.get(trial.config["number"])
        assert row is not None
        return row

    def _tell(self, row: Row, keep: bool = True) -> None:
        self._job.book.keep(row, write=keep)
        self._job.on_row(row)
