"""A state machine over a real store: commits, crashes, races, leases, collections and rot in any order.

After every step a reader that knows nothing looks at all of it. What dies touches no file from then on; what
races runs between two calls of another to the bytes layer.
Left out, because the engine does not do it or does not claim it: a run that begins while a collection
sweeps, a repair beside a commit, and a commit between a collection's last look at a file and its deletion.
"""

import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from deaths import DEATH, Between, Died
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.keys import digest
from orchestrator.store import (
    InputRef,
    Lease,
    Leases,
    Owner,
    RunRecord,
    StageRecord,
    Store,
    collect,
    verify,
)
from orchestrator.store.blobs import blob_path, hash_file
from orchestrator.task import Output, Progress

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
DAY = 24 * 3600.0
SILENCE_S = 15.0
STAGES = {"a": ((0, 1), None), "b": ((2,), "a"), "c": ((1, 3), "a")}
"""Stage to its shards and the stage whose artifact it takes."""
SHARD = {number: digest(["shard", number]) for number in range(4)}
LEASED = ("a", "c")
STAGE, NUMBER = st.sampled_from(sorted(STAGES)), st.sampled_from(range(4))
KEY = {stage: digest(["stage", stage]) for stage in STAGES}


def commit(store, number, value) -> None:
    """Runs that race may bring other values, which a good task never does."""
    output = Output(documents={"own": {"n": number, "value": value}, "shared": value})
    history = store.put_blob(b"[%d]" % value)
    store.commit_shard(SHARD[number], {"n": number}, f"n={number}", output, history=history)


def publish(store, stage) -> None:
    """Publishes where all that it needs is there."""
    numbers, source = STAGES[stage]
    made = store.manifest(KEY[source]) if source else None
    keys = [SHARD[number] for number in numbers]
    if (source and made is None) or store.committed(keys) != set(keys):
        return
    manifest = store.make_manifest(
        key=KEY[stage], kind="toys", task="toy", version=1, config={}, seed=0, facts={},
        inputs={"source": InputRef(made.id, made.digest)} if made else {},
        output=Output(documents={"summary": stage}), shard_keys=keys,
        provenance={"created": 1, "stage": stage, "experiment": "e"},
    )  # fmt: skip
    store.publish(manifest)


def save_progress(store, number) -> None:
    store.save_progress(SHARD[number], Progress({}, {"n": number}))


def drop_progress(store, number) -> None:
    store.drop_progress(SHARD[number])


