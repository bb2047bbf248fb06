"""Differentiable Siamese augmentation (Zhao and Bilen 2021, DSA), batched.

Each call picks one group of the strategy for the whole batch, then draws parameters for every image. All
groups but `color` work on the image plane and fill with 0. Random numbers come from a CPU generator in
float32, so that the stream is the same on every device and in every precision. Every group is a linear map
of the images, or affine, made of operations with a deterministic backward pass.
"""

import difflib
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample

BRIGHTNESS = 1.0
SATURATION = 2.0
CONTRAST = 0.5
CROP_SHARE = 0.125
CUTOUT_SHARE = 0.5
FLIP_PROBABILITY = 0.5
SCALE = 1.2
ROTATION_DEGREES = 15.0


class Group(NamedTuple):
    draw: Callable[[int, int, int, Generator], Tensor]
    """(number of images, height, width, generator) to parameters, a row each."""
    apply: Callable[[Tensor, Tensor], Tensor]
    """Images (N, C, H, W) and parameters (N, k) to images."""
    parameters: int
    """k"""


class Drawn(NamedTuple):
    """What chance decides in one call."""

    group: str
    parameters: Tensor
    """(N, k), a row for each image."""


def augment(images: Tensor, strategy: str, generator: Generator, siamese: bool = False) -> Tensor:
    """`images` (N, C, H, W) under one group of `strategy`, such as "color_crop_flip"; "" returns them as they are.

    With `siamese` all images share one draw of the parameters, so that two batches augmented by generators
    in the same state undergo the same.
    """
    if not strategy:
        return images
    number, _, height, width = images.shape
    drawn = draw(strategy, 1 if siamese else number, height, width, generator)
    return GROUPS[drawn.group].apply(images, drawn.parameters.expand(number, -1).to(images))


def draw(strategy: str, number: int, height: int, width: int, generator: Generator) -> Drawn:
    """What `augment` would do to `number` images of `height` x `width`; `strategy` is not empty."""
    assert generator.device.type == "cpu", generator.device
    groups = check_strategy(strategy)
    chosen = groups[int(torch.randint(len(groups), (), generator=generator))]
    return Drawn(chosen, GROUPS[chosen].draw(number, height, width, generator))


def check_strategy(strategy: str) -> tuple[str, ...]:
    """The groups of a strategy. Raises ValueError for an unknown or repeated one."""
    groups = tuple(strategy.split("_")) if strategy else ()
    for group in groups:
        if group not in GROUPS:
            close = difflib.get_close_matches(group, GROUPS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else 'join known ones with `_`, or give "" for none'
            raise ValueError(
                f"augmentation {strategy!r}: found the group {group!r}; expected some of {', '.join(GROUPS)}: {hint}"
            )
    if len(set(groups)) < len(groups):
        raise ValueError(f"augmentation {strategy!r}: names a group twice; expected each once: remove one")
    return groups


def _draw_color(number: int, height: int, width: int, generator: Generator) -> Tensor:
    return torch.rand(number, 3, generator=generator)


def _color(images: Tensor, uniform: Tensor) -> Tensor:
    """Brightness, saturation, then contrast."""
    brightness, saturation, contrast = (column[:, None, None, None] for column in uniform.unbind(1))
    images = images + (brightness - 0.5) * BRIGHTNESS
    if images.shape[1] > 1:
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * (saturation * SATURATION) + grey
    mean = images.flatten(1).mean(1)[:, None, None, None]
    return (images - mean) * (contrast + CONTRAST) + mean


def _draw_crop(number: int, height: int, width: int, generator: Generator) -> Tensor:
    """Shifts in whole pixels (N, 2), down and right."""
    reach = [int(side * CROP_SHARE + 0.5) for side in (height, width)]
    shifts = [torch.randint(-far, far + 1, (number,), generator=generator) for far in reach]
    return torch.stack(shifts, 1).float()


def _crop(images: Tensor, shifts: Tensor) -> Tensor:
    rows, columns = _pixel_positions(images)
    return _resample(images, rows - shifts[:, :1], columns - shifts[:, 1:])


def _draw_cutout(number: int, height: int, width: int, generator: Generator) -> Tensor:
    """Centres (N, 2), uniform over the image; of an even square between pixels, edges included."""
    ends = [side + 1 - _hole(side) % 2 for side in (height, width)]
    return torch.stack([torch.randint(end, (number,), generator=generator) for end in ends], 1).float()


def _cutout(images: Tensor, centres: Tensor) -> Tensor:
    rows, columns = _pixel_positions(images)
    in_rows, in_columns = _in_hole(rows, centres[:, :1]), _in_hole(columns, centres[:, 1:])
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)


