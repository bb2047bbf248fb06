import time

import pytest
import torch

from orchestrator.errors import CorruptBlob
from orchestrator.store import collect, verify
from orchestrator.task import Progress

RECORDS = ("artifacts/", "shards/", "blobs/", "work/")


def kept(fill) -> list[str]:
    return [path for path in fill.files() if path.startswith(RECORDS)]


def test_nothing_that_is_young_goes(store, fill, chain):
    before = fill.files()
    found = collect(store, apply=True)
    assert (found.bytes, found.kept_artifacts) == (0, 3)
    assert fill.files() == before


def test_dry_by_default_and_true_to_its_word(store, fill, chain):
    fill.age()
    before = fill.files()
    dry = collect(store)
    assert fill.files() == before
    assert not dry.applied
    assert (dry.artifacts.count, dry.shards.count, dry.blobs.count) == (3, 4, 7)
    wet = collect(store, apply=True)
    assert kept(fill) == []
    assert dry.to_json() == wet.to_json() | {"applied": False}
    assert dry.bytes == sum(dry.to_json()[kind]["bytes"] for kind in ("artifacts", "shards", "blobs"))


def test_a_run_keeps_what_it_made_and_all_that_was_made_from(store, fill, chain):
    extra = fill.artifact("extra", shards=("x0",))
    fill.run("r", stages=[("scores", chain[2])])
    fill.age()
    found = collect(store, apply=True)
    assert set(store.artifact_ids()) == set(chain)
    assert (found.artifacts.count, found.shards.count, found.blobs.count, found.kept_artifacts) == (
        1,
        1,
        2,
        3,
    )
    assert store.manifest(extra) is None
    assert verify(store).ok
    assert store.artifact(chain[0]).shards[0].document("value")["name"] == "e0"


def test_of_each_experiment_the_newest_runs_that_are_done(store, fill):
    made = {name: fill.artifact(name) for name in ("old", "new", "other", "failed")}
    fill.run("r1", stages=[("s", made["old"])], started=1)
    fill.run("r2", stages=[("s", made["new"])], started=2)
    fill.run("r3", stages=[("s", made["failed"])], started=3, state="failed")
    fill.run("o1", stages=[("s", made["other"])], started=1, experiment="other")
    fill.age()
    assert collect(store, keep=2).artifacts.count == 0
    collect(store, apply=True, keep=1)
    assert set(store.artifact_ids()) == {made["new"], made["failed"], made["other"]}


def test_pins_and_runs_under_way_keep_what_they_have(store, fill):
    made = {name: fill.artifact(name) for name in ("pinned", "running", "newest")}
    fill.run("p", stages=[("s", made["pinned"])], started=1)
    fill.run("u", stages=[("s", made["running"])], started=2, state="running")
    fill.run("n", stages=[("s", made["newest"])], started=3)
    store.pin("p")
    fill.age()
    found = collect(store, apply=True)
    assert set(store.artifact_ids()) == set(made.values())
    assert found.running == ["u"]
    store.unpin("p")
    collect(store, apply=True)
    assert store.manifest(made["pinned"]) is None


def test_planned_shards_and_their_progress_stay(store, fill):
    done, todo, stray = fill.shard("done"), fill.key("shard", "todo"), fill.shard("stray")
    for key in (done, todo, stray):
        store.save_progress(key, Progress({}, {"step": 1}))
    fill.run("r", plan={"s": [done, todo]}, state="running")
    fill.age()
    found = collect(store, apply=True)
    assert store.committed([done, stray]) == {done}
    assert store.load_progress(todo) is not None
    assert store.load_progress(done) is None
    assert store.load_progress(stray) is None
    assert found.work.count == 2


def test_the_parts_of_a_gangs_progress_stay_and_go_as_one(store, fill):
    todo, stray = fill.key("shard", "todo"), fill.shard("stray")
    for key in (todo, stray):
        parts = [store.put_part(key, {name: torch.ones(3)}) for name in "ab"]
        store.save_progress(key, Progress({}, {"step": 1}), parts)
    fill.run("r", plan={"s": [todo]}, state="running")
    fill.age()
    assert collect(store, apply=True).work.count == 3
    assert sorted(store.load_progress(todo).tensors) == ["a", "b"]
    assert [entry for entry in store.bytes.list("work") if stray in entry.path] == []


