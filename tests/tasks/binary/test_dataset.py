import pickle
import shutil
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, ValidationError

from orchestrator.task import Digested
from tasks import TWO_CLASS_DATASETS
from tasks.binary import BinaryDataset
from tasks.binary.dataset import FIELDS


class Config(BaseModel):
    datasets: tuple[BinaryDataset, ...]


def made(**settings):
    return BinaryDataset.model_validate(settings)


@pytest.fixture
def every(mixed_file):
    """A setting of each kind."""
    return [
        made(name="wine", positive=["class_0"]),
        made(name="table", path=str(mixed_file), positive="yes", categorical=["age"], rows=20),
        made(name="openml", id=4134, rows=6000),
        made(name="image_pair", images="digits", classes=["3", "5"]),
    ]


def test_a_name_is_short_for_the_setting():
    config = Config.model_validate_json(
        '{"datasets": ["breast_cancer", {"name": "iris", "positive": "setosa"}]}'
    )
    assert config.datasets == (made(name="breast_cancer"), made(name="iris", positive=["setosa"]))


def test_is_frozen_hashable_and_survives_its_own_dump(every):
    for dataset in every:
        assert BinaryDataset.model_validate(dataset.model_dump(mode="json")) == dataset
        assert BinaryDataset.model_validate_json(dataset.model_dump_json()) == dataset
        assert pickle.loads(pickle.dumps(dataset)) == dataset
        assert len({dataset, dataset.model_copy()}) == 1
        with pytest.raises(ValidationError):
            dataset.name = "iris"
        assert isinstance(dataset, Digested)


def test_every_name_is_described_and_has_its_fields():
    names = get_args(BinaryDataset.model_fields["name"].annotation)
    assert set(names) == set(TWO_CLASS_DATASETS) == set(FIELDS)


def test_labels(every, mixed_file):
    assert [dataset.label for dataset in every] == ["wine", "mixed-rows", "openml-4134", "digits-3-5"]
    assert made(name="table", path="a/Credit_2.csv.gz").label == "credit_2"
    pair = made(name="image_pair", images="fashion_mnist", classes=["T-shirt/top", "Ankle boot"])
    assert pair.label == "fashion_mnist-t-shirt-top-ankle-boot"


def test_values_of_any_type_are_text():
    assert made(name="table", path="a.csv", positive=[1, 2.0, True, "x", 0.5]).positive == (
        "1", "2", "true", "x", "0.5",
    )  # fmt: skip


