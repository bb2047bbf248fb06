import numpy as np
import torch

from tasks.binary import BinaryDataset
from tasks.data import Dataset


def pair(**more):
    return BinaryDataset.model_validate(
        {"name": "image_pair", "images": "digits", "classes": ["3", "5"], **more}
    )


def test_holds_the_two_classes_of_both_splits_in_their_order():
    images, data = Dataset(name="digits").load(), pair().load()
    split = data.split(0, 0.3)
    for side, x, y in (
        (images.train, split.train_x, split.train_y),
        (images.test, split.test_x, split.test_y),
    ):
        chosen = np.isin(side.labels, [3, 5])
        np.testing.assert_array_equal(np.rint((x.numpy() + 1) * 127.5), side.images[chosen])
        np.testing.assert_array_equal(y, np.where(side.labels[chosen] == 5, 1, -1))
    assert (data.rows, data.columns, data.shape, data.is_images) == (365, 64, (1, 8, 8), True)
    assert data.positive_rate == 182 / 365


def test_pixels_are_float32_from_minus_one_to_one():
    split = pair().load().split(0, 0.3)
    assert all(part.dtype == torch.float32 and part.is_contiguous() for part in split)
    assert split.train_x.shape[1:] == (1, 8, 8)
    assert (split.train_x.min().item(), split.train_x.max().item()) == (-1, 1)


def test_seed_and_share_are_not_read():
    data = pair().load()
    assert all(left.equal(right) for left, right in zip(data.split(0, 0.3), data.split(9, 0.5), strict=True))


def test_the_second_class_is_positive():
    turned = pair(classes=["5", "3"]).load().split(0, 0.3)
    assert turned.train_y.equal(-pair().load().split(0, 0.3).train_y)


def test_fewer_rows():
    whole, data = pair().load(), pair(rows=50).load()
    split = data.split(0, 0.3)
    assert len(split.train_y) == 50
    assert len(split.test_y) == round(50 / len(whole.images.train) * len(whole.images.test))
    assert split.train_y.sum().abs() <= 1
    assert pair(rows=100_000).load().rows == whole.rows


def test_a_class_that_is_not_there(refuses):
    with refuses("image_pair of digits", "no class '30'", "correct `classes`", "did you mean"):
        pair(classes=["30", "5"]).load()
