import pytest

from orchestrator.errors import CorruptBlob, UserError


def test_runs_newest_first(store, fill):
    for number in (2, 1, 3):
        fill.run(f"run-{number}", started=number)
    assert [record.run_id for record in store.runs()] == ["run-3", "run-2", "run-1"]
    fill.run("run-1", started=9, state="failed")
    assert store.runs()[0] == store.run("run-1")
    assert store.run("run-1").state == "failed"


def test_an_unknown_run_names_the_nearest(store, fill):
    fill.run("digits-1")
    with pytest.raises(UserError, match=r"there is no run 'digits-2'.*did you mean 'digits-1'\?"):
        store.run("digits-2")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "%2e", ".a", "a\0"])
def test_run_ids_that_could_escape_are_refused(store, name):
    for touch in (store.run, store.plan, store.pin, store.unpin, store.failures):
        with pytest.raises(UserError, match="expected ASCII letters"):
            touch(name)


def test_plans(store, fill):
    fill.run("r", plan={"experts[lr=0.1]": ("k1", "k2"), "scores": []})
    assert store.plan("r") == {"experts[lr=0.1]": ["k1", "k2"], "scores": []}
    assert store.plan("other") is None


def test_pins(store, fill):
    fill.run("a")
    fill.run("b")
    assert store.pins() == set()
    store.pin("a")
    store.pin("a")
    assert store.pins() == {"a"}
    store.unpin("a")
    store.unpin("a")
    assert store.pins() == set()
    with pytest.raises(UserError, match="there is no run 'c'"):
        store.pin("c")


def test_failures(store, fill):
    fill.run("r")
    store.save_failure("r", "experts[lr=../1]", "expert=3", {"error": "NaN", "attempt": 1})
    store.save_failure("r", "experts[lr=../1]", "expert=3", {"error": "NaN", "attempt": 2})
    store.save_failure("r", "experts[lr=../1]", "expert=3", {"error": "NaN", "attempt": 2})
    found = store.failures("r")
    assert [(one.stage, one.shard) for one in found] == [("experts[lr=../1]", "expert=3")] * 2
    assert {one.failure["attempt"] for one in found} == {1, 2}
    assert store.failures("other") == []
    assert [record.run_id for record in store.runs()] == ["r"]


def test_a_damaged_run_is_told(store, fill):
    fill.run("r")
    path = store.bytes.root / "runs/r/run.json"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptBlob, match=r"runs/r/run.json: damaged record"):
        store.runs()
