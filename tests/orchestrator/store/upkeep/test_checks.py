import dataclasses

import pytest

from orchestrator.errors import CorruptBlob
from orchestrator.store import verify
from orchestrator.store.records import encode
from orchestrator.store.store import record_path
from orchestrator.task import Output


def test_a_whole_store_is_whole(store, fill, chain):
    found = verify(store)
    assert found.ok
    assert (found.artifacts, found.shards) == (3, 4)
    assert found.blobs == 7
    assert found.bytes == sum(
        path.stat().st_size for path in (store.bytes.root / "blobs").rglob("*") if path.is_file()
    )
    assert verify(store, repair=True).dropped_shards == []


def break_shard(store, fill, how) -> str:
    """Breaks the file of shard e1; returns its digest."""
    ref = store.shard(fill.key("shard", "e1")).record.files["value.json"]
    if how == "corrupt":
        fill.flip(ref)
    elif how == "missing":
        fill.blob(ref).unlink()
    else:
        fill.blob(ref).write_bytes(fill.blob(ref).read_bytes() + b" ")
    return ref.digest


@pytest.mark.parametrize("how", ["corrupt", "missing", "size"])
@pytest.mark.parametrize("named", [True, False])
def test_repair_drops_just_what_is_broken(store, fill, chain, how, named):
    digest = break_shard(store, fill, how)
    key = fill.key("shard", "e1")
    ids = chain[:1] if named else None
    found = verify(store, ids)
    assert [(one.kind, one.artifact, one.shard, one.file) for one in found.problems] == [
        (how, chain[0], key, "value.json")
    ]
    assert found.problems[0].digest == digest
    assert str(found.problems[0]).startswith(
        f"artifact {chain[0][:12]}, shard {key[:12]}, value.json: blobs/"
    )
    assert store.has_shard(key)

    repaired = verify(store, ids, repair=True)
    assert (repaired.dropped_artifacts, repaired.dropped_shards) == ([chain[0]], [key])
    assert set(store.artifact_ids()) == set(chain[1:])
    assert store.has_shard(fill.key("shard", "e0"))
    assert verify(store).ok

    assert fill.artifact("experts", shards=("e0", "e1")) == chain[0]
    assert store.shard(key).document("value")["name"] == "e1"
    assert verify(store).ok


def test_every_shard_that_shares_a_broken_file_goes(store, fill, chain):
    same = Output(documents={"d": "same"})
    for name in ("x", "y"):
        store.commit_shard(fill.key(name), {"n": name}, name, same)
    first = fill.artifact("first", output=same)
    fill.flip(store.manifest(first).files["d.json"])
    found = verify(store, [first], repair=True)
    assert found.dropped_artifacts == [first]
    assert found.dropped_shards == sorted([fill.key("x"), fill.key("y")])
    assert set(store.artifact_ids()) == set(chain)


def test_a_broken_file_of_the_closing_step_drops_no_shard(store, fill, chain):
    fill.flip(store.manifest(chain[0]).files["summary.json"])
    found = verify(store, repair=True)
    assert [(one.kind, one.artifact, one.shard) for one in found.problems] == [("corrupt", chain[0], None)]
    assert (found.dropped_artifacts, found.dropped_shards) == ([chain[0]], [])


def test_a_damaged_shard_record_goes_with_what_holds_it(store, fill, chain):
    key = fill.key("shard", "e0")
    store.bytes.put(record_path("shards", key), b'{"half": ')
    with pytest.raises(CorruptBlob, match="damaged record"):
        store.shard(key)
    found = verify(store, repair=True)
    assert [(one.kind, one.shard) for one in found.problems] == [("record", key)]
    assert (found.dropped_artifacts, found.dropped_shards) == ([chain[0]], [key])
    assert verify(store).ok


def test_a_damaged_manifest_goes_alone(store, fill, chain):
    store.bytes.put(record_path("artifacts", chain[1]), b"{}")
    found = verify(store, repair=True)
    assert [(one.kind, one.artifact) for one in found.problems] == [("record", chain[1])]
    assert (found.dropped_artifacts, found.dropped_shards) == ([chain[1]], [])
    assert verify(store).ok


def test_a_damaged_run_record_goes_alone(store, fill, chain):
    fill.run("r")
    store.bytes.put("runs/r/run.json", b"{}")
    found = verify(store, repair=True)
    assert [(one.kind, one.file) for one in found.problems] == [("record", "runs/r/run.json")]
    assert store.runs() == []
    assert verify(store).ok


def test_a_broken_picture_costs_no_work(store, fill):
    good, bad, history = store.put_blob(b"good"), store.put_blob(b"bad"), store.put_blob(b"[]")
    pictures = [
        {"name": "p", "step": i, "blob": ref.digest, "size": ref.size} for i, ref in enumerate((good, bad))
    ]
    key = fill.shard("s", previews=pictures, history=history)
    made = fill.artifact("a", shards=("s",), previews=pictures)
    before = store.artifact(made).digest
    fill.flip(bad, at=0)
    fill.blob(history).unlink()
    found = verify(store, repair=True)
    assert {(one.kind, one.artifact, one.shard, one.file) for one in found.problems} == {
        ("corrupt", made, None, "preview p at 1"),
        ("corrupt", None, key, "preview p at 1"),
        ("missing", None, key, "history"),
    }
    assert (found.dropped_artifacts, found.dropped_shards) == ([], [])
    record = store.shard(key).record
    assert [picture["step"] for picture in record.previews] == [0]
    assert record.history is None
    assert [picture["step"] for picture in store.manifest(made).previews] == [0]
    assert store.artifact(made).digest == before
    assert verify(store).ok


def test_an_input_that_changed_is_told_and_not_dropped(store, fill, chain):
    old = store.manifest(chain[0])
    changed = dataclasses.replace(old, files={"summary.json": store.put_blob(b"{}")})
    store.bytes.put(record_path("artifacts", chain[0]), encode(changed))
    found = verify(store, repair=True)
    assert [(one.kind, one.artifact, one.file) for one in found.problems] == [("input", chain[1], "field0")]
    assert f"made from content {old.digest[:12]}" in str(found.problems[0])
    assert (found.dropped_artifacts, found.dropped_shards) == ([], [])
    assert found.to_json()["problems"][0]["kind"] == "input"


def test_verify_changes_nothing(store, fill, chain):
    break_shard(store, fill, "corrupt")
    before = fill.files()
    assert not verify(store).ok
    assert fill.files() == before