def test_pictures_and_histories_of_what_stays_stay(store, fill):
    picture, history = store.put_blob(b"picture"), store.put_blob(b"[]")
    previews = [{"name": "p", "step": 0, "blob": picture.digest, "size": picture.size}]
    key = fill.shard("s", previews=previews, history=history)
    made = fill.artifact("a", previews=[previews[0] | {"blob": store.put_blob(b"closing").digest}])
    fill.run("r", plan={"s": [key]}, stages=[("s", made)])
    fill.age()
    assert collect(store, apply=True).blobs.count == 0
    assert verify(store).ok


def test_a_recent_run_keeps_old_things(store, fill):
    made = fill.artifact("a")
    now = int(time.time() * 1000)
    fill.run("r1", stages=[("s", made)], started=now - 2000)
    fill.run("r2", started=now - 1000)
    fill.age()
    assert collect(store, apply=True).artifacts.count == 0
    assert collect(store, apply=True, grace_s=1e-3).artifacts.count == 1


def test_a_commit_beside_it_is_safe(store, fill, chain):
    """Old files that a new commit names are young again; a file that was put a moment ago stays."""
    fill.age()
    lonely = store.put_blob(b"for a record that comes later")
    again = fill.shard("new", value=1)
    same = store.commit_shard(fill.key("twin"), {"n": 1}, "n=1", fill_output("e0")).files["value.json"]
    collect(store, apply=True)
    assert store.read_blob(lonely.digest)
    assert store.read_blob(same.digest)
    assert store.committed([again, fill.key("twin")]) == {again, fill.key("twin")}
    assert verify(store).ok
    assert list(store.artifact_ids()) == []


def fill_output(name):
    from orchestrator.task import Output

    return Output(documents={"value": {"name": name, "value": None}})


def test_a_sweep_cut_short_goes_on(store, fill, chain):
    fill.age()
    store.drop_artifact(chain[0])
    store.drop_shard(fill.key("shard", "e0"))
    collect(store, apply=True)
    assert kept(fill) == []


def test_unfinished_writes_go_when_they_are_old(store, fill):
    (store.bytes.root / ".tmp").mkdir(exist_ok=True)
    (store.bytes.root / ".tmp/dead").write_bytes(b"12345")
    assert collect(store, apply=True).unfinished_writes.count == 0
    fill.age()
    found = collect(store, apply=True)
    assert (found.unfinished_writes.count, found.unfinished_writes.bytes) == (1, 5)
    assert not (store.bytes.root / ".tmp/dead").exists()


def test_other_folders_are_left_alone(store, fill, chain):
    for name in ("tracking/db", "spool/x", "leases/l"):
        store.bytes.put(name, b"theirs")
    fill.age()
    collect(store, apply=True)
    assert {"tracking/db", "spool/x", "leases/l", "store.json"} <= set(fill.files())


@pytest.mark.parametrize("kind", ["artifacts", "shards", "runs"])
def test_a_damaged_record_ends_it_before_anything_goes(store, fill, chain, kind):
    fill.run("r", stages=[("s", chain[0])])
    fill.artifact("more", shards=("m",))
    path = next(path for path in fill.files() if path.startswith(f"{kind}/") and is_live(path, chain, fill))
    store.bytes.put(path, b"{}")
    fill.age()
    before = fill.files()
    with pytest.raises(CorruptBlob, match="verify --repair"):
        collect(store, apply=True)
    assert fill.files() == before


def is_live(path, chain, fill) -> bool:
    return chain[0] in path or fill.key("shard", "e0") in path or path.endswith("run.json")


def test_a_tag_keeps_an_artifact_and_all_that_it_was_made_from(store, fill, chain):
    fill.artifact("other")
    store.tag(chain[1], ["paper"])
    fill.age()
    collect(store, apply=True, keep=0)
    assert set(store.artifact_ids()) == set(chain[:2])
    assert verify(store).ok
    store.untag(chain[1], ["paper"])
    assert store.tags() == {}
    assert collect(store, keep=0).artifacts.count == 2
