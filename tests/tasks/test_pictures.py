import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from tasks.pictures import bars, grid

SIDE = st.integers(1, 150)


def decode(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_every_pixel_of_the_images_is_found_again_in_the_grid():
    images = (load_digits().images[:20] * 15).astype(np.uint8)[:, None]
    picture = decode(grid(images, 10))
    factor, gap = 8, 2
    assert picture.shape == (2 * (64 + gap) + gap, 10 * (64 + gap) + gap, 3)
    for index, image in enumerate(images):
        top, left = index // 10 * (64 + gap) + gap, index % 10 * (64 + gap) + gap
        tile = picture[top : top + 64, left : left + 64]
        np.testing.assert_array_equal(tile[::factor, ::factor, 0], image[0])
        np.testing.assert_array_equal(tile, tile[::factor, ::factor].repeat(8, 0).repeat(8, 1))


def test_colour_keeps_its_channels_and_other_counts_become_their_mean():
    colour = np.arange(3 * 32 * 32, dtype=np.uint8).reshape(1, 3, 32, 32)
    np.testing.assert_array_equal(decode(grid(colour, 1))[2:-2:2, 2:-2:2], colour[0].transpose(1, 2, 0))
    two = np.stack([np.full((8, 8), 10, np.uint8), np.full((8, 8), 30, np.uint8)])[None]
    assert set(decode(grid(two, 1))[2:-2, 2:-2].ravel()) == {20}


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 60), st.integers(1, 20), st.sampled_from([1, 3]), st.integers(1, 150), st.integers(1, 150)
)
def test_a_grid_of_any_size_decodes_with_readable_tiles(count, columns, channels, height, width):
    picture = decode(grid(np.zeros((count, channels, height, width), np.uint8), columns))
    rows, across = -(-count // columns), min(columns, count)
    tile = (picture.shape[0] - 2) // rows - 2, (picture.shape[1] - 2) // across - 2
    assert tile[0] % height == 0
    assert tile[0] // height == tile[1] // width >= 1
    assert max(tile) >= 40 or max(picture.shape) > 1024


@pytest.mark.parametrize(
    ("images", "columns"),
    [
        (np.zeros((2, 8, 8), np.uint8), 1),
        (np.zeros((2, 1, 8, 8), np.float32), 1),
        (np.zeros((0, 1, 8, 8), np.uint8), 1),
        (np.zeros((2, 1, 8, 8), np.uint8), 0),
    ],
)
def test_what_is_no_grid_is_refused(images, columns):
    with pytest.raises(ValueError, match="a grid needs"):
        grid(images, columns)


def test_bars_are_readable_and_the_same_each_time():
    series = {"distilled": [(72.5, 1.5), (50.0, None)], "random": [(40.0, 2.0), None]}
    draw = {"title": "Test accuracy", "axis": "test accuracy (%)"}
    png = bars(["convnet", "resnet18"], series, **draw)
    picture = decode(png)
    assert picture.shape[0] >= 400
    assert picture.shape[1] >= 500
    for colour in [(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)]:
        assert (picture == colour).all(axis=2).sum() > 1000
    assert png == bars(["convnet", "resnet18"], series, **draw)
