"""What a network sees of an image in an epoch: a function of seed, epoch and sample, so that it is replayed from
these three numbers and never stored.

Every draw has its own counter (sample, epoch, block) of `philox`: neither the batch that a sample lies in, nor
who computes it, nor in which order, makes a difference. A view acts on pixels in [0, 1], before a network's own
normalisation, so that teacher and student may differ in theirs.

Sources: RandomResizedCrop as in torchvision (Szegedy et al. 2015), CutMix (Yun et al. 2019), mixup (Zhang et al.
2018), DSA (Zhao and Bilen 2021). CutMix and mixup pair a sample with one drawn from the whole set, seen under its
own crop and flip of the same epoch; in the papers the pairs are those of a batch.
"""

from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator, model_validator
from scipy.special import betaincinv
from torch import Tensor

from orchestrator.task import Settings, derive_seed
from tasks.data import GROUPS, check_strategy
from tasks.model_distillation import geometry, philox
from tasks.model_distillation.geometry import Boxes

PRESETS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "none": {},
        "crop_flip": {"padding": 4, "flip": True},
        "resized_crop": {"scale": (0.08, 1.0), "flip": True},
    }
)
"""Short names of common views."""
CROP, MIX = 0, 1
"""Blocks of the counter; that of an attempt at a resized crop follows in `geometry`."""
MIDDLE, SPREAD = 0.5, 0.25
"""DSA was made for normalised images: it is given (pixel - MIDDLE) / SPREAD, and so fills with grey."""


