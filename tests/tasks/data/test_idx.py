import gzip
import struct

import numpy as np
import pytest

from tasks.data import Dataset
from tasks.data.idx import read_array


def write_idx(path, array, kind=8):
    content = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture(params=["", ".gz"], ids=["plain", "gzipped"])
def folder(request, tmp_path, pictures):
    images, labels = pictures(channels=1)
    for split, count in (("train", 12), ("t10k", 6)):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte{request.param}", images[:count, ..., 0])
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte{request.param}", labels[:count].astype(np.uint8))
    return tmp_path


def found(folder, stem):
    return next(folder.glob(f"{stem}*"))


def dataset(folder):
    return Dataset(
        name="idx", train=str(found(folder, "train-images")), test=str(found(folder, "t10k-images"))
    )


def test_reads_images_and_the_labels_beside_them(folder, pictures):
    images, labels = pictures(channels=1)
    data = dataset(folder).load()
    np.testing.assert_array_equal(data.train.images, images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.train.labels, labels)
    assert data.train.images.flags.writeable
    assert len(data.test) == 6


def test_finds_labels_under_the_dotted_name_and_gzipped_or_not(tmp_path, pictures):
    images, labels = pictures(channels=1)
    for split in ("train", "test"):
        write_idx(tmp_path / f"{split}-images.idx3-ubyte", images[..., 0])
        write_idx(tmp_path / f"{split}-labels.idx1-ubyte.gz", labels.astype(np.uint8))
    paths = [str(tmp_path / f"{split}-images.idx3-ubyte") for split in ("train", "test")]
    assert Dataset(name="idx", train=paths[0], test=paths[1]).load().shape == (1, 8, 8)


def test_digest_is_that_of_the_content_within_gzip(tmp_path, pictures):
    images, labels = pictures(channels=1)
    digests = []
    for suffix in ("", ".gz"):
        folder = tmp_path / f"kind{suffix}"
        folder.mkdir()
        for split in ("train", "t10k"):
            write_idx(folder / f"{split}-images-idx3-ubyte{suffix}", images[..., 0])
            write_idx(folder / f"{split}-labels-idx1-ubyte{suffix}", labels.astype(np.uint8))
        digests.append(dataset(folder).content_digest())
    assert digests[0] == digests[1]


def test_refuses_images_without_labels(folder, refuses):
    chosen = dataset(folder)
    found(folder, "t10k-labels").unlink()
    with refuses(
        found(folder, "t10k-images"), "no labels file beside it", "train-labels-idx1-ubyte", "add it"
    ):
        chosen.content_digest()


def test_refuses_a_file_that_is_its_own_labels(tmp_path, pictures, refuses):
    write_idx(tmp_path / "pixels", pictures()[0][..., 0])
    write_idx(tmp_path / "other", pictures()[0][..., 0])
    with refuses("pixels", "no labels file beside it"):
        Dataset(name="idx", train=str(tmp_path / "pixels"), test=str(tmp_path / "other")).load()


@pytest.mark.parametrize(
    "content", [b"", b"\0\0", b"PK garbage", b"\0\0\x08\x01\0\0\0\x04abcd", b"\0\0\x0d\x03" + bytes(12)]
)
def test_refuses_another_format(tmp_path, content, refuses):
    path = tmp_path / "a-images-idx3-ubyte"
    path.write_bytes(content)
    with refuses(
        path, "not an IDX file of unsigned bytes with 3 axes", "expected 00000803", "check the file"
    ):
        read_array(path, 3)


def test_refuses_a_cut_file(folder, refuses):
    chosen, path = dataset(folder), found(folder, "train-images")
    content = path.read_bytes()
    plain = gzip.decompress(content) if path.suffix == ".gz" else content
    path.write_bytes(plain[:-5])
    with refuses(path, "holds 763 bytes of data; expected 768", "damaged"):
        chosen.load()


def test_refuses_a_cut_gzip_file(tmp_path, refuses):
    path = tmp_path / "a.gz"
    write_idx(path, np.zeros((9, 4, 4), np.uint8))
    path.write_bytes(path.read_bytes()[:-9])
    with refuses(path, "cannot be read", "check the file"):
        read_array(path, 3)


def test_refuses_a_damaged_gzip_file_when_asked_for_its_digest(folder, refuses):
    chosen, path = dataset(folder), found(folder, "train-images")
    path.write_bytes(b"\x1f\x8bnot gzip")
    with refuses(path, "cannot be read", "check the file"):
        chosen.content_digest()
