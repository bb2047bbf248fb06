import json
import tempfile

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import CorruptBlob
from orchestrator.store import Folder, Store
from orchestrator.store.artifacts import write_output
from orchestrator.task import Artifact, Files, Output, ShardFiles

WEIGHTS = torch.arange(60.0).reshape(5, 4, 3)


@pytest.fixture
def shard(store, fill):
    output = Output(
        tensors={
            "w": {"b": WEIGHTS, "a": torch.arange(5), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
        },
        tables={"t": pa.table({"x": [1, 2, 3], "s": ["a", None, "c"]})},
        documents={"d": {"k": [1, 2]}},
        facts={"shape": (1, 2)},
        metrics={"loss": torch.tensor(0.5).item()},
    )
    store.commit_shard(fill.key("s"), {"expert": 3}, "expert=3", output)
    return store.shard(fill.key("s"))


def test_what_is_written_is_read(shard):
    assert shard.names == ["d.json", "t.parquet", "w.safetensors"]
    tensors = shard.tensors("w")
    assert torch.equal(tensors["b"], WEIGHTS)
    assert tensors["scalar"] == 2.5
    assert tensors["empty"].shape == (0, 3)
    assert shard.table("t").equals(pa.table({"x": [1, 2, 3], "s": ["a", None, "c"]}))
    assert shard.document("d") == {"k": [1, 2]}
    assert shard.facts == {"shape": [1, 2]}
    assert shard.metrics == {"loss": 0.5}
    assert shard.identity == {"expert": 3}
    assert shard.record.files["t.parquet"].rows == 3


def test_a_mapped_table_is_read_where_it_is_touched(store, fill):
    rows = np.arange(40_000_000, dtype=np.uint8).reshape(-1, 40)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 40)
    table = pa.table({"row": column, "blob": pa.array([b"x" * (n % 3) for n in range(len(rows))])})
    for key in (fill.key("first"), fill.key("second")):
        store.commit_shard(key, {}, "all", Output(mapped={"large": table, "none": table.slice(0, 0)}))
    shard, twin = (store.shard(fill.key(name)) for name in ("first", "second"))
    assert shard.record.files == twin.record.files
    assert shard.names == ["large.arrow", "none.arrow"]
    assert shard.record.files["large.arrow"].rows == len(rows)
    shard.table("large")
    before = psutil.Process().memory_info().rss
    mapped = shard.table("large")
    values = mapped["row"].chunk(0).flatten().to_numpy(zero_copy_only=True).reshape(-1, 40)
    assert np.array_equal(values[[7, 999_999]], rows[[7, 999_999]])
    assert psutil.Process().memory_info().rss - before < 10_000_000
    assert mapped.schema == table.schema
    assert mapped["blob"][5].as_py() == b"xx"
    assert shard.table("none").num_rows == 0


def test_views_fulfil_the_contract(store, fill, shard):
    artifact = store.artifact(fill.artifact("a", shards=("x", "y")))
    for view, protocol in ((shard, ShardFiles), (artifact, Artifact), (artifact.shards[0], ShardFiles)):
        wanted = {name for kind in (protocol, Files) for name in vars(kind) if not name.startswith("_")}
        assert all(hasattr(view, name) for name in wanted)
    assert artifact.kind == "toys"
    assert [part.identity for part in artifact.shards] == [{"name": "x"}, {"name": "y"}]
    assert artifact.shards[1].document("value")["name"] == "y"
    assert artifact.document("summary") == {"of": "a"}


@settings(max_examples=50)
@given(rows=st.lists(st.integers(0, 4), max_size=8))
def test_rows(shard_of_rows, rows):
    found = shard_of_rows.tensors("w", rows=rows)
    assert torch.equal(found["b"], WEIGHTS[rows])
    assert found["a"].tolist() == rows
    assert found["scalar"] == 2.5
    assert found["b"].untyped_storage().nbytes() == len(rows) * 12 * 4


@pytest.fixture(scope="module")
def shard_of_rows(tmp_path_factory):
    store = Store.open(str(tmp_path_factory.mktemp("rows")))
    tensors = {"b": WEIGHTS, "a": torch.arange(5), "scalar": torch.tensor(2.5)}
    store.commit_shard("0" * 32, {}, "x", Output(tensors={"w": tensors}))
    return store.shard("0" * 32)


@pytest.mark.parametrize("row", [-1, 5])
def test_rows_that_are_not_there(shard_of_rows, row):
    with pytest.raises(ValueError, match=rf"w\.a: row {row} was asked for; expected rows from 0 to 4"):
        shard_of_rows.tensors("w", rows=[0, row])


def test_a_change_in_place_does_not_reach_the_store(store, shard):
    shard.tensors("w")["b"].zero_()
    assert torch.equal(shard.tensors("w")["b"], WEIGHTS)


def test_what_was_read_can_be_written_again(store, fill, shard):
    again = store.commit_shard(fill.key("again"), {}, "again", Output(tensors={"w": shard.tensors("w")}))
    assert again.files["w.safetensors"] == shard.record.files["w.safetensors"]


