"""`fashion_mnist`: 60,000 + 10,000 grey pictures of clothes, 28x28 (Xiao, Rasul, Vollgraf 2017)."""

from pathlib import Path
from typing import TYPE_CHECKING

from .fetch import fetch_file
from .files import data_folder, listed, plain_or_gzipped
from .idx import read_pair
from .image_data import Loaded

if TYPE_CHECKING:
    from .dataset import Dataset

URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
SHA256 = {
    "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
"""Of the published .gz files."""
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def files(dataset: "Dataset", split: str) -> dict[str, Path]:
    """The two IDX files of a split, gzipped or not; downloaded where they are missing and no root is set."""
    folder = data_folder("fashion_mnist", dataset.root)
    prefix = {"train": "train", "test": "t10k"}[split]
    return {name: _file(folder, name, dataset.root) for name in SHA256 if name.startswith(prefix)}


def read(dataset: "Dataset", split: str) -> Loaded:
    images, labels = files(dataset, split).values()
    return read_pair(images, labels, CLASSES)


def _file(folder: Path, name: str, root: str | None) -> Path:
    found = plain_or_gzipped(folder, name)
    if found is not None:
        return found
    wanted = f"put {listed(list(SHA256))}, gzipped or not, into {folder}"
    if root is not None:
        raise ValueError(f"{folder}: holds no {name}; {wanted}, or leave `root` out to download them")
    target = folder / f"{name}.gz"
    try:
        fetch_file(f"{URL}/{target.name}", SHA256[name], target)
    except ConnectionError as error:
        raise ConnectionError(f"fashion_mnist: {error}; {wanted}, or set `root` to where they lie") from error
    return target
