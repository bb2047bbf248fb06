"""Artifacts of many shards: listed in a file beside the manifest, and the same in all else."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.errors import CorruptBlob
from orchestrator.store import Store, collect, export, lineage, verify
from orchestrator.store.store import record_path

SHARDS = [f"s{number}" for number in range(5)]


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch):
    monkeypatch.setattr("orchestrator.store.listings.MANY", 3)
    monkeypatch.setattr("orchestrator.store.listings._GROUP", 2)


@pytest.fixture
def both(fill, tmp_path, filler, monkeypatch):
    """The same artifact listed, and held by its manifest in another store."""
    listed = fill.artifact("big", SHARDS)
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.store.listings.MANY", 10)
        other = filler(Store.open(str(tmp_path / "other")))
        plain = other.artifact("big", SHARDS)
    return fill.store.artifact(listed), other.store.artifact(plain)


def test_a_listed_artifact_is_like_one_whose_manifest_holds_its_shards(both, fill):
    listed, plain = both
    assert (listed.manifest.shards, listed.manifest.shard_count, plain.manifest.shard_count) == ([], 5, 5)
    assert (listed.digest, listed.manifest.bytes) == (plain.digest, plain.manifest.bytes)
    assert list(listed.entries) == plain.manifest.shards
    assert [listed.entries[at] for at in (4, 0, -1, 2)] == [plain.entries[at] for at in (4, 0, -1, 2)]
    assert [shard.key for shard in listed.shards[1:4]] == [entry.key for entry in plain.entries[1:4]]
    assert [shard.document("value")["name"] for shard in listed.shards] == SHARDS
    assert len(listed.shards) == 5
    with pytest.raises(IndexError):
        listed.entries[5]
    (row,) = fill.store.rows()
    assert (row.shards, row.digest, row.bytes) == (5, plain.digest, plain.manifest.bytes)


def test_only_its_manifest_is_of_a_later_schema(both, fill):
    def schema(store: Store, kind: str, key: str) -> int:
        return json.loads(store.bytes.read(record_path(kind, key)))["schema"]

    listed, plain = both
    assert schema(fill.store, "artifacts", listed.id) == 2
    assert {schema(fill.store, "shards", entry.key) for entry in listed.entries} == {1}
    assert json.loads(fill.store.bytes.read("store.json"))["schema"] == 1
    found = plain.manifest.to_json()
    assert (found["schema"], "listing" in found, len(found["shards"])) == (1, False, 5)


def test_the_list_is_a_table_for_others_too(both):
    listed, plain = both
    file = Path(listed._space.root, "blobs", (digest := listed.manifest.listing.file.digest)[:2], digest)
    table = pq.read_table(file)
    assert table.column("key").to_pylist() == [entry.key for entry in plain.entries]
    assert table.column("files").to_pylist()[0][0].keys() == {"name", "digest", "size", "rows"}
    assert dict(table.column("metrics").to_pylist()[0]) == {"m": 0.5}


def test_collection_keeps_what_it_lists_and_takes_the_list_with_it(fill):
    made = fill.artifact("big", SHARDS)
    fill.run("r1", [("walk", made)])
    fill.shard("stray")
    fill.age()
    kept = collect(fill.store, apply=True)
    assert (kept.shards.count, kept.artifacts.count, kept.blobs.count) == (1, 0, 1)
    assert verify(fill.store).ok
    ref = fill.store.manifest(made).listing.file
    fill.store.bytes.delete("runs/r1/run.json")
    gone = collect(fill.store, apply=True)
    assert (gone.artifacts.count, gone.shards.count) == (1, 5)
    assert not fill.blob(ref).exists()


def test_a_broken_list_costs_the_artifact_and_no_shard(fill):
    made, small = fill.artifact("big", SHARDS), fill.artifact("small", SHARDS[:2])
    fill.flip(fill.store.manifest(made).listing.file)
    with pytest.raises(CorruptBlob, match="list of shards"):
        len(Store.open(fill.store.uri).artifact(made).shards)
    found = verify(fill.store, repair=True)
    assert [(problem.artifact, problem.file) for problem in found.problems] == [(made, "list of shards")]
    assert (found.dropped_artifacts, found.dropped_shards) == ([made], [])
    assert list(fill.store.artifact_ids()) == [small]
    assert fill.artifact("big", SHARDS) == made
    assert verify(fill.store).ok


def test_a_broken_file_of_a_shard_costs_the_shard_and_the_artifact(fill):
    made = fill.artifact("big", SHARDS)
    broken = fill.store.artifact(made).entries[3]
    fill.flip(broken.files["value.json"])
    found = verify(fill.store, [made])
    assert {problem.shard for problem in found.problems} == {broken.key}
    assert verify(fill.store, repair=True).dropped_shards == [broken.key]
    assert list(fill.store.artifact_ids()) == []


def test_export_and_lineage(both, fill, tmp_path):
    listed, plain = both
    copy = export(fill.store, listed.id, tmp_path / "copy")
    assert len(list((copy / "shards").iterdir())) == 5
    assert export(fill.store, listed.id, tmp_path / "copy") == copy  # an earlier copy of the same
    assert lineage(fill.store, listed.id)["artifact"]["digest"] == plain.digest
