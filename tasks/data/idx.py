"""`idx`: the format of MNIST, gzipped or not. Unsigned bytes behind a big-endian header."""

import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import existing, open_plain, plain_or_gzipped, reading
from .image_data import Loaded

if TYPE_CHECKING:
    from .dataset import Dataset

UNSIGNED_BYTE = 8


def files(dataset: "Dataset", split: str) -> dict[str, Path]:
    """The images file and, beside it under its usual name, the labels file."""
    images = existing(dataset.path(split), "an IDX images file")
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    labels = plain_or_gzipped(images.parent, name)
    if labels is None or labels == images:
        raise ValueError(
            f"{images}: found no labels file beside it; expected a name such as train-images-idx3-ubyte with "
            "train-labels-idx1-ubyte in the same folder, gzipped or not: rename or add it"
        )
    return {"images": images, "labels": labels}


def read(dataset: "Dataset", split: str) -> Loaded:
    found = files(dataset, split)
    return read_pair(found["images"], found["labels"])


def read_pair(images: Path, labels: Path, classes: tuple[str, ...] | None = None) -> Loaded:
    """Images (N, H, W) and labels (N,) from their two files."""
    return Loaded(str(images), read_array(images, num_axes=3), read_array(labels, num_axes=1), classes)


def read_array(path: Path, num_axes: int) -> np.ndarray:
    """The uint8 array in an IDX file. Raises ValueError where it is not one, or has other axes."""
    expected = f"an IDX file of unsigned bytes with {num_axes} axes"
    with reading(path, expected), open_plain(path) as file:
        content = bytearray(file.read())
    header = 4 + 4 * num_axes
    magic = bytes([0, 0, UNSIGNED_BYTE, num_axes])
    if content[:4] != magic or len(content) < header:
        raise ValueError(
            f"{path}: not {expected}: starts with {bytes(content[:4]).hex() or 'nothing'}, expected {magic.hex()}: "
            "check the file and the dataset's `name`"
        )
    shape = struct.unpack(f">{num_axes}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path}: holds {len(content) - header} bytes of data; expected {math.prod(shape)} for its shape "
            f"{shape}: the file is damaged, copy or download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
