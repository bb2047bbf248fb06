"""`image_folder`: a folder a class, images inside. Classes are numbered in the order of their names."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .decode import decode
from .files import reading
from .image_data import Loaded

if TYPE_CHECKING:
    from .dataset import Dataset

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
EXPECTED = "a folder with one subfolder of images for each class"


def files(dataset: "Dataset", split: str) -> dict[str, Path]:
    """`class/name` to path, of every image file in every class folder."""
    root = dataset.path(split)
    return {
        path.relative_to(root).as_posix(): path
        for folder in _class_folders(root)
        for path in _image_files(folder)
    }


def read(dataset: "Dataset", split: str) -> Loaded:
    root = dataset.path(split)
    folders = _class_folders(root)
    grouped = [_image_files(folder) for folder in folders]
    paths = [path for group in grouped for path in group]
    labels = np.repeat(np.arange(len(folders)), [len(group) for group in grouped])
    images = decode(paths, [str(path) for path in paths])
    return Loaded(str(root), images, labels, tuple(folder.name for folder in folders))


def _class_folders(root: Path) -> list[Path]:
    with reading(root, EXPECTED):
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise ValueError(
            f"{root}: holds no subfolders; expected {EXPECTED}: sort the images into such folders"
        )
    return folders


def _image_files(folder: Path) -> list[Path]:
    with reading(folder, "a folder of images"):
        return sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
        )
