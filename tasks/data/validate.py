"""The checks that every loaded dataset passes. One clear line each."""

import numpy as np

from .image_data import ImageData, Loaded, Split


def validate(train: Loaded, test: Loaded) -> ImageData:
    """The dataset, channels first, labels int64.

    Raises ValueError that names the file, what was found, what was expected and what to do where: images
    are not uint8 of one shape; labels are not whole numbers, leave gaps or name one class only; a class
    is empty; the two splits differ in shape or classes.
    """
    splits = [Split(_images(part), _labels(part)) for part in (train, test)]
    classes = _classes(train, splits[0].labels)
    _check_same_shape(train, test, splits)
    _check_same_classes(train, test, splits)
    return ImageData(splits[0], splits[1], classes)


def _images(part: Loaded) -> np.ndarray:
    images = part.images
    if images.dtype != np.uint8:
        raise ValueError(
            f"{part.source}: images are {images.dtype}; expected uint8 from 0 to 255: "
            "scale them and store `images.astype('uint8')`"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"{part.source}: images have the shape {_shown(part.images)}; expected (N, H, W), (N, H, W, 1) or "
            "(N, H, W, 3): put the channels last, for instance with `images.transpose(0, 2, 3, 1)`"
        )
    if images.size == 0:
        raise ValueError(f"{part.source}: holds no images; expected at least one of each class: add them")
    return np.require(images.transpose(0, 3, 1, 2), requirements=["C", "W"])


def _labels(part: Loaded) -> np.ndarray:
    labels = part.labels
    if labels.shape != part.images.shape[:1]:
        raise ValueError(
            f"{part.source}: labels have the shape {_shown(labels)} beside {len(part.images)} images; "
            "expected one whole number for each image: give class indices, not one-hot rows"
        )
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"{part.source}: labels are not whole numbers (found {_odd_label(labels)!r}, {labels.dtype}); expected "
            "0 to classes - 1: number the classes"
        )
    return labels.astype(np.int64)


def _odd_label(labels: np.ndarray) -> object:
    """A label that is not a whole number, to show it to the user."""
    if labels.dtype.kind == "f":
        labels = labels[labels != np.rint(labels)]
    return labels[0].item() if isinstance(labels[0], np.generic) else labels[0]


def _classes(train: Loaded, labels: np.ndarray) -> tuple[str, ...]:
    """The class names: those that the files tell, else the numbers."""
    found = np.unique(labels)
    _check_range(train, int(found[0]), int(found[-1]))
    names = train.classes or ()
    empty = next((label for label in range(len(names)) if label not in found), None)
    if empty is not None:
        raise ValueError(
            f"{train.source}: class {names[empty]!r} (label {empty}) has no images; expected at least one: "
            "add some, or remove the class"
        )
    if len(found) < 2:
        raise ValueError(
            f"{train.source}: all labels are {found[0]}, one class only; expected two or more: add another class"
        )
    gaps = np.flatnonzero(found != np.arange(len(found)))
    if len(gaps):
        raise ValueError(
            f"{train.source}: labels have a gap: {gaps[0]} is missing, though they go up to {found[-1]}; "
            "expected every whole number from 0: renumber the classes"
        )
    return names or tuple(str(label) for label in range(len(found)))


def _check_range(train: Loaded, lowest: int, highest: int) -> None:
    limit = highest if train.classes is None else len(train.classes) - 1
    if lowest < 0 or highest > limit:
        odd = lowest if lowest < 0 else highest
        known = "" if train.classes is None else f" as there are {limit + 1} class names"
        raise ValueError(
            f"{train.source}: found the label {odd}; expected whole numbers from 0 to {limit}{known}: correct the "
            "labels, or drop the images without one"
        )


def _check_same_shape(train: Loaded, test: Loaded, splits: list[Split]) -> None:
    shapes = ["x".join(str(side) for side in split.images.shape[1:]) for split in splits]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{test.source}: test images are {shapes[1]} (channels x height x width); expected {shapes[0]} as in "
            f"{train.source}: bring both to one size"
        )


def _check_same_classes(train: Loaded, test: Loaded, splits: list[Split]) -> None:
    if train.classes and test.classes and train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes)) or list(test.classes)
        raise ValueError(
            f"{test.source}: its classes differ from those of {train.source}, for instance in {odd[0]!r}; "
            "expected the same in the same order: give both splits the same classes"
        )
    known, found = (np.unique(split.labels) for split in splits)
    if not np.array_equal(known, found):
        odd_label = np.setxor1d(known, found)[0]
        there, missing = (test, train) if odd_label in found else (train, test)
        raise ValueError(
            f"{test.source}: class sets differ: label {odd_label} is in {there.source} but not in {missing.source}; "
            "expected the same classes in both: add or remove that class"
        )


def _shown(array: np.ndarray) -> str:
    return f"({', '.join(str(side) for side in array.shape)})"
