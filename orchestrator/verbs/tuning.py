"""`limbeck tune`."""

import contextlib
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.catalogue import find_task
from orchestrator.console import Console, duration
from orchestrator.errors import Infeasible, Interrupted, RunFailed, UserError
from orchestrator.feasibility import Offer, problems
from orchestrator.keys import digest
from orchestrator.places import home
from orchestrator.plan import Plan, StagePlan, make_plan
from orchestrator.provenance import commit
from orchestrator.spaces import Space, load_search
from orchestrator.spool import EVENTS, Spool, unfinished
from orchestrator.stagekeys import content_digests
from orchestrator.store import Store, open_bytes
from orchestrator.tracking import Tracker, files_root, uri_of
from orchestrator.trials import Asked, Book, Row, best_of, ranked
from orchestrator.verbs.found import save_results
from orchestrator.verbs.running import measure_stage, offered, session

if TYPE_CHECKING:
    from orchestrator.executors.search import Stop

_DRAIN_S = 30.0
_MOST = 4
"""Trials side by side, where the search does not say."""


def tune(
    experiment: Path, overrides: Sequence[str], store_uri: str, tracking: str | None, as_json: bool
) -> None:
    """Checks the search, makes the trials that are left, and shows what came out."""
    console = Console(as_json=as_json)
    space = load_search(experiment, overrides)
    opened = open_bytes(store_uri)
    uri = uri_of(opened.uri, tracking)
    store = Store.over(opened)
    concurrency, share = _shared(space, store)
    book = _book(space, store)
    with book.alone():
        document = {**space.document, "search": space.block}
        asked = Asked(space.name, document, tuple(overrides), commit())
        book.ask(asked, experiment.read_text(encoding="utf-8"))
        hunt = _Hunt(space, store, book, console, tuple(overrides), share, concurrency)
        stop = hunt.go(uri)
    store.rows()
    if as_json and not stop.asked and not hunt.mistake:
        console.answer(hunt.answer())
    elif not as_json:
        hunt.show(uri)
    _verdict(hunt, stop, as_json)


def _verdict(hunt: "_Hunt", stop: "Stop", as_json: bool) -> None:
    """Raises what decides the exit code."""
    if hunt.mistake:
        raise UserError(hunt.mistake)
    if stop.asked:
        raise Interrupted(
            f"search {hunt.book.id} was stopped; the same command goes on from here\n"
            f"what was done so far: {hunt.page}"
        )
    if hunt.best is None:
        failed = [row for row in hunt.rows if row.error]
        lines = [f"trial {row.number}: {row.error}" for row in failed[:10]]
        why = (
            "no trial succeeded" if failed or not stop.out_of_time else "no trial ended within time_budget_s"
        )
        page = f"what was done so far: {hunt.page}"
        raise RunFailed("\n".join([f"search {hunt.book.id}: {why}", *lines, page]), answered=as_json)


def _book(space: Space, store: Store) -> Book:
    """The folder of this very search: another experiment, space, data or version of a task is another one."""
    made_of = {
        stage.name: [find_task(stage.options.task).version, content_digests(stage.config)]
        for stage in space.experiments[0].stages
    }
    about = {"document": dict(space.document), "search": space.search.identity(), "made_of": made_of}
    return Book(home(store.uri) / "searches" / f"{space.name}-{digest(about)[:8]}", about)


def _shared(space: Space, store: Store) -> tuple[int, Offer]:
    """How many trials there are to be side by side, and what each of them may use.

    Infeasible where not even one trial, or not as many as asked, can have what its stages ask.
    """
    offer = offered(store)
    asked = space.search.concurrency
    found: list[str] = []
    for count in [asked] if asked else range(min(_MOST, space.search.count), 0, -1):
        share = _share(offer, count)
        found = problems(_a_plan(space, store, share).stages, share)
        if not found:
            return count, share
    raise Infeasible("\n".join(found))


def _share(offer: Offer, count: int) -> Offer:
    if count == 1:
        return offer
    return offer.share(f"a share of {offer.where} for each of {count} trials (search.concurrency)", count)


def _a_plan(space: Space, store: Store, share: Offer) -> Plan:
    """The plan at one end of the space, or where there is none at the other."""
    low, high = space.experiments
    try:
        return make_plan(low, store, share)
    except UserError as error:
        try:
            return make_plan(high, store, share)
        except UserError:
            raise error from None


