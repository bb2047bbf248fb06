"""`npz`: NumPy archives with `images` uint8 (N, H, W[, C]) and `labels` (N,). Pickled content is refused."""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import existing, reading
from .image_data import Loaded

if TYPE_CHECKING:
    from .dataset import Dataset

EXPECTED = "an .npz file with the arrays `images` and `labels`"


def files(dataset: "Dataset", split: str) -> dict[str, Path]:
    return {"npz": existing(dataset.path(split), EXPECTED)}


def read(dataset: "Dataset", split: str) -> Loaded:
    return read_npz(dataset.path(split))


def read_npz(path: Path, classes: tuple[str, ...] | None = None) -> Loaded:
    """One split from one archive. Raises ValueError where it is none or lacks an array."""
    with reading(path, EXPECTED), path.open("rb") as file:
        zipped = zipfile.is_zipfile(file)
    if not zipped:
        raise ValueError(f"{path}: is no .npz file; expected {EXPECTED}: save it with `numpy.savez`")
    with reading(path, EXPECTED):
        content = np.load(path, allow_pickle=False)
    with content:
        for name in ("images", "labels"):
            if name not in content:
                raise ValueError(
                    f"{path}: holds {', '.join(content.files) or 'no array'} but no `{name}`; expected {EXPECTED}: "
                    "rename the array"
                )
        with reading(path, EXPECTED):
            return Loaded(str(path), content["images"], content["labels"], classes)
