"""`cifar10` and `cifar100`: 50,000 + 10,000 coloured pictures, 32x32 (Krizhevsky 2009).

Read from the binary version's files, or from `train.npz` and `test.npz` with `images` uint8 (N, 32, 32, 3)
and `labels`. The Python version's pickles are never opened.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .cifar_classes import CIFAR10, CIFAR100
from .fetch import fetch_members
from .files import data_folder, listed, reading
from .image_data import Loaded
from .npz import read_npz

if TYPE_CHECKING:
    from .dataset import Dataset

SIDE = 32
PIXEL_BYTES = 3 * SIDE * SIDE


@dataclass(frozen=True)
class Cifar:
    """What tells one of the two from the other."""

    url: str
    sha256: str
    archive_folder: str
    """Folder that unpacking the archive makes."""
    binaries: dict[str, tuple[str, ...]]
    """Split to the binary files that hold it."""
    label_bytes: int
    """Bytes before the pixels of a record; the last one is the (fine) label."""
    classes: tuple[str, ...]


CIFARS = {
    "cifar10": Cifar(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        archive_folder="cifar-10-batches-bin",
        binaries={
            "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            "test": ("test_batch.bin",),
        },
        label_bytes=1,
        classes=CIFAR10,
    ),
    "cifar100": Cifar(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        archive_folder="cifar-100-binary",
        binaries={"train": ("train.bin",), "test": ("test.bin",)},
        label_bytes=2,
        classes=CIFAR100,
    ),
}


def files(dataset: "Dataset", split: str) -> dict[str, Path]:
    """The files of a split by their names; downloaded where they are missing and no root is set."""
    cifar, folder = CIFARS[dataset.name], data_folder(dataset.name, dataset.root)
    return _found(cifar, folder, split) or _fetched(dataset, cifar, folder, split)


def read(dataset: "Dataset", split: str) -> Loaded:
    cifar, paths = CIFARS[dataset.name], list(files(dataset, split).values())
    if paths[0].suffix == ".npz":
        return read_npz(paths[0], cifar.classes)
    parts = [_read_binary(path, cifar.label_bytes) for path in paths]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Loaded(str(paths[0].parent), images.transpose(0, 2, 3, 1), labels, cifar.classes)


def _found(cifar: Cifar, folder: Path, split: str) -> dict[str, Path] | None:
    """The binary files, here or as unpacked, else the npz file; only where both splits are whole."""
    everything = [name for names in cifar.binaries.values() for name in names]
    for place in (folder, folder / cifar.archive_folder):
        if all((place / name).is_file() for name in everything):
            return {name: place / name for name in cifar.binaries[split]}
    if all((folder / f"{name}.npz").is_file() for name in cifar.binaries):
        return {f"{split}.npz": folder / f"{split}.npz"}
    return None


def _fetched(dataset: "Dataset", cifar: Cifar, folder: Path, split: str) -> dict[str, Path]:
    names = [name for group in cifar.binaries.values() for name in group]
    wanted = f"put {listed(names)} (the binary version), or train.npz and test.npz, into {folder}"
    if dataset.root is not None:
        raise ValueError(f"{folder}: holds no {dataset.name}; {wanted}, or leave `root` out to download them")
    try:
        fetch_members(cifar.url, cifar.sha256, names, folder)
    except ConnectionError as error:
        raise ConnectionError(
            f"{dataset.name}: {error}; {wanted}, or set `root` to where they lie"
        ) from error
    return {name: folder / name for name in cifar.binaries[split]}


def _read_binary(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and labels (N,) of records: label bytes, then 1024 red, green and blue pixels."""
    record = label_bytes + PIXEL_BYTES
    with reading(path, "a binary CIFAR file"):
        content = np.fromfile(path, np.uint8)
    if len(content) == 0 or len(content) % record:
        raise ValueError(
            f"{path}: holds {len(content)} bytes; expected a multiple of {record} as in a binary CIFAR file: the "
            "file is damaged or another version, copy or download it again"
        )
    records = content.reshape(-1, record)
    return records[:, label_bytes:].reshape(-1, 3, SIDE, SIDE), records[:, label_bytes - 1]
