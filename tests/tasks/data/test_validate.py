import numpy as np
import pytest

from tasks.data.image_data import Loaded
from tasks.data.validate import validate

IMAGES = np.zeros((4, 6, 5, 3), np.uint8)
LABELS = np.array([0, 1, 0, 1])


def part(images=IMAGES, labels=LABELS, classes=None, source="a.npz"):
    return Loaded(source, images, labels, classes)


TEST = part(source="b.npz")


def test_turns_channels_first_and_labels_to_int64(pictures):
    images, labels = pictures()
    data = validate(part(images, labels.astype(np.uint8)), part(images, labels.astype(np.float32)))
    assert data.shape == (3, 8, 8)
    assert data.train.images.flags.c_contiguous
    assert data.train.labels.dtype == data.test.labels.dtype == np.int64
    np.testing.assert_array_equal(data.train.images[5, 2], images[5, :, :, 2])
    assert data.classes == ("0", "1", "2")
    assert data.counts == (4, 4, 4)
    assert len(data.test) == 12


@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 1)])
def test_grey_images_get_one_channel(shape):
    grey = part(np.zeros(shape, np.uint8))
    assert validate(grey, grey).shape == (1, 6, 5)


def test_class_names_of_the_files_are_kept():
    named = part(classes=("cat", "dog"))
    assert validate(named, named).classes == ("cat", "dog")


BAD_TRAIN = {
    "floats": (part(IMAGES / 255), "images are float64; expected uint8", "astype"),
    "wide integers": (part(IMAGES.astype(np.int16)), "images are int16; expected uint8", "astype"),
    "flat": (
        part(IMAGES.reshape(4, -1)),
        "images have the shape (4, 90); expected (N, H, W)",
        "channels last",
    ),
    "channels first": (part(IMAGES.transpose(0, 3, 1, 2)), "(4, 3, 6, 5)", "transpose"),
    "two channels": (part(IMAGES[..., :2]), "(4, 6, 5, 2)", "(N, H, W, 3)"),
    "no images": (part(IMAGES[:0], LABELS[:0]), "holds no images; expected at least one", "add"),
    "too few labels": (part(labels=LABELS[:3]), "labels have the shape (3) beside 4 images", "class indices"),
    "one-hot": (part(labels=np.eye(2)[LABELS]), "labels have the shape (4, 2)", "not one-hot"),
    "fractions": (
        part(labels=LABELS + 0.5),
        "labels are not whole numbers (found 0.5, float64)",
        "number the",
    ),
    "not a number": (part(labels=np.array([0, 1, np.nan, 1])), "not whole numbers (found nan", "number the"),
    "text": (part(labels=np.array(["cat", "dog"] * 2)), "not whole numbers (found 'cat'", "number the"),
    "objects": (
        part(labels=np.array(["cat", "dog"] * 2, object)),
        "not whole numbers (found 'cat'",
        "number",
    ),
    "truth values": (part(labels=LABELS == 1), "not whole numbers (found False", "number the"),
    "gap": (part(labels=np.array([0, 1, 3, 1])), "a gap: 2 is missing, though they go up to 3", "renumber"),
    "from one": (part(labels=LABELS + 1), "a gap: 0 is missing", "renumber"),
    "negative": (part(labels=LABELS - 1), "found the label -1; expected whole numbers from 0", "correct"),
    "one class": (part(labels=LABELS * 0), "all labels are 0, one class only; expected two", "add another"),
    "empty class": (part(classes=("cat", "dog", "owl")), "class 'owl' (label 2) has no images", "add some"),
    "too few names": (
        part(classes=("cat",)),
        "found the label 1; expected whole numbers from 0 to 0",
        "names",
    ),
}


@pytest.mark.parametrize(("train", "found", "remedy"), BAD_TRAIN.values(), ids=BAD_TRAIN)
def test_refuses_bad_training_data(train, found, remedy, refuses):
    with refuses("a.npz: ", found, remedy):
        validate(train, TEST)


BAD_TEST = {
    "size": (part(source="b.npz", images=np.zeros((4, 5, 5, 3), np.uint8)), "are 3x5x5 (", "expected 3x6x5"),
    "channels": (part(source="b.npz", images=IMAGES[..., :1]), "are 1x6x5 (", "expected 3x6x5 as in a.npz"),
    "a class less": (part(source="b.npz", labels=LABELS * 0), "label 1 is in a.npz but not in b.npz", "add"),
    "a class more": (
        part(source="b.npz", labels=LABELS + 1),
        "class sets differ: label 0 is in a.npz",
        "add",
    ),
    "hidden labels": (
        part(source="b.npz", labels=LABELS * 0 - 1),
        "class sets differ: label -1 is in b.npz",
        "rem",
    ),
    "not uint8": (part(source="b.npz", images=IMAGES * 1.0), "images are float64", "astype"),
}


@pytest.mark.parametrize(("test", "found", "remedy"), BAD_TEST.values(), ids=BAD_TEST)
def test_refuses_test_data_unlike_the_training_data(test, found, remedy, refuses):
    with refuses("b.npz: ", found, remedy):
        validate(part(), test)


def test_refuses_other_class_names(refuses):
    with refuses("b.npz: its classes differ from those of a.npz", "'cow'", "give both splits the same"):
        validate(part(classes=("cat", "cow")), part(source="b.npz", classes=("cat", "dog")))


def test_refuses_the_same_class_names_in_another_order(refuses):
    with refuses("b.npz: its classes differ", "same order"):
        validate(part(classes=("cat", "dog")), part(source="b.npz", classes=("dog", "cat")))