ACTIONS = st.one_of(
    st.tuples(st.just(commit), NUMBER, st.integers(0, 1)),
    st.tuples(st.just(publish), STAGE),
    st.tuples(st.just(save_progress), NUMBER),
    st.tuples(st.just(drop_progress), NUMBER),
)
COMMITS = st.tuples(st.just(commit), NUMBER, st.integers(0, 1))
WANTED = st.tuples(st.sampled_from([None, "b", *STAGES]), st.booleans())
COLLECT = (lambda store: collect(store, apply=True),)
ENDS = ["done", "failed"]
RUNS = st.sampled_from(["r0", "r1", "r2"])
WHO = st.integers(0, 2)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp(dir=MEMORY)
        self.store = Store.open(self.root)
        self.content: dict[str, object] = {}
        self.rotten: set[str] = set()
        self.began, self.now = 0, 0.0
        self.planned: dict[str, list[str]] = {}
        self.takers = [
            Leases(self.store.bytes, replace(Owner.here(), host=f"h{who}"), SILENCE_S, lambda: self.now)
            for who in range(3)
        ]
        self.held: dict[tuple[int, str], Lease] = {}
        self.heard: dict[tuple[int, str], float] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @initialize(
        old=st.sets(STAGE),
        new=st.sets(STAGE, min_size=1),
        state=st.sampled_from(["running", "failed", "done"]),
    )
    def begin(self, old, new, state) -> None:
        """Something is there already: what an old run made, and what a new one plans."""
        for run, stages in (("r0", old | {"a"}), ("r1", new)):
            self.begin_run(run, stages)
            for stage in sorted(stages) if run == "r0" else ():
                self.make_it_all(stage, 0)
        self.end_run("r0", state)

    # Commit, publish, progress: whole, cut short, and beside another.

    @rule(action=ACTIONS)
    def do(self, action) -> None:
        if self._allowed(action):
            action[0](self.store, *action[1:])
        if action[0] is commit and SHARD[action[1]] not in self.content:
            files = self.store.shard(SHARD[action[1]]).record.files.values()
            assert not any(self._is_rotten(ref.digest) for ref in files), "what is new is whole"

    @rule(action=ACTIONS, first=st.integers(0, 8), stride=st.integers(1, 5))
    def crash(self, action, first, stride) -> None:
        if self._allowed(action):
            self._killed(lambda: action[0](self.store, *action[1:]), first, stride)

    @rule(outer=ACTIONS, inner=ACTIONS | st.just(COLLECT), call=st.integers(1, 12))
    def race(self, outer, inner, call) -> None:
        if self._allowed(outer, beside=inner) and self._allowed(inner):
            needed = self._needed() - self._spent(outer) - self._spent(inner)
            self._between(outer, inner, call)
            assert needed <= self._there(), needed - self._there()

    @rule(stage=STAGE, value=st.integers(0, 1))
    def make_it_all(self, stage, value) -> None:
        """What a run does that nothing happens to."""
        if self._allowed((publish, stage)):
            for number in STAGES[stage][0]:
                commit(self.store, number, value)
            publish(self.store, stage)

    # Runs, pins, leases.

    @rule(run=RUNS, stages=st.sets(STAGE, min_size=1))
    def begin_run(self, run, stages) -> None:
        self.began += 1
        self.planned[run] = sorted(stages)
        self._save_run(run, "running", started=self.began)
        self.store.save_plan(run, {name: [SHARD[n] for n in STAGES[name][0]] for name in stages})

    @rule(run=RUNS, state=st.sampled_from(ENDS))
    def end_run(self, run, state) -> None:
        if run in self.planned:
            self._save_run(run, state, self.store.run(run).started)

    @rule(run=RUNS, state=st.sampled_from(ENDS))
    def crash_at_the_end_of_a_run(self, run, state) -> None:
        self._killed(lambda: self.end_run(run, state), 0, 1)

    @rule(run=RUNS, pinned=st.booleans())
    def pin(self, run, pinned) -> None:
        if run in self.planned:
            (self.store.pin if pinned else self.store.unpin)(run)

    @rule(who=WHO, stage=st.sampled_from(LEASED), patient=st.booleans())
    def take(self, who, stage, patient) -> None:
        """Who is patient outwaits one that is paused meanwhile."""
        run = next((run for run in sorted(self.planned) if stage in self.planned[run]), None)
        if (who, stage) in self.held or run is None:
            return
        source = STAGES[stage][1]
        wanted = (KEY[stage], run, [KEY[source]] if source else [])
        found = self.takers[who].take(*wanted)
        if patient and not isinstance(found, Lease):
            self.now += SILENCE_S
            found = self.takers[who].take(*wanted)
            event("took over" if isinstance(found, Lease) else "waited in vain")
        if isinstance(found, Lease):
            event("took a lease")
            for other in self.held:
                assert other[1] != stage or self._quiet(other), f"{other} and {who} own {stage}"
            self.held[who, stage], self.heard[who, stage] = found, self.now

    @rule(stage=st.sampled_from(LEASED), first=st.integers(0, 12))
    def crash_at_a_lease(self, stage, first) -> None:
        """Whoever dies there has it for as long as the others wait for a sign of life."""
        taker = Leases(self.store.bytes, replace(Owner.here(), host="dead"), SILENCE_S, lambda: self.now)
        found = self._killed(lambda: taker.take(KEY[stage], "r0"), first, 1)
        if isinstance(found, Lease):
            taker.release(found)

    @rule(who=WHO, stage=st.sampled_from(LEASED))
    def release(self, who, stage) -> None:
        if lease := self.held.pop((who, stage), None):
            self.takers[who].release(lease)

    @rule(seconds=st.sampled_from([3.0, 20.0]), paused=st.sets(WHO))
    def seconds_pass(self, seconds, paused) -> None:
        """Whoever is not paused is heard of all the time; the others hear of it."""
        self.now += seconds
        self._beat(paused)

    @rule(paused=st.sets(WHO))
    def days_pass(self, paused) -> None:
        """Everything is old now, but for the heartbeats of those who live."""
        then = time.time() - 3 * DAY
        for path in Path(self.root).rglob("*"):
            if path.is_file():
                os.utime(path, (then, then))
        self.now += 3 * DAY
        self._beat(paused)

    # Upkeep.

    @rule(wanted=WANTED)
    def collect(self, wanted) -> None:
        self._days_after(*wanted)
        before, needed = self._there(), self._needed()
        collect(self.store, apply=True)
        event(f"{min(9, len(before - self._there()))} artifacts, shards and states were collected")
        assert needed <= self._there(), needed - self._there()

    @rule(inner=COMMITS | ACTIONS, back=st.integers(0, 25), wanted=WANTED)
    def collect_beside(self, inner, back, wanted) -> None:
        """Another one comes in between, so many calls before the end."""
        self._days_after(*wanted)
        if not self._allowed(inner):
            return
        needed = self._needed() - self._spent(inner)
        calls = Between(self.root, 0, None)
        collect(Store(calls))
        self._between(COLLECT, inner, max(1, -calls.left - back))
        if inner[0] is commit and SHARD[inner[1]] not in needed:
            self.content.pop(SHARD[inner[1]], None)  # collected, and made anew with another content
        assert needed <= self._there(), needed - self._there()

    @rule(first=st.integers(0, 20), stride=st.integers(1, 4), wanted=WANTED)
    def crash_in_a_collection(self, first, stride, wanted) -> None:
        self._days_after(*wanted)
        needed = self._needed()
        self._killed(lambda: collect(self.store, apply=True), first, stride)
        assert needed <= self._there(), needed - self._there()

    def _days_after(self, stage, loose) -> None:
        """After a run made the others, and another wants one stage alone; `loose`: nothing else holds them."""
        if stage is None:
            return
        self.begin_run("r1", {"a", "c"})
        for made in sorted({"a", "c"} - {stage}):
            self.make_it_all(made, 0)
        self.begin_run("r2", {stage})
        if loose:
            for who, leased in list(self.held):
                self.release(who, leased)
            for run in self.planned:
                self.pin(run, False)
        elif stage in LEASED:
            self.take(0, stage, patient=True)
        for run, state in (("r0", "failed"), ("r1", "failed"), ("r2", "done")):
            self.end_run(run, state)
        self.days_pass(set())

    @precondition(lambda self: self.content)
    @rule(data=st.data(), then=st.none() | COMMITS)
    def rot(self, data, then) -> None:
        """A byte of some blob changes where it lies; what is committed then may have it too. Lists of shards are
        left alone, for the reader would have to look past them: test_listings.py breaks them."""
        blobs = sorted(Path(self.root, "blobs").rglob("?" * 64))
        blob = data.draw(st.sampled_from([blob for blob in blobs if blob.read_bytes()[:4] != b"PAR1"]))
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
        self.rotten.add(blob.name)
        if then:
            self.do(then)

    @precondition(lambda self: self.rotten)
    @rule()
    def repair(self) -> None:
        event("repaired")
        verify(self.store, repair=True)
        assert {problem.kind for problem in verify(self.store).problems} <= {"input"}

    @precondition(lambda self: self.rotten)
    @rule(first=st.integers(0, 20), stride=st.integers(1, 4))
    def crash_in_a_repair(self, first, stride) -> None:
        self._killed(lambda: verify(self.store, repair=True), first, stride)

    # What a reader sees.

    @invariant()
    def a_reader_sees_nothing_half_done(self) -> None:
        reader = Store.open(self.root, create=False)
        self.rotten = {name for name in self.rotten if self._is_rotten(name)}
        for problem in verify(reader).problems:
            # An input that was repaired may have come back with another racer's content.
            assert problem.kind == "input" or problem.digest in self.rotten, str(problem)
        manifests = list(reader.manifests())
        assert {row.id for row in reader.rows()} == {manifest.id for manifest in manifests}
        for manifest in manifests:
            keys = [shard.key for shard in reader.entries(manifest)]
            assert reader.committed(keys) == set(keys)
        seen = {key: reader.shard(key).record.files for key in reader.shard_keys()}
        assert all(seen[key] == self.content[key] for key in seen.keys() & self.content.keys())
        self.content = seen
        for run in reader.runs():
            assert reader.plan(run.run_id) is not None
        for number in SHARD:
            path = f"work/{SHARD[number][:2]}/{SHARD[number]}/progress"
            progress = reader.load_progress(SHARD[number])
            assert progress.facts == {"n": number} if progress else not reader.bytes.exists(path)

    @invariant()
    def a_lease_has_one_owner_at_most(self) -> None:
        for stage in LEASED:
            alive = [who for who in self.held if who[1] == stage and not self._quiet(who)]
            assert len(alive) <= 1, alive

    # How it is done.

    def _allowed(self, action, beside=None) -> bool:
        """The engine publishes only what a run plans that is under way; so it is with what it commits while
        another collects."""
        busy = {stage for run in self._counting() for stage in self.planned[run]}
        if action[0] is commit and beside is COLLECT:
            return any(action[1] in STAGES[stage][0] for stage in busy)
        return action[0] is not publish or action[1] in busy

    def _between(self, outer, inner, call) -> None:
        space = Between(self.root, call, lambda: inner[0](self.store, *inner[1:]))
        outer[0](Store(space), *outer[1:])
        event(f"{'two' if space.left <= 0 else 'one'} at once")

    def _quiet(self, who) -> bool:
        return self.now - self.heard[who] >= SILENCE_S

    def _spent(self, action) -> set[str]:
        """What is no longer needed after an action."""
        spent = action[0] in (drop_progress, commit) and action[1:]
        return {f"work {SHARD[spent[0]]}"} if spent else set()

    def _killed(self, act, first, stride) -> object:
        """As by SIGKILL just before some touch of a file, again and again, a little later each time, until it
        comes to its end."""
        for touch in range(first, 1000, stride):
            DEATH.arm(self.root, touch)
            try:
                return act()
            except Died:
                event("killed")
            finally:
                DEATH.root = ""
            self.a_reader_sees_nothing_half_done()
        raise AssertionError("it does not come to its end")

    def _beat(self, paused) -> None:
        newest = {stage: who for who, stage in self.held}
        for (who, stage), lease in list(self.held.items()):
            if who in paused:
                continue
            if self.takers[who].beat(lease):
                assert newest[stage] == who, f"{who} was not told that it lost {stage}"
                self.heard[who, stage] = self.now
            else:
                event("a lease was lost")
                del self.held[who, stage]

    def _save_run(self, run, state, started) -> None:
        stages = [
            StageRecord(stage=name, task="toy", artifact=KEY[name], state=state) for name in self.planned[run]
        ]
        record = RunRecord(
            run_id=run, experiment="e", document={}, overrides=[], state=state, started=started,
            ended=None if state == "running" else started, stages=stages,
        )  # fmt: skip
        self.store.save_run(record)

    def _counting(self) -> set[str]:
        """Runs that a collection has to spare, in the machine's own words."""
        newest, counting = True, set()
        for run in self.store.runs():
            leased = any(lease.claim.run_id == run.run_id for lease in self._leases())
            if newest or run.state == "running" or run.run_id in self.store.pins() or leased:
                counting.add(run.run_id)
            newest = newest and run.state != "done"
        return counting

    def _leases(self) -> list[Lease]:
        return [lease for who, lease in self.held.items() if not self._quiet(who)]

    def _needed(self) -> set[str]:
        """What is there that runs and live leases need: artifacts and shards, all that they were made from,
        and the progress of what they have still to do."""
        stages = {stage for run in self._counting() for stage in self.planned[run]}
        planned = {SHARD[number] for stage in stages for number in STAGES[stage][0]}
        artifacts = {KEY[stage] for stage in stages} | {
            key for lease in self._leases() for key in lease.claim.inputs
        }
        manifests = {manifest.id: manifest for manifest in self.store.manifests()}
        kept = [manifests[key] for key in artifacts & manifests.keys()]
        for manifest in kept:
            kept += [manifests[ref.id] for ref in manifest.inputs.values() if ref.id in manifests]
        shards = planned | {shard.key for manifest in kept for shard in self.store.entries(manifest)}
        work = {f"work {key}" for key in planned - set(self.store.shard_keys())}
        return ({manifest.id for manifest in kept} | shards | work) & self._there()

    def _there(self) -> set[str]:
        work = {f"work {key}" for key in SHARD.values() if self.store.load_progress(key)}
        return {*self.store.artifact_ids(), *self.store.shard_keys(), *work}

    def _is_rotten(self, name) -> bool:
        blob = Path(self.root, blob_path(name))
        return blob.exists() and hash_file(blob) != name


def run_machine(examples, steps) -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(max_examples=examples, stateful_step_count=steps, print_blob=True),
    )


@pytest.mark.parametrize("many", [10_000, 1])  # shards that a manifest holds itself
def test_any_order_of_commits_crashes_races_and_collections(many, monkeypatch):
    monkeypatch.setattr("orchestrator.store.listings.MANY", many)
    run_machine(20, 30)


@pytest.mark.slow
def test_any_order_at_length():
    run_machine(60, 50)
