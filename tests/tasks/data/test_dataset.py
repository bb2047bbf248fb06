import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from orchestrator.task import Digested
from tasks.data import READERS, Dataset


@pytest.fixture
def own(tmp_path, pictures):
    """Settings of an npz dataset."""
    images, labels = pictures()
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", images=images, labels=labels)
    return {"name": "npz", "train": str(tmp_path / "train.npz"), "test": str(tmp_path / "test.npz")}


class Config(BaseModel):
    dataset: Dataset


def test_a_name_is_short_for_the_setting():
    assert Config.model_validate({"dataset": "digits"}).dataset == Dataset(name="digits")


def test_is_frozen_hashable_and_survives_its_own_dump(own):
    dataset = Dataset(**own)
    assert Dataset.model_validate(dataset.model_dump(mode="json")) == dataset
    assert hash(Dataset(**own)) == hash(dataset)
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    with pytest.raises(ValidationError):
        dataset.name = "idx"


def test_is_known_by_its_content():
    assert isinstance(Dataset(name="digits"), Digested)


def test_every_name_has_a_reader():
    assert tuple(READERS) == Dataset.model_fields["name"].annotation.__args__


def test_paths_are_made_absolute(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Dataset(name="npz", train="train.npz", test="test.npz") == Dataset(**own)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Dataset(name="cifar10", root="~/x").root == str(tmp_path / "x")


WRONG = {
    "unknown": ({"name": "digit"}, "unknown dataset 'digit': did you mean 'digits'?"),
    "unlike any": ({"name": "zzz"}, "known: digits, fashion_mnist, cifar10"),
    "no name": ({}, "Field required"),
    "unknown field": ({"name": "digits", "rot": "x"}, "Extra inputs"),
    "train of a named one": ({"name": "cifar10", "train": "x"}, "cifar10 takes no `train`"),
    "root of digits": ({"name": "digits", "root": "x"}, "digits takes no `root`"),
    "root of one's own": ({"name": "idx", "root": "x"}, "idx takes no `root`"),
    "column of no table": ({"name": "npz", "label_column": "x"}, "npz takes no `label_column`"),
    "no test": ({"name": "npz", "train": "x"}, "needs `train` and `test`: add `test: PATH`"),
    "no train": ({"name": "npz", "test": "x"}, "add `train: PATH`"),
    "the same twice": ({"name": "npz", "train": "x", "test": "./x"}, "data kept apart for testing"),
    "not text": ({"name": 3}, "Input should be"),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_refuses_wrong_settings(settings, message):
    with pytest.raises(ValidationError) as caught:
        Dataset.model_validate(settings)
    assert message in str(caught.value)


def test_the_same_files_elsewhere_have_the_same_digest(own, tmp_path):
    (tmp_path / "other").mkdir()
    moved = {
        split: str(shutil.copy(own[split], tmp_path / "other" / f"{split}-2.npz"))
        for split in ("train", "test")
    }
    assert Dataset(name="npz", **moved).content_digest() == Dataset(**own).content_digest()


def test_exchanged_splits_have_another_digest(own, pictures):
    images, labels = pictures(seed=1)
    np.savez(own["test"], images=images, labels=labels)
    exchanged = Dataset(name="npz", train=own["test"], test=own["train"])
    assert exchanged.content_digest() != Dataset(**own).content_digest()


def test_is_read_once_until_the_content_changes(own, pictures):
    first = Dataset(**own).load()
    assert Dataset(**own).load() is first
    images, labels = pictures(seed=1)
    np.savez(own["train"], images=images, labels=labels)
    second = Dataset(**own).load()
    np.testing.assert_array_equal(second.train.images, images.transpose(0, 3, 1, 2))


def test_named_data_lies_in_the_home_folder_by_default(monkeypatch, tmp_path, refuses):
    from tasks.data.files import data_folder

    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    assert data_folder("cifar10", None) == Path.home() / ".cache/limbeck/data/cifar10"
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    assert data_folder("cifar10", None) == tmp_path / "cifar10"
    assert data_folder("cifar10", "/elsewhere") == Path("/elsewhere")
