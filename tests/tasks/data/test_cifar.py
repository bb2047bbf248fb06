import hashlib
import io
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from tasks.data import Dataset, cifar
from tasks.data.files import data_folder

NOWHERE = "http://127.0.0.1:9/archive.tar.gz"


def records(name, count, seed):
    """A binary batch, and the images and fine labels in it."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % len(cifar.CIFARS[name].classes)
    columns = [labels[:, None], images.reshape(count, -1)]
    if name == "cifar100":
        columns.insert(0, labels[:, None] // 5)
    return np.concatenate(columns, axis=1).tobytes(), images, labels


def write_binaries(name, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for names in cifar.CIFARS[name].binaries.values():
        for number, file in enumerate(names):
            (folder / file).write_bytes(records(name, 200, number)[0])


def archived(folder):
    """A tar.gz of a folder of files below a folder of its own, and its digest."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        tar.add(folder, "unpacked")
    return file.getvalue(), hashlib.sha256(file.getvalue()).hexdigest()


@pytest.fixture(params=["cifar10", "cifar100"])
def name(request):
    return request.param


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("unpacked", [False, True])
def test_reads_the_binary_version(name, home, unpacked):
    write_binaries(name, home / name / (cifar.CIFARS[name].archive_folder if unpacked else "."))
    data = Dataset(name=name).load()
    parts = [records(name, 200, number)[1:] for number in range(len(cifar.CIFARS[name].binaries["train"]))]
    np.testing.assert_array_equal(data.train.images, np.concatenate([images for images, _ in parts]))
    np.testing.assert_array_equal(data.train.labels, np.concatenate([labels for _, labels in parts]))
    assert len(data.test) == 200
    assert data.classes == cifar.CIFARS[name].classes


def test_reads_npz_files(home):
    (home / "cifar10").mkdir(parents=True)
    _, images, labels = records("cifar10", 20, 0)
    for split in ("train", "test"):
        np.savez(home / "cifar10" / f"{split}.npz", images=images.transpose(0, 2, 3, 1), labels=labels)
    data = Dataset(name="cifar10").load()
    np.testing.assert_array_equal(data.train.images, images)
    assert data.classes[3] == "cat"


def test_class_names_are_complete_and_in_order():
    assert cifar.CIFARS["cifar10"].classes == tuple(sorted(set(cifar.CIFARS["cifar10"].classes)))
    assert cifar.CIFARS["cifar100"].classes == tuple(sorted(set(cifar.CIFARS["cifar100"].classes)))
    assert [len(each.classes) for each in cifar.CIFARS.values()] == [10, 100]


def test_digest_is_the_same_in_another_folder(name, home, tmp_path):
    write_binaries(name, home / name)
    shutil.copytree(home / name, tmp_path / "elsewhere")
    assert (
        Dataset(name=name).content_digest()
        == Dataset(name=name, root=str(tmp_path / "elsewhere")).content_digest()
    )


def test_downloads_what_is_missing(name, home, tmp_path, monkeypatch):
    write_binaries(name, tmp_path / "published")
    content, sha256 = archived(tmp_path / "published")
    (tmp_path / "published.tar.gz").write_bytes(content)
    url = (tmp_path / "published.tar.gz").as_uri()
    monkeypatch.setitem(cifar.CIFARS, name, replace(cifar.CIFARS[name], url=url, sha256=sha256))
    data = Dataset(name=name).load()
    assert len(data.test) == 200
    binaries = cifar.CIFARS[name].binaries
    assert sorted(path.name for path in (home / name).iterdir()) == sorted(
        binaries["train"] + binaries["test"]
    )


def test_without_a_network_says_where_to_put_the_files(name, home, monkeypatch):
    monkeypatch.setitem(cifar.CIFARS, name, replace(cifar.CIFARS[name], url=NOWHERE))
    with pytest.raises(ConnectionError) as caught:
        Dataset(name=name).content_digest()
    message = str(caught.value)
    assert "\n" not in message
    for word in (
        name,
        NOWHERE,
        "refused",
        cifar.CIFARS[name].binaries["test"][0],
        "train.npz",
        str(home / name),
        "root",
    ):
        assert word in message


def test_a_root_without_the_files_is_refused_and_not_filled(name, tmp_path, refuses):
    (tmp_path / "data_batch_1").write_bytes(b"a pickle of the Python version")
    with refuses(tmp_path, f"holds no {name}", "the binary version", "leave `root` out"):
        Dataset(name=name, root=str(tmp_path)).load()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("change", [b"", b"x" * 5000])
def test_refuses_a_file_of_another_length(name, home, change, refuses):
    write_binaries(name, home / name)
    path = home / name / cifar.CIFARS[name].binaries["test"][0]
    path.write_bytes(change)
    with refuses(path, f"holds {len(change)} bytes", "expected a multiple of", "damaged"):
        Dataset(name=name).load()


@pytest.mark.slow
def test_reads_the_published_images_where_they_lie_here():
    folder = data_folder("cifar10", None)
    if not (folder / "train.npz").is_file() and not (folder / "data_batch_1.bin").is_file():
        pytest.skip(f"CIFAR-10 is not in {folder}")
    data = Dataset(name="cifar10").load()
    assert data.shape == (3, 32, 32)
    assert data.counts == (5000,) * 10
    assert len(data.test) == 10000
    mean = data.train.images.mean((0, 2, 3)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-4)
