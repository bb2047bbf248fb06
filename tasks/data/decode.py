"""Encoded images (PNG, JPEG and what else Pillow reads) to one array."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .files import reading

EXPECTED = "an image, such as PNG or JPEG"
GREY_MODES = {"1", "L", "LA"}
COLOUR_MODES = {"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV"}


def decode(encoded: Sequence[Path | bytes], sources: Sequence[str]) -> np.ndarray:
    """uint8 (N, H, W, 1) where all images are grey, else (N, H, W, 3). Transparency is dropped.

    Raises ValueError that names the one of `sources` that cannot be read, is not 8 bits deep, or differs
    in size from the first.
    """
    if not encoded:
        return np.empty((0, 0, 0, 1), np.uint8)
    headers = [_header(image, source) for image, source in zip(encoded, sources, strict=True)]
    (width, height), _ = headers[0]
    for (size, _), source in zip(headers, sources, strict=True):
        if size != (width, height):
            raise ValueError(
                f"{source}: the image is {size[0]}x{size[1]} pixels; expected {width}x{height} as the first, "
                f"{sources[0]}: resize the images to one size"
            )
    mode, channels = ("L", 1) if all(mode in GREY_MODES for _, mode in headers) else ("RGB", 3)
    images = np.empty((len(encoded), height, width, channels), np.uint8)
    for place, image, source in zip(images, encoded, sources, strict=True):
        place[...] = _pixels(image, mode, source).reshape(place.shape)
    return images


def _open(image: Path | bytes) -> Image.Image:
    try:
        return Image.open(image if isinstance(image, Path) else io.BytesIO(image))
    except UnidentifiedImageError as error:
        raise ValueError("its format is not known") from error


def _header(image: Path | bytes, source: str) -> tuple[tuple[int, int], str]:
    """(width, height) and Pillow's mode, without decoding the pixels."""
    with reading(source, EXPECTED), _open(image) as opened:
        size, mode = opened.size, opened.mode
    if mode not in GREY_MODES | COLOUR_MODES:
        raise ValueError(
            f"{source}: the image has pixels of the kind {mode}, not uint8; expected 8 bits a channel, grey or "
            "colour: convert it"
        )
    return size, mode


def _pixels(image: Path | bytes, mode: str, source: str) -> np.ndarray:
    with reading(source, EXPECTED), _open(image) as opened:
        if opened.mode in ("P", "PA"):
            return np.asarray(opened.convert("RGBA").convert(mode))
        return np.asarray(opened.convert(mode))
