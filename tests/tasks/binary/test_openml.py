"""Real downloads were not run here: without a network, from files as scikit-learn keeps them."""

import gzip
import hashlib
import json
import socket
import urllib.request

import pyarrow.parquet as pq
import pytest

from tasks.binary import BinaryDataset

ARFF = """@RELATION tiny
@ATTRIBUTE size NUMERIC
@ATTRIBUTE colour {red,green}
@ATTRIBUTE target NUMERIC
@ATTRIBUTE class {good,bad}
@DATA
1.5,red,7,good
?,green,8,bad
2.5,?,9,good
4,red,7,bad
"""
SPARSE = """@RELATION tiny
@ATTRIBUTE a NUMERIC
@ATTRIBUTE b NUMERIC
@ATTRIBUTE class {good,bad}
@DATA
{0 1.5,2 good}
{1 2,2 bad}
{2 good}
{0 3,1 1,2 bad}
"""
COLUMNS = (("size", "numeric"), ("colour", "nominal"), ("target", "numeric"), ("class", "nominal"))


@pytest.fixture
def offline(monkeypatch):
    """Every connection is refused, as by a proxy that does not run."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(urllib.request, "_opener", None)
        yield


def keep(folder, columns, arff, kind="ARFF", targets=("class",)):
    """Dataset 77 as scikit-learn keeps what it has downloaded."""

    def write(path, content):
        file = folder / "openml" / "openml" / "openml.org" / f"{path}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(content.encode()))

    feature = {"is_ignore": "false", "is_row_identifier": "false", "number_of_missing_values": "0"}
    features = [
        {
            **feature,
            "index": str(index),
            "name": name,
            "data_type": kind,
            "is_target": str(name in targets).lower(),
        }
        for index, (name, kind) in enumerate(columns)
    ]
    description = {
        "id": "77", "name": "tiny", "version": "1", "description": "", "format": kind, "status": "active",
        "url": "https://api.openml.org/data/v1/download/5/tiny.arff",
        "md5_checksum": hashlib.md5(arff.encode()).hexdigest(),
    }  # fmt: skip
    write("api/v1/json/data/77", json.dumps({"data_set_description": description}))
    write("api/v1/json/data/features/77", json.dumps({"data_features": {"feature": features}}))
    write("api/v1/json/data/qualities/77", json.dumps({"data_qualities": {"quality": []}}))
    write("data/v1/download/5/tiny.arff", arff)


def test_a_downloaded_dataset_becomes_a_parquet_file(folders, offline):
    keep(folders, COLUMNS, ARFF)
    dataset = BinaryDataset(name="openml", id=77)
    data = dataset.load()
    assert pq.read_schema(folders / "openml" / "77.parquet").names == [
        "size",
        "colour",
        "target_feature",
        "target",
    ]
    assert data.numbers[:, 1].tolist() == [7, 8, 9, 7]
    assert data.numbers[0].tolist() == [1.5, 7]
    assert data.categories[:, 0].tolist() == [1, 0, 2, 1]
    assert data.labels.tolist() == [1, -1, 1, -1]
    assert BinaryDataset(name="openml", id=77, positive="bad").load().labels.tolist() == [-1, 1, -1, 1]


def test_a_sparse_dataset_is_filled_with_zeros(folders, offline):
    keep(folders, (("a", "numeric"), ("b", "numeric"), ("class", "nominal")), SPARSE, kind="Sparse_ARFF")
    data = BinaryDataset(name="openml", id=77).load()
    assert data.numbers.tolist() == [[1.5, 0], [0, 2], [0, 0], [3, 1]]
    assert data.labels.tolist() == [1, -1, 1, -1]


def test_several_targets_are_refused(folders, offline, refuses):
    keep(folders, COLUMNS, ARFF, targets=("class", "colour"))
    with refuses("openml 77", "2 target columns", "name: table"):
        BinaryDataset(name="openml", id=77).load()


def test_a_file_put_there_by_hand_is_read(folders, offline, mixed):
    (folders / "openml").mkdir()
    pq.write_table(mixed, folders / "openml" / "4134.parquet")
    assert BinaryDataset(name="openml", id=4134, rows=40).load().rows == 40


def test_without_a_network_it_is_said_what_to_do(folders, offline):
    with pytest.raises(ConnectionError) as caught:
        BinaryDataset(name="openml", id=4134).content_digest()
    message = str(caught.value)
    assert "\n" not in message
    assert "openml 4134: cannot be downloaded" in message
    assert (
        f"put the table with its target as the column `target` into {folders}/openml/4134.parquet" in message
    )
    assert "{name: table, path: FILE}" in message
    assert not (folders / "openml" / "4134.parquet").exists()
