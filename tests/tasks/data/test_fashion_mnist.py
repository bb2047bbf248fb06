import gzip
import hashlib
import struct

import numpy as np
import pytest

from tasks.data import Dataset, fashion_mnist
from tasks.data.files import data_folder


def contents():
    """The four files, uncompressed, with ten images each."""
    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
    pixels = struct.pack(">4I", 0x803, 10, 28, 28) + images.tobytes()
    labels = struct.pack(">2I", 0x801, 10) + bytes(range(10))
    return {name: pixels if "images" in name else labels for name in fashion_mnist.SHA256}


def write(folder, suffix):
    folder.mkdir(parents=True)
    for name, content in contents().items():
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reads_the_four_files(tmp_path, suffix):
    write(tmp_path / "data", suffix)
    data = Dataset(name="fashion_mnist", root=str(tmp_path / "data")).load()
    assert data.shape == (1, 28, 28)
    assert data.counts == (1,) * 10
    assert data.classes[9] == "Ankle boot"


def test_digest_does_not_depend_on_folder_or_compression(tmp_path):
    write(tmp_path / "a", "")
    write(tmp_path / "b", ".gz")
    digests = {Dataset(name="fashion_mnist", root=str(tmp_path / folder)).content_digest() for folder in "ab"}
    assert len(digests) == 1


def test_downloads_what_is_missing(tmp_path, monkeypatch):
    write(tmp_path / "published", ".gz")
    files = {path.name.removesuffix(".gz"): path for path in (tmp_path / "published").iterdir()}
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(fashion_mnist, "URL", (tmp_path / "published").as_uri())
    sha256 = {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in fashion_mnist.SHA256}
    monkeypatch.setattr(fashion_mnist, "SHA256", sha256)
    assert Dataset(name="fashion_mnist").load().counts == (1,) * 10
    assert len(list((tmp_path / "data" / "fashion_mnist").iterdir())) == 4


def test_without_a_network_says_where_to_put_the_files(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    monkeypatch.setattr(fashion_mnist, "URL", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError) as caught:
        Dataset(name="fashion_mnist").load()
    message = str(caught.value)
    assert "\n" not in message
    for word in ("127.0.0.1", "put train-images-idx3-ubyte", str(tmp_path / "fashion_mnist"), "set `root`"):
        assert word in message


def test_a_root_without_the_files_is_refused(tmp_path, refuses):
    with refuses(tmp_path, "holds no train-images-idx3-ubyte", "put ", "leave `root` out"):
        Dataset(name="fashion_mnist", root=str(tmp_path)).load()


def test_reads_the_published_images_where_they_lie_here():
    folder = data_folder("fashion_mnist", None)
    if not list(folder.glob("train-images-idx3-ubyte*")):
        pytest.skip(f"Fashion-MNIST is not in {folder}")
    data = Dataset(name="fashion_mnist").load()
    assert data.counts == (6000,) * 10
    assert len(data.test) == 10000
    assert data.train.labels[:4].tolist() == [9, 0, 0, 3]
