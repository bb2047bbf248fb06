import dataclasses
import json
import math
import os

import pytest
import torch

from orchestrator.errors import CorruptBlob, SchemaError, StoreError, UserError
from orchestrator.store import Store, verify
from orchestrator.store.records import SCHEMA
from orchestrator.task import Output, Progress


def test_a_store_is_made_once_and_opened_again(tmp_path):
    uri = str(tmp_path / "new" / "store")
    first = Store.open(uri)
    made = first.bytes.read("store.json")
    assert Store.open(uri).bytes.read("store.json") == made
    assert Store.open(first.uri, create=False).uri == uri


def test_reading_makes_no_store(tmp_path):
    with pytest.raises(UserError, match=r"there is no store at .*/none; `limbeck run` makes one"):
        Store.open(str(tmp_path / "none"), create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_a_later_version_is_refused(store):
    body = json.loads(store.bytes.read("store.json"))
    store.bytes.put("store.json", json.dumps({**body, "schema": SCHEMA + 1}).encode())
    for create in (True, False):
        with pytest.raises(SchemaError, match=r"store.json: written by a later version.*upgrade") as error:
            Store.open(store.uri, create=create)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, store):
    for folder, uri in ((tmp_path / "mine", tmp_path / "mine/store"), (store.bytes.root, store.uri)):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o555)
        with pytest.raises(StoreError, match=r"cannot write: Permission denied; check"):
            Store.open(str(uri))
        folder.chmod(0o755)
    Store.open(store.uri, create=False)


def test_a_shard_is_committed_once(store, fill):
    key = fill.key("s")
    assert not store.has_shard(key)
    first = store.commit_shard(
        key, {"n": 1}, "n=1", Output(documents={"d": "first"}), provenance={"host": "a"}
    )
    second = store.commit_shard(
        key, {"n": 1}, "n=1", Output(documents={"d": "second"}), provenance={"host": "b"}
    )
    assert first == second == store.shard(key).record
    assert store.has_shard(key)
    assert store.shard(key).document("d") == "first"
    store.drop_shard(key)
    assert not store.has_shard(key)


@pytest.mark.parametrize("many", [10_000, 100])
def test_committed_of_many(store, fill, many, monkeypatch):
    monkeypatch.setattr("orchestrator.store.store.MANY", many)
    done = {fill.shard(number) for number in range(20)}
    others = {fill.key("other", number) for number in range(500)}
    assert store.committed([*others, *done]) == done
    assert set(store.shard_keys()) == done
    with pytest.raises(StoreError, match="is not committed; run the same command again"):
        store.shard(min(others))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Output(facts={"a": {"b": math.nan}}), r"facts of n=1\.a\.b: nan"),
        (Output(metrics={"loss": math.inf}), r"metrics of n=1\.loss: inf"),
        (Output(documents={"ok": 1, "bad": {"x": torch.zeros(1)}}), r"document bad\.x: tensor"),
    ],
)
def test_what_json_cannot_hold_is_refused_before_anything_is_written(store, fill, output, message):
    with pytest.raises(ValueError, match=message):
        store.commit_shard(fill.key("s"), {"n": 1}, "n=1", output)
    assert fill.files() == ["store.json"]


def test_a_preview_whose_picture_is_gone_is_left_out(store, fill):
    kept, lost = store.put_blob(b"kept"), store.put_blob(b"lost")
    fill.blob(lost).unlink()
    previews = [{"name": "p", "step": i, "blob": ref.digest, "size": 4} for i, ref in enumerate((kept, lost))]
    key = fill.shard("s", previews=previews, history=store.put_blob(b"[]"))
    record = store.shard(key).record
    assert [picture["step"] for picture in record.previews] == [0]
    assert store.read_blob(record.history.digest) == b"[]"
    assert verify(store).ok


def test_an_artifact_is_published_once(store, fill):
    made = fill.artifact("a", shards=("x", "y"))
    first = store.artifact(made)
    other = dataclasses.replace(first.manifest, provenance={"created": 99})
    assert store.publish(other) == first.manifest
    assert store.manifest(made).created == 1
    assert list(store.manifests()) == [first.manifest]
    assert first.digest == first.manifest.digest
    assert first.facts == {"data_digest": "d0"}
    store.drop_artifact(made)
    assert store.manifest(made) is None
    with pytest.raises(UserError, match="there is no artifact"):
        store.artifact(made)


