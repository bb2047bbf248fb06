"""Boxes in images: where they lie, and what is seen through them."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.model_distillation import philox

Numbers = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

ATTEMPTS = 10
"""At a box of the drawn area and proportions that fits the image."""
FIRST_ATTEMPT = 16
"""Block of the counter of the first of them."""
PROPORTIONS = (3 / 4, 4 / 3)
"""Least and largest ratio of a box's width to its height."""


class Boxes(NamedTuple):
    """The parts of N images that are seen, each in the size of the whole image."""

    sides: Tensor
    """(N, 4), int64: top, left, height, width in pixels; beyond the image lies black."""
    flips: Tensor
    """(N,), bool: mirrored left to right."""
    exact: bool
    """Every box has the size of the image, so that pixels are copied."""


def shifted_boxes(padding: int, chance: Numbers, height: int, width: int) -> Whole:
    """Boxes (N, 4) of the image's size, shifted by up to `padding` pixels each way; `chance` (N, 2) of [0, 1)."""
    corners = np.floor(chance * (2 * padding + 1)).astype(np.int64) - padding
    sizes = np.broadcast_to(np.array([height, width]), corners.shape)
    return np.concatenate([corners, sizes], axis=1)


def resized_boxes(
    scale: tuple[float, float], seed: int, epochs: Whole, samples: Whole, height: int, width: int
) -> Whole:
    """Boxes (N, 4) as RandomResizedCrop draws them: area uniform, proportions uniform in their logarithm; after
    ten that do not fit the largest box in the middle that has fitting proportions."""
    boxes = np.broadcast_to(_middle(height, width), (len(samples), 4)).copy()
    left = np.arange(len(samples))
    for attempt in range(FIRST_ATTEMPT, FIRST_ATTEMPT + ATTEMPTS):
        chance = philox.uniforms(seed, samples[left], epochs[left], attempt)
        area = height * width * (scale[0] + chance[:, 0] * (scale[1] - scale[0]))
        low, high = (math.log(end) for end in PROPORTIONS)
        ratio = np.exp(low + chance[:, 1] * (high - low))
        sizes = np.rint(np.sqrt(np.stack([area / ratio, area * ratio], 1))).astype(np.int64)
        room = np.array([height, width]) - sizes
        fits = ((sizes > 0) & (room >= 0)).all(1)
        corners = np.floor(chance[:, 2:] * (room + 1)).astype(np.int64)
        boxes[left[fits]] = np.concatenate([corners, sizes], axis=1)[fits]
        left = left[~fits]
        if not len(left):
            break
    return boxes


def holes(shares: Numbers, chance: Numbers, height: int, width: int) -> Whole:
    """CutMix's boxes (N, 4), top, bottom, left, right, cut off at the image's edges: of these shares (N,) of its
    area before that, centred anywhere by `chance` (N, 2) of [0, 1)."""
    size = np.array([height, width])
    centres = np.floor(chance * size).astype(np.int64)
    half = np.floor(size * np.sqrt(shares)[:, None]).astype(np.int64) // 2
    first, last = (np.clip(end, 0, size) for end in (centres - half, centres + half))
    return np.stack([first[:, 0], last[:, 0], first[:, 1], last[:, 1]], axis=1)


def areas(found: Whole) -> Whole:
    """Pixels (N,) of `holes`."""
    return (found[:, 1] - found[:, 0]) * (found[:, 3] - found[:, 2])


def inside(found: Tensor, images: Tensor) -> Tensor:
    """Which pixels (N, 1, H, W) of the images lie in their holes (N, 4)."""
    rows, columns = (torch.arange(side, device=images.device)[None] for side in images.shape[2:])
    top, bottom, left, right = found[:, :, None].unbind(1)
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def look(images: Tensor, samples: Whole, boxes: Boxes) -> Tensor:
    """What is seen of these samples (N,) of the whole set, uint8 (samples, C, H, W): float32 in [0, 1]."""
    chosen = images[torch.from_numpy(samples).to(images.device)]
    sides, flips = boxes.sides.to(images.device), boxes.flips.to(images.device)
    if boxes.exact:
        return _copied(chosen, sides, flips).float().div_(255)
    return _resized(chosen.float().div_(255), sides, flips)


def _copied(images: Tensor, sides: Tensor, flips: Tensor) -> Tensor:
    """Boxes of the image's own size; black outside."""
    height, width = images.shape[2:]
    rows = sides[:, 0, None] + torch.arange(height, device=images.device)
    columns = sides[:, 1, None] + torch.arange(width, device=images.device)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    within = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    places = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]
    index = places.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view_as(images).mul_(within[:, None])


def _resized(images: Tensor, sides: Tensor, flips: Tensor) -> Tensor:
    """Boxes within the image, bilinearly resized to its size; half pixels, edges repeated."""
    top, left, height, width = sides.unbind(1)
    across = _between(images, left, width, dim=3)
    seen = _between(across, top, height, dim=2)
    return torch.where(flips[:, None, None, None], seen.flip(3), seen)


def _between(images: Tensor, start: Tensor, length: Tensor, dim: int) -> Tensor:
    """Resizes the stretch [start, start + length) (N,) of one axis to the whole axis."""
    side = images.shape[dim]
    steps = (torch.arange(side, device=images.device) + 0.5)[None] / side
    places = (steps * length[:, None] - 0.5).clamp(min=0)
    before = places.long()
    after = torch.minimum(before + 1, length[:, None] - 1)
    shape = [len(images), 1, 1, 1]
    shape[dim] = side
    weight = (places - before).view(shape)
    first, second = (
        images.gather(dim, (start[:, None] + place).view(shape).expand_as(images))
        for place in (before, after)
    )
    return first * (1 - weight) + second * weight


def _middle(height: int, width: int) -> Whole:
    low, high = PROPORTIONS
    if width < low * height:
        size = (round(width / low), width)
    elif width > high * height:
        size = (height, round(height * high))
    else:
        size = (height, width)
    return np.array([(height - size[0]) // 2, (width - size[1]) // 2, *size])
