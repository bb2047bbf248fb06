"""The index of artifacts is a shortcut, never the truth."""

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import CorruptBlob, StoreError
from orchestrator.selection import Selection
from orchestrator.store import Folder, Manifest, Store, collect, export, lineage, verify
from orchestrator.store.index import PATH
from orchestrator.store.store import record_path
from orchestrator.verbs import browsing


class Counting(Folder):
    """A folder that notes what is read of it; with `sealed` it takes no writes."""

    def __init__(self, root) -> None:
        super().__init__(root)
        self.reads: list[str] = []
        self.puts: list[str] = []
        self.sealed = False

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return super().read(path)

    def put(self, path: str, data: bytes) -> None:
        if self.sealed:
            raise StoreError("read-only")
        self.puts.append(path)
        super().put(path, data)


@pytest.fixture
def space(tmp_path) -> Counting:
    return Counting(tmp_path / "store")


@pytest.fixture
def fill(space, filler):
    return filler(Store.over(space))


def look(store) -> list:
    """What a listing shows, and which files it read."""
    store.bytes.reads.clear()
    found = sorted(row.id for row in store.rows())
    return [found, [path for path in store.bytes.reads if path != "store.json"]]


def manifests(ids) -> list[str]:
    return sorted(record_path("artifacts", key) for key in ids)


def same(store) -> bool:
    """Whether every row tells what its manifest tells."""
    rows = {row.id: row for row in store.rows()}
    made = {manifest.id: manifest for manifest in store.manifests()}
    assert set(rows) == set(made)
    return all(told(rows[key]) == told_by(made[key]) for key in made)


def told(row) -> tuple:
    return (
        row.digest, row.kind, row.task, row.stage, row.experiment, row.created, row.bytes, row.shards, row.inputs,
        row.metrics,
    )  # fmt: skip


def told_by(made: Manifest) -> tuple:
    inputs = {field: [ref.id, ref.digest] for field, ref in made.inputs.items()}
    return (
        made.digest, made.kind, made.task, made.stage, made.experiment, made.created, made.bytes,
        len(made.shards), inputs, made.metrics,
    )  # fmt: skip


def test_a_second_listing_reads_one_file(space, fill):
    first = fill.artifact("a", shards=("x", "y"))
    ids = sorted([first, *(fill.artifact(number, inputs=[first]) for number in range(20))])
    found, read = look(fill.store)
    assert found == ids
    assert sorted(read) == sorted([PATH, *manifests(ids)])
    space.puts.clear()
    assert look(fill.store) == [ids, [PATH]]
    assert space.puts == []
    assert same(fill.store)


def test_a_listing_reads_what_is_new_and_forgets_what_is_gone(space, fill):
    ids = [fill.artifact(number) for number in range(5)]
    look(fill.store)
    fill.store.drop_artifact(ids[0])
    new = fill.artifact("new")
    found, read = look(fill.store)
    assert found == sorted([*ids[1:], new])
    assert sorted(read) == sorted([PATH, *manifests([new])])
    assert look(fill.store)[1] == [PATH]


def test_an_artifact_that_was_made_anew_is_read_again(space, fill):
    key = fill.artifact("a", created=1)
    look(fill.store)
    manifest = fill.store.manifest(key)
    fill.store.drop_artifact(key)
    fill.store.publish(dataclasses.replace(manifest, provenance={**manifest.provenance, "created": 2}))
    assert [row.created for row in fill.store.rows()] == [2]


@pytest.mark.parametrize(
    "broken", [b"", b"{}", b"limbeck-index-2 00\nxx", b"limbeck-index-3 00\nxx", b"\xff" * 100]
)
def test_a_broken_index_is_made_anew(space, fill, broken):
    ids = sorted(fill.artifact(number) for number in range(3))
    space.put(PATH, broken)
    assert look(fill.store)[0] == ids
    assert look(fill.store) == [ids, [PATH]]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_torn_or_flipped_index_changes_no_answer(fill, data):
    fill.artifact("a", shards=("x",))
    fill.artifact("b")
    fill.store.rows()
    whole = bytearray(fill.store.bytes.read(PATH))
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        whole = whole[:at]
    else:
        whole[at] ^= data.draw(st.integers(1, 255))
    fill.store.bytes.put(PATH, bytes(whole))
    assert same(fill.store)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["make", "drop", "look", "stale"]), st.integers(0, 5)), max_size=15
    )
)
def test_rows_are_those_of_the_manifests_whatever_happens(fill, steps):
    """`stale`: another writer puts back an index that it made earlier."""
    old = None
    for number, (what, which) in enumerate(steps):
        if what == "make":
            fill.artifact(which, created=number)
        elif what == "drop":
            fill.store.drop_artifact(fill.key("stage", which))
        elif what == "look":
            assert same(fill.store)
            old = fill.store.bytes.read(PATH) if fill.store.bytes.exists(PATH) else None
        elif old is not None:
            fill.store.bytes.put(PATH, old)
    assert same(fill.store)


def test_a_store_that_cannot_be_written_is_listed_all_the_same(space, fill):
    ids = sorted(fill.artifact(number) for number in range(3))
    space.sealed = True
    assert look(fill.store)[0] == ids
    assert not space.exists(PATH)


def test_a_damaged_manifest_is_told(space, fill):
    key = fill.artifact("a")
    fill.store.rows()
    space.put(record_path("artifacts", key), b'{"half":')
    with pytest.raises(CorruptBlob, match=r"damaged record.*verify --repair"):
        fill.store.rows()


def test_plans_read_the_index_and_never_write_it(space, fill):
    fill.artifact("a")
    space.puts.clear()
    fill.store.rows(save=False)
    assert space.puts == []


def test_names_and_lineage_read_the_index(space, fill):
    top = fill.artifact("top")
    others = [fill.artifact(number) for number in range(10)]
    below = fill.artifact("below", inputs=[top])
    fill.store.rows()
    space.reads.clear()
    assert fill.store.resolve("below") == below
    assert [node["id"] for node in lineage(fill.store, below)["up"]] == [top]
    assert not set(manifests(others)) & set(space.reads)


def test_upkeep_leaves_the_index_alone(space, fill, tmp_path):
    key = fill.artifact("a", shards=("x",))
    fill.store.rows()
    whole = space.read(PATH)
    fill.age()
    assert verify(fill.store).ok
    assert not any(path.name == "artifacts" for path in export(fill.store, key, tmp_path / "out").rglob("*"))
    assert collect(fill.store, apply=True, keep=0).artifacts.count == 1
    assert space.read(PATH) == whole
    assert fill.store.rows() == []
    assert verify(fill.store).ok


def test_ls_answers_from_the_index(space, fill, capsys):
    old, new = fill.artifact("a", shards=("x", "y"), created=1), fill.artifact("b", created=2)
    for _ in range(2):
        browsing.ls(str(space.root), Selection(), True)
        answer = json.loads(capsys.readouterr().out)
        assert [row["id"] for row in answer] == [new, old]
        assert answer[1] == {
            "id": old, "digest": fill.store.manifest(old).digest, "kind": "toys", "task": "toy", "stage": "a",
            "experiment": "exp", "created": 1, "bytes": fill.store.manifest(old).bytes, "shards": 2,
            "metrics": {}, "tags": [],
        }  # fmt: skip
    browsing.ls(str(space.root), Selection(kind="other"), True)
    assert json.loads(capsys.readouterr().out) == []
