"""`image_pair`: the images of two classes of any image dataset."""

import numpy as np

from tasks.data import Dataset, ImageData
from tasks.data import Split as ImageSplit

from .data import ImagePair
from .sample import stratified
from .words import nearest


def read(images: Dataset, classes: tuple[str, str], rows: int | None, seed: int) -> ImagePair:
    """The images of the two classes, the second being +1, in the order in which they lie.

    With `rows` so many training images are kept, and as large a share of the test images. Raises
    ValueError for a class that the dataset does not have, and as its `load`.
    """
    data = images.load()
    pair = [_label(name, data, images) for name in classes]
    train, test = (_of(split, pair) for split in (data.train, data.test))
    if rows is not None and rows < len(train):
        share = rows / len(train)
        train = _kept(train, stratified(train.labels, rows, seed))
        test = _kept(test, stratified(test.labels, max(2, round(share * len(test))), seed))
    return ImagePair(ImageData(train, test, classes))


def _label(name: str, data: ImageData, images: Dataset) -> int:
    if name not in data.classes:
        raise ValueError(
            f"image_pair of {images.name}: has no class {name!r}; correct `classes`: {nearest(name, data.classes)}"
        )
    return data.classes.index(name)


def _of(split: ImageSplit, pair: list[int]) -> ImageSplit:
    chosen = np.isin(split.labels, pair)
    return ImageSplit(split.images[chosen], (split.labels[chosen] == pair[1]).astype(np.int64))


def _kept(split: ImageSplit, rows: np.ndarray) -> ImageSplit:
    return ImageSplit(split.images[rows], split.labels[rows])