class _Hunt:
    """One call of `limbeck tune`."""

    def __init__(
        self,
        space: Space,
        store: Store,
        book: Book,
        console: Console,
        given: tuple[str, ...],
        share: Offer,
        concurrency: int,
    ) -> None:
        self.space, self.store, self.book, self.console = space, store, book, console
        self._given, self._share, self._concurrency = given, share, concurrency
        self._runs = home(store.uri) / "runs"
        self._tracker: Tracker | None = None
        self._spools: dict[str, Spool] = {}
        self._started = time.monotonic()
        self._drawn = 0.0
        self._stop: Stop | None = None
        self.page: Path | None = None
        """Of what was done so far."""
        self.mistake: str | None = None
        """Of the user's, that every trial would end with."""

    @property
    def rows(self) -> list[Row]:
        """The trials of this search, those that an earlier call made among them."""
        return self.book.rows(self.space.search.count)

    @property
    def best(self) -> Row | None:
        return best_of(self.rows, self.space.search)

    def go(self, uri: str) -> "Stop":
        """Makes what is left, and the results; says how it was ended."""
        with self._tracking(uri) as spool:
            self._announce(spool)
            stop = self._search()
            self._say_no_curve()
            self.page = save_results(self.book, self.store)
            if self.best:
                self.store.pin(self.best.run_id)
            spool.files(self.book.results, "search")
            state = "interrupted" if stop.asked else "done" if self.best else "failed"
            spool.run_ended(state)
        return stop

    def _search(self) -> "Stop":
        ended = sum(row.finished for row in self.rows)
        count = self.space.search.count
        kept = f", {ended} are there already" if ended else ""
        self.console.say(f"search {self.book.id}: {count} trials, {self._concurrency} at a time{kept}")
        with self._session() if ended < count else contextlib.nullcontext():
            # Ray reads its settings when it is imported, and the session makes them
            from orchestrator.executors.search import Job, Stop, search

            job = Job(
                search=self.space.search, seed=self.space.seed, book=self.book, given=self._given,
                store_uri=self.store.uri, runs_folder=self._runs, share=self._share,
                concurrency=self._concurrency, on_begin=self._begin, on_row=self._hear, on_tick=self._tick,
            )  # fmt: skip
            self._stop = stop = Stop(job)
            with _signals(stop, self.console), contextlib.closing(self.console):
                if ended < count:
                    self._measure()
                    search(job, stop)
        self._settle()
        return stop

    def _session(self) -> AbstractContextManager[None]:
        stages = _a_plan(self.space, self.store, self._share).stages
        return session(offered(self.store), self.store, sorted({stage.target for stage in stages}))

    def _measure(self) -> None:
        """Measures, one after another, what is left open whatever the point of the space is."""
        while True:
            try:
                low, high = (make_plan(one, self.store, self._share) for one in self.space.experiments)
            except UserError:
                return
            keys = {stage.open.key for stage in high.stages if stage.open}
            left = next((stage for stage in low.stages if stage.active and _open_key(stage) in keys), None)
            if left is None:
                return
            measure_stage(left, self._share, self.store, self.console)

    @contextlib.contextmanager
    def _tracking(self, uri: str) -> Iterator[Spool]:
        folder = home(self.store.uri)
        spool = Spool(self._runs / self.book.id / EVENTS)
        self._tracker = Tracker(uri, spool, self.store.read_blob, files_root(folder))
        for row in self.rows:
            log = self._runs / row.run_id / EVENTS
            if log.exists() and unfinished(log, uri):  # left by a driver that was killed
                self._begin(row)
        try:
            yield spool
        finally:
            left = self._tracker.close(_DRAIN_S)
            for one in (spool, *self._spools.values()):
                one.close()
            if left:
                why = f" ({self._tracker.error})" if self._tracker.error else ""
                self.console.say(
                    f"MLflow at {uri} does not answer{why}: {left} events wait, the next run delivers them"
                )

    def _announce(self, spool: Spool) -> None:
        self._spool = spool
        search = self.space.search
        params = {f"search.{name}": value for name, value in search.model_dump(mode="json").items()}
        space = {f"search.space.{name}": one for name, one in params.pop("search.space").items()}
        plain = {name: {k: v for k, v in one.items() if v is not None} for name, one in space.items()}
        tags = {"commit": commit() or "", "kind": "search", "folder": str(self.book.folder)}
        spool.run_started(self.book.id, self.space.name, {**params, **plain}, tags)

    def _begin(self, row: Row) -> None:
        """Before the process of a trial begins: its events are to be delivered."""
        if self._tracker and row.run_id not in self._spools:
            spool = self._spools[row.run_id] = Spool(self._runs / row.run_id / EVENTS)
            self._tracker.follow(spool)

    def _hear(self, row: Row) -> None:
        if row.state == "running":
            return
        if row.error and row.error.startswith("search.metric: ") and self._stop:
            self.mistake = row.error
            self._stop.request()
        if row.state == "done" and row.metric is not None:
            done = [one for one in self.rows if one.state == "done"]
            best = self.best
            name = self.space.search.metric
            values = {
                name: row.metric,
                f"best.{name}": best.metric if best and best.metric is not None else 0.0,
            }
            self._spool.metrics("", "", len(done), values)
        if row.state == "failed" and not self._spools[row.run_id].size:
            spool = self._spools[row.run_id]
            spool.run_started(
                row.run_id, self.space.name, row.point, {"error": row.error or ""}, self.book.id
            )
            spool.run_ended("failed")
        self.console.note(f"trial {row.number}", self._told(row))

    def _told(self, row: Row) -> str:
        point = ", ".join(f"{name} {_short(value)}" for name, value in row.point.items())
        metric = "" if row.metric is None else f" {row.metric:.4g}"
        shards = f"{row.reused} shards reused, {row.computed} computed"
        why = f": {row.error}" if row.error else ""
        return f"{row.state}{metric} in {duration(row.seconds)}, {shards} | {point}{why}"

    def _tick(self) -> None:
        """The lines of what is under way."""
        if time.monotonic() - self._drawn < 0.5:
            return
        self._drawn = time.monotonic()
        rows, best = self.rows, self.best
        ended = sum(row.state != "running" for row in rows)
        at_best = f", best {best.metric:.4g} (trial {best.number})" if best else ""
        under_way = [row for row in rows if row.state == "running"]
        self.console.under_way(
            "search",
            f"{ended}/{self.space.search.count} trials, {len(under_way)} under way, "
            f"{duration(time.monotonic() - self._started)}{at_best}",
            [self._line(row) for row in under_way],
        )

    def _line(self, row: Row) -> str:
        at = f"step {row.curve[-1][0]}: {row.curve[-1][1]:.4g}" if row.curve else "no value yet"
        point = ", ".join(f"{name} {_short(value)}" for name, value in row.point.items())
        return f"trial {row.number}: {at} | {point}"

    def _settle(self) -> None:
        """No process of a trial is left: what has no end by now is marked so."""
        for row in self.rows:
            if row.state == "running":
                self.book.keep(replace(row, state="interrupted"))
        for spool in self._spools.values():
            fresh = Spool(spool.path)
            if fresh.size and fresh.state is None:
                fresh.abandoned()
            fresh.close()

    def _say_no_curve(self) -> None:
        search = self.space.search
        if search.scheduler != "none" and self.rows and not any(row.curve for row in self.rows):
            self.console.say(
                f"scheduler {search.scheduler}: no shard logged a curve of {search.metric}, so that no trial "
                "could be stopped early; choose a metric that the task logs while it runs, or scheduler: none"
            )

    def answer(self) -> dict[str, Any]:
        """The object of `tune --json`."""
        search, best = self.space.search, self.best
        found = best and {"overrides": dict(best.point), "metric": best.metric, "run_id": best.run_id}
        rows = ranked(self.rows, search)
        return {
            "search": self.book.id, "metric": search.metric, "mode": search.mode, "best": found,
            "trials": [row.shown() for row in rows], "folder": str(self.book.results),
        }  # fmt: skip

    def show(self, uri: str) -> None:
        """The table, the best trial and where things lie."""
        search, rows = self.space.search, ranked(self.rows, self.space.search)
        names = list(search.dimensions)
        columns = ["trial", "state", search.metric, *names, "reused", "computed", "seconds", "error"]
        cells = [_cells(row, names) for row in rows]
        if not any(row.error for row in rows):
            columns, cells = columns[:-1], [line[:-1] for line in cells]
        say = self.console.print
        say("")
        self.console.table("", columns, cells)
        say("")
        reused, computed = sum(row.reused for row in rows), sum(row.computed for row in rows)
        say(f"search    {self.book.id}: {reused} shards reused, {computed} computed")
        say(f"report    {self.page}")
        say(f"results   {self.book.results}")
        say(f"MLflow    {uri}")
        if self.best:
            path = shlex.quote(str(self.book.results / "best.yaml"))
            say(f"next      limbeck run {path} --store {shlex.quote(self.store.uri)}")


def _open_key(stage: StagePlan) -> str | None:
    return stage.open.key if stage.open else None


def _cells(row: Row, names: Sequence[str]) -> list[Any]:
    point = [row.point.get(name) for name in names]
    return [row.number, row.state, row.metric, *point, row.reused, row.computed, row.seconds, row.error]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def _signals(stop: "Stop", console: Console) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops the search in order; the second at once."""

    def handle(number: int, frame: Any) -> None:
        console.say("stopping: trials under way save their progress (again to end at once)")
        stop.request()
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