class Views(Settings):
    """How an image is changed, anew each epoch. `views: crop_flip` is short for `{padding: 4, flip: true}`."""

    padding: int = Field(default=0, ge=0)
    """Pixels of black around the image, of which a random part of its own size is cropped; 0: no crop."""
    scale: tuple[float, float] | None = Field(default=None, strict=False)
    """Least and largest share of the image's area that a random box covers, which is resized to the image's size
    (RandomResizedCrop, sides in proportions from 3:4 to 4:3); none: no such crop."""
    flip: bool = False
    """Mirror half of the images, left to right."""
    dsa: str = ""
    """DSA strategy such as `color_crop_scale_rotate`, one group of it for each view; empty for none."""
    mix: Literal["none", "cutmix", "mixup"] = "none"
    """Replace a box by that of another image, or blend the two."""
    alpha: float = Field(default=1.0, gt=0)
    """The share of the image in a mix is drawn from Beta(alpha, alpha)."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        if isinstance(value, str):
            if value not in PRESETS:
                raise ValueError(f"unknown views {value!r}; expected {', '.join(PRESETS)}, or settings")
            return PRESETS[value]
        return value

    @field_validator("dsa")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        check_strategy(value)
        return value

    @model_validator(mode="after")
    def _one_crop(self) -> Self:
        if self.scale is not None and self.padding:
            raise ValueError("views: both `padding` and `scale` crop the image; leave one of them out")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"views: scale is {self.scale}; expected shares with 0 < least <= largest <= 1")
        return self


class Extent(NamedTuple):
    """Of the whole set that is viewed."""

    samples: int
    height: int
    width: int

    @classmethod
    def of(cls, images: Tensor | npt.NDArray[np.uint8]) -> "Extent":
        """Of images (N, C, H, W)."""
        return cls(len(images), *images.shape[2:])


class Mixture(NamedTuple):
    """With what each of N views is mixed."""

    partners: npt.NDArray[np.int64]
    """(N,): the samples."""
    boxes: Boxes
    """Their own crops and flips."""
    holes: Tensor
    """(N, 4), whole pixels: top, bottom, left, right of the box that the partner fills; for cutmix."""


class Drawn(NamedTuple):
    """What chance decides for N views."""

    samples: npt.NDArray[np.int64]
    boxes: Boxes
    dsa: tuple[Tensor, Tensor] | None
    """(N,) which group of the strategy, and its parameters (N, k)."""
    mixture: Mixture | None
    shares: npt.NDArray[np.float64]
    """(N,): the share of the sample itself, of its partner the rest; 1 where nothing is mixed."""

    @property
    def partners(self) -> npt.NDArray[np.int64]:
        """(N,): the sample that is mixed in; the sample itself where nothing is."""
        return self.samples if self.mixture is None else self.mixture.partners


def draw(
    views: Views, seed: int, epochs: npt.ArrayLike, samples: npt.NDArray[np.int64], extent: Extent
) -> Drawn:
    """The views of these samples in one epoch, or each in its own (N,). Sample numbers and epochs count from 0."""
    epochs = np.broadcast_to(np.asarray(epochs, np.int64), samples.shape)
    boxes = _boxes(views, seed, epochs, samples, extent)
    dsa = _dsa(views.dsa, seed, epochs, samples, extent) if views.dsa else None
    if views.mix == "none":
        return Drawn(samples, boxes, dsa, None, np.ones(len(samples)))
    chance = philox.uniforms(seed, samples, epochs, MIX)
    partners = (chance[:, 0] * extent.samples).astype(np.int64)
    shares = betaincinv(views.alpha, views.alpha, chance[:, 1])
    holes = geometry.holes(1 - shares, chance[:, 2:], extent.height, extent.width)
    if views.mix == "cutmix":
        shares = 1 - geometry.areas(holes) / (extent.height * extent.width)
    mixture = Mixture(partners, _boxes(views, seed, epochs, partners, extent), torch.from_numpy(holes))
    return Drawn(samples, boxes, dsa, mixture, shares)


def apply(views: Views, images: Tensor, drawn: Drawn) -> Tensor:
    """The views (N, C, H, W), float32 with pixels in [0, 1] (DSA's colours may leave them), on the images' device.

    `images` is the whole set, uint8 (samples, C, H, W). Crops, flips and mixes give the same bits in any batch,
    DSA the same to rounding.
    """
    seen = geometry.look(images, drawn.samples, drawn.boxes)
    if drawn.dsa is not None:
        seen = _augmented(seen, views.dsa, *drawn.dsa)
    if drawn.mixture is None:
        return seen
    other = geometry.look(images, drawn.mixture.partners, drawn.mixture.boxes)
    if views.mix == "cutmix":
        return torch.where(geometry.inside(drawn.mixture.holes.to(seen.device), seen), other, seen)
    share = torch.from_numpy(drawn.shares).to(seen)[:, None, None, None]
    return seen * share + other * (1 - share)


def _boxes(
    views: Views,
    seed: int,
    epochs: npt.NDArray[np.int64],
    samples: npt.NDArray[np.int64],
    extent: Extent,
) -> Boxes:
    chance = philox.uniforms(seed, samples, epochs, CROP)
    flips = chance[:, 0] < 0.5 if views.flip else np.zeros(len(samples), bool)
    size = extent.height, extent.width
    if views.scale is not None:
        sides = geometry.resized_boxes(views.scale, seed, epochs, samples, *size)
    else:
        sides = geometry.shifted_boxes(views.padding, chance[:, 1:3], *size)
    return Boxes(torch.from_numpy(sides), torch.from_numpy(flips), exact=views.scale is None)


def _dsa(
    strategy: str,
    seed: int,
    epochs: npt.NDArray[np.int64],
    samples: npt.NDArray[np.int64],
    extent: Extent,
) -> tuple[Tensor, Tensor]:
    groups = torch.empty(len(samples), dtype=torch.int64)
    parameters = torch.empty(
        len(samples), max(GROUPS[group].parameters for group in check_strategy(strategy))
    )
    for epoch in np.unique(epochs).tolist():
        place = torch.from_numpy(np.flatnonzero(epochs == epoch))
        own = torch.from_numpy(samples)[place]
        all_groups, all_parameters = _dsa_epoch(strategy, seed, epoch, extent)
        groups[place], parameters[place] = all_groups[own], all_parameters[own]
    return groups, parameters


@lru_cache(maxsize=4)
def _dsa_epoch(strategy: str, seed: int, epoch: int, extent: Extent) -> tuple[Tensor, Tensor]:
    """The group of each sample of the set, and its parameters, padded with 0: of one epoch."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "dsa", epoch))
    groups = check_strategy(strategy)
    chosen = torch.randint(len(groups), (extent.samples,), generator=generator)
    parameters = torch.zeros(extent.samples, max(GROUPS[group].parameters for group in groups))
    for number, group in enumerate(groups):
        drawn = GROUPS[group].draw(extent.samples, extent.height, extent.width, generator)
        parameters[chosen == number, : drawn.shape[1]] = drawn[chosen == number]
    return chosen, parameters


def _augmented(images: Tensor, strategy: str, groups: Tensor, parameters: Tensor) -> Tensor:
    centred = (images - MIDDLE) / SPREAD
    for number, name in enumerate(check_strategy(strategy)):
        place = (groups == number).nonzero().flatten()
        own = parameters[place, : GROUPS[name].parameters].to(images)
        place = place.to(images.device)
        centred[place] = GROUPS[name].apply(centred[place], own)
    return centred * SPREAD + MIDDLE
