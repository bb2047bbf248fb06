import pickle

import numpy as np
import pytest

from tasks.data import Dataset


@pytest.fixture
def files(tmp_path, pictures):
    """Training and test archive, and what is in the first."""
    images, labels = pictures()
    np.savez(tmp_path / "train.npz", images=images, labels=labels)
    np.savez_compressed(tmp_path / "test.npz", images=images[:6], labels=labels[:6])
    return tmp_path / "train.npz", tmp_path / "test.npz", images, labels


def dataset(train, test):
    return Dataset(name="npz", train=str(train), test=str(test))


def test_reads_both_splits(files):
    train, test, images, labels = files
    data = dataset(train, test).load()
    np.testing.assert_array_equal(data.train.images, images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.train.labels, labels)
    assert len(data.test) == 6


def test_refuses_a_missing_file(files, tmp_path, refuses):
    with refuses(tmp_path / "none.npz", "no such file", "correct the path"):
        dataset(tmp_path / "none.npz", files[1]).content_digest()


def test_refuses_a_folder(files, tmp_path, refuses):
    with refuses(tmp_path, "cannot be opened", "check the path"):
        dataset(tmp_path, files[1]).load()


@pytest.mark.parametrize(
    "content", [b"", b"garbage", pickle.dumps({"images": 1})], ids=["empty", "text", "pickle"]
)
def test_refuses_another_format(files, content, refuses):
    files[0].write_bytes(content)
    with refuses(files[0], "is no .npz file", "numpy.savez"):
        dataset(*files[:2]).load()


def test_refuses_one_bare_array(files, refuses):
    with files[0].open("wb") as file:
        np.save(file, files[2])
    with refuses(files[0], "is no .npz file", "numpy.savez"):
        dataset(*files[:2]).load()


def test_refuses_a_damaged_archive(files, refuses):
    content = bytearray(files[1].read_bytes())
    content[100:200] = bytes(100)
    files[1].write_bytes(content)
    with refuses(files[1], "cannot be read", "check the file"):
        dataset(*files[:2]).load()


@pytest.mark.parametrize("name", ["images", "labels"])
def test_refuses_a_missing_array(files, name, refuses):
    arrays = {"images": files[2], "labels": files[3]}
    arrays["other"] = arrays.pop(name)
    np.savez(files[0], **arrays)
    with refuses(files[0], "other", f"no `{name}`", "rename"):
        dataset(*files[:2]).load()


def test_refuses_images_of_differing_sizes_as_they_are_pickled(files, refuses):
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros((8, 8), np.uint8), np.zeros((9, 9), np.uint8)]
    np.savez(files[0], images=ragged, labels=np.arange(2))
    with refuses(files[0], "Object arrays cannot be loaded", "check the file"):
        dataset(*files[:2]).load()