def test_no_artifact_without_its_shards(store, fill):
    manifest = store.artifact(fill.artifact("a", shards=("x", "y"))).manifest
    store.drop_artifact(manifest.id)
    store.drop_shard(manifest.shards[1].key)
    with pytest.raises(
        StoreError, match=rf"1 of its 2 shards are not committed, such as {manifest.shards[1].key}"
    ):
        store.publish(manifest)
    assert store.manifest(manifest.id) is None


def test_what_is_no_id_names_no_artifact(store):
    assert store.manifest("../../etc/passwd") is None
    assert store.manifest("") is None


def test_resolve(store, fill):
    old = fill.artifact("experts", created=1)
    other = fill.artifact("distilled", experiment="second", created=2)
    assert store.resolve(old) == store.resolve(old[:10]) == store.resolve("experts") == old
    assert store.resolve("second/distilled") == store.resolve("distilled") == other
    for text, hint in (
        ("expert", "did you mean 'experts'"),
        ("second/experts", "did you mean"),
        ("", "known: "),
    ):
        with pytest.raises(UserError, match=rf"there is no artifact '{text}'.*{hint}"):
            store.resolve(text)


def test_resolve_takes_the_newest_of_a_name(store, fill):
    first, second = fill.artifact("a", created=5), fill.artifact("b", created=6)
    assert store.resolve("a") == first
    fill.run("r1", stages=[("a", second)], experiment="other", started=7)
    assert store.resolve("a") == store.resolve("other/a") == second
    assert store.resolve("exp/a") == first
    fill.run("r2", stages=[("a", first), ("gone", fill.key("gone"))], experiment="other", started=8)
    assert store.resolve("other/a") == first
    with pytest.raises(UserError, match="there is no artifact 'gone'"):
        store.resolve("gone")


def test_resolve_tells_what_a_text_may_mean(store, fill):
    made = [fill.artifact(name) for name in range(40)]
    digit = next(
        one[0] for one in made if sum(other[0] == one[0] for other in made) > 1 and one[0] in "abcdef"
    )
    with pytest.raises(UserError, match=rf"'{digit}' may mean \d+ artifacts: {digit}.*give more digits"):
        store.resolve(digit)


def test_blobs(store, fill):
    ref = store.put_blob(b"picture")
    assert store.put_blob(b"picture") == ref
    assert store.read_blob(ref.digest) == b"picture"
    fill.flip(ref)
    with pytest.raises(CorruptBlob, match="is damaged; run `limbeck artifacts verify"):
        store.read_blob(ref.digest)
    with pytest.raises(CorruptBlob, match="is missing"):
        store.read_blob("0" * 64)


PROGRESS = Progress(
    {"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3)}, {"step": 7, "deep": {"a": [1.5]}}
)


def test_progress(store, fill):
    key = fill.key("s")
    assert store.load_progress(key) is None
    store.save_progress(key, PROGRESS)
    store.save_progress(key, PROGRESS)
    found = store.load_progress(key)
    assert found.facts == PROGRESS.facts
    assert torch.equal(found.tensors["w"], PROGRESS.tensors["w"])
    found.tensors["w"].zero_()
    store.drop_progress(key)
    store.drop_progress(key)
    assert store.load_progress(key) is None


def test_damaged_progress_counts_as_none(store, fill, caplog):
    key = fill.key("s")
    store.save_progress(key, PROGRESS)
    file = store.bytes.root / "work" / key[:2] / key / "progress"
    whole = file.read_bytes()
    for cut in (0, 10, 64, 100, len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert store.load_progress(key) is None
    for at in (0, 70, len(whole) - 1):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert store.load_progress(key) is None
    assert len(caplog.records) == 8
    assert "the saved progress is damaged; the shard begins anew" in caplog.messages[0]
    file.write_bytes(whole)
    assert store.load_progress(key).facts == PROGRESS.facts


def test_progress_without_tensors(store, fill):
    store.save_progress(fill.key("s"), Progress({}, {"step": 1}))
    assert store.load_progress(fill.key("s")) == Progress({}, {"step": 1})


def test_records_are_spread(store, fill):
    fill.artifact("a", shards=range(30))
    folders = {path.split("/")[1] for path in fill.files() if path.startswith("shards/")}
    assert len(folders) > 15
    assert all(
        path.split("/")[2].startswith(path.split("/")[1]) for path in fill.files() if path.count("/") == 2
    )