WRONG = {
    "unknown": (
        {"name": "brest_cancer"},
        "unknown two-class dataset 'brest_cancer': did you mean 'breast_cancer'?",
    ),
    "unlike any": ({"name": "zzz"}, "known: breast_cancer, wine"),
    "no name": ({}, "Field required"),
    "unknown field": ({"name": "iris", "positiv": "x"}, "Extra inputs"),
    "path of a bundled one": ({"name": "iris", "path": "a.csv"}, "iris takes no `path`"),
    "target of openml": ({"name": "openml", "id": 1, "target": "x"}, "openml takes no `target`"),
    "no path": ({"name": "table"}, "table needs `path`"),
    "no id": ({"name": "openml"}, "openml needs `id`"),
    "no images": ({"name": "image_pair", "classes": ["a", "b"]}, "needs `images`"),
    "no classes": ({"name": "image_pair", "images": "digits"}, "needs `classes`"),
    "one class": ({"name": "image_pair", "images": "digits", "classes": ["1"]}, "at least 2 items"),
    "three classes": ({"name": "image_pair", "images": "digits", "classes": [1, 2, 3]}, "at most 2 items"),
    "the same class": ({"name": "image_pair", "images": "digits", "classes": [1, 1]}, "'1' twice"),
    "unknown images": (
        {"name": "image_pair", "images": "digit", "classes": [1, 2]},
        "did you mean 'digits'?",
    ),
    "no positive value": ({"name": "iris", "positive": []}, "at least 1 item"),
    "no table": ({"name": "table", "path": "a.xlsx"}, "a.xlsx: expected a Parquet (.parquet) or CSV"),
    "few rows": ({"name": "iris", "rows": 3}, "greater than or equal to 10"),
    "nested": ({"name": "iris", "positive": [["a"]]}, "positive"),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_refuses_wrong_settings(settings, message):
    with pytest.raises(ValidationError) as caught:
        BinaryDataset.model_validate(settings)
    assert message in str(caught.value)


def test_the_digest_is_of_content_and_settings_and_not_of_the_place(mixed_file, tmp_path):
    (tmp_path / "other").mkdir()
    moved = shutil.copy(mixed_file, tmp_path / "other" / "x.parquet")
    path = str(mixed_file)
    assert (
        made(name="table", path=str(moved)).content_digest() == made(name="table", path=path).content_digest()
    )
    digests = {
        made(name="table", path=path).content_digest(),
        made(name="table", path=path, positive="no").content_digest(),
        made(name="table", path=path, target="colour").content_digest(),
        made(name="table", path=path, categorical="age").content_digest(),
        made(name="table", path=path, rows=30).content_digest(),
        made(name="image_pair", images="digits", classes=["1", "2"]).content_digest(),
        made(name="image_pair", images="digits", classes=["2", "1"]).content_digest(),
        made(name="digits", positive="1").content_digest(),
    }
    assert len(digests) == 8
    assert all(len(digest) == 64 for digest in digests)


def test_digest_of_a_bundled_one_is_fixed():
    assert made(name="breast_cancer").content_digest() == (
        "582950dd6646402e6f719d0f657887318b0d988f1b57791d74413839e1239d3d"
    )


def test_is_read_once_until_the_content_changes(mixed_file, mixed):
    dataset = made(name="table", path=str(mixed_file))
    first = dataset.load()
    assert made(name="table", path=str(mixed_file)).load() is first
    pq.write_table(mixed.slice(0, 40), mixed_file)
    assert dataset.load().rows == 40


def test_a_relative_path_is_of_the_working_directory_else_of_the_data_folder(
    mixed, tmp_path, folders, monkeypatch, refuses
):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (folders / "tables").mkdir()
    pq.write_table(mixed.slice(0, 30), folders / "tables" / "a.parquet")
    in_data = made(name="table", path="tables/a.parquet")
    assert (in_data.path, in_data.load().rows) == ("tables/a.parquet", 30)
    (tmp_path / "work" / "tables").mkdir()
    pq.write_table(mixed, tmp_path / "work" / "tables" / "a.parquet")
    here = made(name="table", path="tables/a.parquet")
    monkeypatch.chdir(tmp_path)
    assert here.load().rows == 60
    missing = made(name="table", path="tables/b.parquet")
    with refuses(
        tmp_path / "tables/b.parquet", folders / "tables/b.parquet", "no such file", "correct `path`"
    ):
        missing.content_digest()


def test_kept_rows_are_the_same_wherever_the_file_lies_and_hold_both_classes_in_their_shares(
    mixed_file, tmp_path
):
    moved = shutil.copy(mixed_file, tmp_path / "x.parquet")
    whole = made(name="table", path=str(mixed_file)).load()
    kept, again = (made(name="table", path=str(path), rows=20).load() for path in (mixed_file, moved))
    np.testing.assert_array_equal(kept.numbers, again.numbers)
    assert kept.rows == 20
    assert abs(kept.positive_rate - whole.positive_rate) <= 0.5 / 20
    more = made(name="table", path=str(mixed_file), rows=20, positive="no").load()
    assert more.positive_rate == 1 - kept.positive_rate


BUNDLED = {
    "breast_cancer": ({}, 569, 30, 212),
    "wine": ({"positive": ["class_0", "class_2"]}, 178, 13, 59 + 48),
    "digits": ({"positive": [8]}, 1797, 64, 174),
    "iris": ({"positive": "virginica"}, 150, 4, 50),
}


@pytest.mark.parametrize(("name", "expected"), BUNDLED.items(), ids=BUNDLED)
def test_bundled_tables(name, expected):
    settings, rows, columns, positive = expected
    data = made(name=name, **settings).load()
    assert (data.rows, data.columns, data.shape, data.is_images) == (rows, columns, (columns,), False)
    assert data.positive_rate == positive / rows


def test_a_bundled_table_of_many_classes_needs_positive(refuses):
    with refuses(
        "wine", "3 values (class_0, class_1, class_2)", "name the values that count as +1 in `positive`"
    ):
        made(name="wine").load()
    with refuses("iris", "'setsa'", "did you mean 'setosa'?"):
        made(name="iris", positive="setsa").load()


def test_another_target_and_more_categories(mixed_file):
    data = made(name="table", path=str(mixed_file), target="target", categorical=["age"]).load()
    assert data.numbers.shape == (60, 1)
    assert data.categories.shape == (60, 2)
    table = pa.table({"x": [1, 2, 3], "t": [0, 1, 1]})
    pq.write_table(table, mixed_file)
    assert made(name="table", path=str(mixed_file), target="t").load().positive_rate == 2 / 3