def _in_hole(positions: Tensor, centres: Tensor) -> Tensor:
    """Which of the positions (1, L) lie in the hole around each of the centres (N, 1): (N, L)."""
    hole = _hole(positions.shape[1])
    start = centres - hole // 2
    return (positions >= start) & (positions < start + hole)


def _hole(side: int) -> int:
    return int(side * CUTOUT_SHARE + 0.5)


def _draw_flip(number: int, height: int, width: int, generator: Generator) -> Tensor:
    return torch.rand(number, 1, generator=generator)


def _flip(images: Tensor, uniform: Tensor) -> Tensor:
    return torch.where(uniform[:, :, None, None] < FLIP_PROBABILITY, images.flip(3), images)


def _draw_scale(number: int, height: int, width: int, generator: Generator) -> Tensor:
    """Factors (N, 2) of the sampled area's height and width, independent."""
    return torch.rand(number, 2, generator=generator) * (SCALE - 1 / SCALE) + 1 / SCALE


def _scale(images: Tensor, factors: Tensor) -> Tensor:
    rows, columns = _from_centre(images)
    middle_row, middle_column = rows[:, -1:], columns[:, -1:]
    return _resample(images, rows * factors[:, :1] + middle_row, columns * factors[:, 1:] + middle_column)


def _draw_rotate(number: int, height: int, width: int, generator: Generator) -> Tensor:
    """Angles (N, 1) in radians."""
    return (torch.rand(number, 1, generator=generator) - 0.5) * 2 * math.radians(ROTATION_DEGREES)


def _rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Bilinear, 0 outside."""
    rows, columns = (place[:, :, None] for place in _from_centre(images))
    columns = columns.transpose(1, 2)
    cos, sin = angles.cos()[:, :, None], angles.sin()[:, :, None]
    if torch.is_grad_enabled() and images.requires_grad:
        return _gathered(images, cos * rows + sin * columns, cos * columns - sin * rows)
    # grid_sample is several times as fast; it counts columns first, in halves of a side. But its backward
    # pass is not deterministic on a GPU and cannot be differentiated again.
    down, across = (2 / side for side in images.shape[2:])
    from_row = torch.stack([-across * sin * rows, down * cos * rows], -1)
    from_column = torch.stack([across * cos * columns, down * sin * columns], -1)
    return grid_sample(images, from_row + from_column, align_corners=False)


def _gathered(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear samples at the positions (N, H, W), in pixels from the middle; 0 outside."""
    number, channels, height, width = images.shape
    source_rows, source_columns = rows + (height - 1) / 2, columns + (width - 1) / 2
    top, left = source_rows.floor(), source_columns.floor()
    flat = images.flatten(2)
    result = torch.zeros_like(flat)
    for row in (top, top + 1):
        for column in (left, left + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (1 - (source_rows - row).abs()) * (1 - (source_columns - column).abs()) * inside
            index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            gathered = flat.gather(2, index.reshape(number, 1, -1).expand(-1, channels, -1))
            result = result + gathered * weight.reshape(number, 1, -1)
    return result.reshape(images.shape)


def _pixel_positions(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers (1, H) and column numbers (1, W), in the images' type."""
    rows, columns = (
        torch.arange(side, device=images.device)[None].to(images.dtype) for side in images.shape[2:]
    )
    return rows, columns


def _from_centre(images: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distance of each row (1, H) and column (1, W) from the middle of the image, in pixels."""
    rows, columns = _pixel_positions(images)
    return rows - (images.shape[2] - 1) / 2, columns - (images.shape[3] - 1) / 2


def _resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear samples of `images` at the pixel positions `rows` (N, H) x `columns` (N, W), 0 outside.

    As the grid is a product, this is two small matrix products for each image.
    """
    all_rows, all_columns = _pixel_positions(images)
    from_rows = (1 - (rows[:, :, None] - all_rows[:, None, :]).abs()).clamp(min=0)
    from_columns = (1 - (columns[:, :, None] - all_columns[:, None, :]).abs()).clamp(min=0)
    return from_rows[:, None] @ images @ from_columns[:, None].transpose(2, 3)


GROUPS = MappingProxyType(
    {
        "color": Group(_draw_color, _color, 3),
        "crop": Group(_draw_crop, _crop, 2),
        "cutout": Group(_draw_cutout, _cutout, 2),
        "flip": Group(_draw_flip, _flip, 1),
        "scale": Group(_draw_scale, _scale, 2),
        "rotate": Group(_draw_rotate, _rotate, 1),
    }
)
