import gzip

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tasks.binary import BinaryDataset

CSV = "age,job,city,target\n31,?,Ulm,1\n,clerk,,0\n55,nurse,Jena,1\n40,clerk,Ulm,0\n"


@pytest.mark.parametrize("name", ["own.csv", "own.csv.gz"])
def test_csv_files_are_read_with_their_gaps(tmp_path, name):
    content = CSV.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    dataset = BinaryDataset(name="table", path=str(tmp_path / name))
    data = dataset.load()
    assert dataset.label == "own"
    assert (data.rows, data.columns, data.sizes) == (4, 3, (3, 3))
    assert data.numbers[:, 0].tolist()[2:] == [55, 40]
    assert data.numbers[1, 0] != data.numbers[1, 0]
    assert data.categories.tolist() == [[2, 1], [0, 2], [1, 0], [0, 1]]
    assert data.labels.tolist() == [1, -1, 1, -1]


def test_gzipped_content_has_the_same_digest(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    digests = {BinaryDataset(name="table", path=str(path)).content_digest() for path in tmp_path.iterdir()}
    assert len(digests) == 1


def test_parquet_and_csv_hold_the_same_numbers(tmp_path, mixed, mixed_file):
    pyarrow.csv.write_csv(mixed, tmp_path / "mixed.csv")
    one, two = (
        BinaryDataset(name="table", path=str(path)).load() for path in (mixed_file, tmp_path / "mixed.csv")
    )
    for left, right in zip(one.split(1, 0.3), two.split(1, 0.3), strict=True):
        assert left.equal(right)


@pytest.mark.parametrize("name", ["own.csv", "own.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"a,b\n1,2,3\n"], ids=["empty", "bytes", "ragged"])
def test_damaged_files_are_named(tmp_path, refuses, name, content):
    (tmp_path / name).write_bytes(content)
    with refuses(tmp_path / name):
        BinaryDataset(name="table", path=str(tmp_path / name)).load()


def test_a_csv_without_rows(tmp_path, refuses):
    (tmp_path / "own.csv").write_text("a,target\n")
    with refuses(tmp_path / "own.csv", "holds no rows"):
        BinaryDataset(name="table", path=str(tmp_path / "own.csv")).load()


def test_a_column_twice(tmp_path, refuses):
    (tmp_path / "own.csv").write_text("a,a,target\n1,2,0\n2,3,1\n")
    with refuses("2 columns 'a'"):
        BinaryDataset(name="table", path=str(tmp_path / "own.csv")).load()


def test_the_row_numbers_of_pandas_are_no_feature(tmp_path):
    columns = {"x": [1, 2], "target": [0, 1], "__index_level_0__": [7, 9]}
    pq.write_table(pa.table(columns), tmp_path / "own.parquet")
    assert BinaryDataset(name="table", path=str(tmp_path / "own.parquet")).load().columns == 1
