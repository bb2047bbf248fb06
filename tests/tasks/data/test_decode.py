import io

import numpy as np
import pytest
from PIL import Image

from tasks.data.decode import decode


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GREY = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
COLOUR = Image.fromarray(np.arange(144, dtype=np.uint8).reshape(6, 8, 3))


def test_grey_images_have_one_channel():
    images = decode([encoded(GREY), encoded(GREY.convert("1")), encoded(GREY.convert("LA"))], list("abc"))
    assert images.shape == (3, 6, 8, 1)
    np.testing.assert_array_equal(images[0, ..., 0], GREY)
    assert set(images[1].flatten()) <= {0, 255}


def test_one_colour_image_makes_all_three_channels():
    images = decode([encoded(GREY), encoded(COLOUR)], list("ab"))
    assert images.shape == (2, 6, 8, 3)
    np.testing.assert_array_equal(images[0], np.repeat(np.asarray(GREY)[..., None], 3, axis=2))
    np.testing.assert_array_equal(images[1], COLOUR)


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "YCbCr"])
def test_other_kinds_of_colour_become_rgb(mode):
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    assert decode([encoded(COLOUR.convert(mode), kind)], ["a"]).shape == (1, 6, 8, 3)


def test_a_palette_with_transparency_becomes_rgb_without_a_warning():
    palette = COLOUR.convert("P")
    assert decode([encoded(palette, transparency=bytes([0, 255] * 4))], ["a"]).shape == (1, 6, 8, 3)


def test_no_images_make_an_empty_array():
    assert len(decode([], [])) == 0


def test_refuses_sixteen_bits(refuses):
    deep = Image.fromarray(np.full((6, 8), 60000, np.uint16))
    with refuses("b.png", "I;16, not uint8; expected 8 bits", "convert it"):
        decode([encoded(GREY), encoded(deep)], ["a.png", "b.png"])


def test_refuses_a_cut_image(refuses):
    with refuses("b.png", "cannot be read", "check the file"):
        decode([encoded(COLOUR), encoded(COLOUR)[:-40]], ["a.png", "b.png"])