def test_an_unknown_file_names_the_nearest(shard):
    with pytest.raises(ValueError, match=r"has no file 'v.safetensors'; did you mean 'w.safetensors'\?"):
        shard.tensors("v")


def test_any_layout_in_memory_gives_the_same_bytes(tmp_path):
    space = Folder(tmp_path)
    base = torch.arange(24.0).reshape(4, 6)
    plain = {"t": {"x": base.clone(), "y": base.T.contiguous(), "z": base[1:3].clone()}}
    views = {"t": {"z": base[1:3], "y": base.T, "x": torch.nn.Parameter(base)}}
    assert write_output(space, Output(tensors=plain)) == write_output(space, Output(tensors=views))
    overlapping = {"t": {"x": base, "y": base.T, "z": base[1:3], "w": base[:3]}}
    apart = {"t": {**plain["t"], "w": base[:3].clone()}}
    assert write_output(space, Output(tensors=overlapping)) == write_output(space, Output(tensors=apart))
    column = pa.chunked_array([[1, 2], [3, 4, 5]])
    whole, cut = pa.table({"x": [1, 2, 3, 4, 5]}), pa.table({"x": column})
    padded = pa.table({"x": [0, 1, 2, 3, 4, 5, 6]}).slice(1, 5)
    tables = [write_output(space, Output(tables={"t": table})) for table in (whole, cut, padded)]
    assert tables[0] == tables[1] == tables[2]
    one, two = Output(documents={"d": {"a": 1, "b": (2,)}}), Output(documents={"d": {"b": [2], "a": 1}})
    assert write_output(space, one) == write_output(space, two)


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path, child):
    processes = [child("outputs", tmp_path / name) for name in "ab"]
    first, second = (json.loads(process.communicate(timeout=60)[0]) for process in processes)
    assert first == second
    assert set(first) == {"d.json", "t.parquet", "w.safetensors"}


dtypes = st.sampled_from(
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=4),
        st.tuples(dtypes, st.lists(st.integers(0, 3), max_size=3)),
        max_size=4,
    )
)
def test_tensors_of_every_kind_come_back(kinds):
    tensors = {name: torch.ones(shape).to(dtype) for name, (dtype, shape) in kinds.items()}
    with tempfile.TemporaryDirectory() as root:
        store = Store.open(root)
        store.commit_shard("0" * 32, {}, "x", Output(tensors={"t": tensors}))
        found = store.shard("0" * 32).tensors("t")
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "", "%2e", "a b"])
def test_file_names_that_could_escape_are_refused(store, fill, name):
    for output in (
        Output(documents={name: 1}),
        Output(tensors={name: {}}),
        Output(tables={name: pa.table({})}),
    ):
        with pytest.raises(ValueError, match="file name"):
            store.commit_shard(fill.key("s"), {}, "x", output)
    assert fill.files() == ["store.json"]


def test_a_flipped_byte_is_found_before_the_first_use(store, fill, shard):
    for name, touch in (
        ("w.safetensors", shard.tensors),
        ("t.parquet", shard.table),
        ("d.json", shard.document),
    ):
        fill.flip(shard.record.files[name])
        with pytest.raises(
            CorruptBlob, match=rf"\(expert=3\), file {name}: blobs/.*verify --repair"
        ) as error:
            touch(name.partition(".")[0])
        assert "\n" not in str(error.value)


def test_a_file_is_hashed_once_and_again_when_it_changes(store, fill, shard):
    shard.document("d")
    shard.document("d")
    fill.flip(shard.record.files["d.json"])
    with pytest.raises(CorruptBlob, match="has content of sha256"):
        shard.document("d")


def test_a_missing_and_a_short_file_are_told(store, fill, shard):
    file = fill.blob(shard.record.files["d.json"])
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptBlob, match="has 10 bytes, expected 11"):
        shard.document("d")
    file.unlink()
    with pytest.raises(CorruptBlob, match=r"file d.json: blobs/.* is missing; run `limbeck artifacts verify"):
        shard.document("d")


def test_equal_content_is_kept_once_and_put_right_when_it_is_found_broken(store, fill):
    output = Output(documents={"d": "same"})
    first = store.commit_shard(fill.key(1), {"n": 1}, "n=1", output).files["d.json"]
    fill.flip(first)
    second = store.commit_shard(fill.key(2), {"n": 2}, "n=2", output).files["d.json"]
    assert first == second
    assert store.shard(fill.key(1)).document("d") == "same"
    assert len([path for path in fill.files() if path.startswith("blobs/")]) == 1


def test_an_old_blob_that_is_used_again_is_young_again(store, fill):
    ref = store.put_blob(b"x")
    fill.age()
    before = fill.blob(ref).stat().st_mtime
    store.put_blob(b"x")
    assert fill.blob(ref).stat().st_mtime > before + 3600
