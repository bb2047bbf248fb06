import numpy as np
from sklearn.datasets import load_digits

from tasks.data import Dataset


def test_is_split_four_to_one_in_every_class():
    data = Dataset(name="digits").load()
    assert data.shape == (1, 8, 8)
    assert len(data.train) + len(data.test) == 1797
    test_counts = np.bincount(data.test.labels)
    assert all(
        abs(test / (test + train) - 0.2) < 0.01 for test, train in zip(test_counts, data.counts, strict=True)
    )


def test_splits_share_no_image_and_keep_all_of_them():
    data = Dataset(name="digits").load()
    pixels = np.concatenate([data.train.images, data.test.images]).reshape(1797, 64)
    original = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    np.testing.assert_array_equal(np.unique(pixels, axis=0), np.unique(original, axis=0))
    assert pixels.max() == 255


def test_digest_is_fixed():
    digest = Dataset(name="digits").content_digest()
    assert digest == "328908a0f57a8f6da0cfb865b68e875ec64318cc18917024f4a79838d054c326"
