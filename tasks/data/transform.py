"""From uint8 pixels to what a network sees, and back for pictures. The statistics travel with the artifact.

normalize   (x - mean) / std for each channel, x in [0, 1], mean and std over the training set.
zca         (x - mean) T for each image as a row of D = C*H*W pixels in [0, 1], with the training set's
            mean and covariance U diag(s) U' (n - 1 in the denominator) and T = U diag(1/sqrt(s + 0.1)) U'.
            The back transform is U diag(sqrt(s + 0.1)) U'. (Krizhevsky 2009, appendix; the epsilon of the
            dataset distillation literature.)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["normalize", "zca"]
ZCA_EPSILON = 0.1
FLOAT64_PIXELS = 1024
"""Up to this many pixels the covariance is summed in float64; above, in float32 within a block of images."""
BLOCK_IMAGES = 4096


class Transform(ABC):
    """Invertible up to clipping. `apply` and `invert` run on the device of what they are given."""

    @staticmethod
    def fit(train_images: np.ndarray | Tensor, kind: Kind) -> "Transform":
        """From uint8 images (N, C, H, W), N >= 2."""
        images = torch.as_tensor(train_images)
        return Zca.fitted(images) if kind == "zca" else Normalize.fitted(images)

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> "Transform":
        """What `tensors` returned. Raises ValueError for anything else."""
        for made in (Normalize, Zca):
            if set(tensors) == set(made.__dataclass_fields__):
                return made(**tensors)
        raise ValueError(
            f"transform: found the tensors {', '.join(sorted(tensors)) or 'none'}; expected those of normalize "
            f"({', '.join(Normalize.__dataclass_fields__)}) or of zca ({', '.join(Zca.__dataclass_fields__)})"
        )

    @property
    @abstractmethod
    def kind(self) -> Kind: ...

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The statistics, float32, contiguous, to be stored."""

    @abstractmethod
    def apply(self, images: np.ndarray | Tensor) -> Tensor:
        """uint8 (N, C, H, W) to float32 of the same shape."""

    @abstractmethod
    def invert(self, images: Tensor) -> Tensor:
        """Float (N, C, H, W) to uint8, clipped to 0..255."""


@dataclass(frozen=True, eq=False)
class Normalize(Transform):
    mean: Tensor
    """(C,), of pixels in [0, 1]."""
    std: Tensor
    """(C,), 1 for a channel that never changes."""

    @classmethod
    def fitted(cls, images: Tensor) -> "Normalize":
        # From the histogram: exact, and no copy of the images in floats is made.
        counts = torch.stack(
            [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
        )
        weights = counts.double() / counts.sum(1, keepdim=True)
        levels = torch.arange(256, dtype=torch.float64, device=images.device) / 255
        mean = weights @ levels
        std = (weights * (levels - mean[:, None]) ** 2).sum(1).sqrt()
        return cls(mean.float(), torch.where(std > 0, std, 1.0).float())

    @property
    def kind(self) -> Kind:
        return "normalize"

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "std": self.std}

    def apply(self, images: np.ndarray | Tensor) -> Tensor:
        pixels = torch.as_tensor(images)
        mean, std = (value.to(pixels.device)[:, None, None] for value in (self.mean, self.std))
        return pixels.float().div_(255).sub_(mean).div_(std)

    def invert(self, images: Tensor) -> Tensor:
        mean, std = (value.to(images)[:, None, None] for value in (self.mean, self.std))
        return _to_uint8(images * std + mean)


@dataclass(frozen=True, eq=False)
class Zca(Transform):
    mean: Tensor
    """(C, H, W), of pixels in [0, 1]."""
    eigenvalues: Tensor
    """(D,) of the covariance, none negative."""
    eigenvectors: Tensor
    """(D, D), a column each."""

    @classmethod
    def fitted(cls, images: Tensor) -> "Zca":
        shape, size = images.shape[1:], images[0].numel()
        wide = torch.float64 if size <= FLOAT64_PIXELS else torch.float32
        blocks = torch.split(images, BLOCK_IMAGES)
        mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / (255 * len(images))
        gram = torch.zeros(size, size, dtype=torch.float64, device=images.device)
        for block in blocks:
            centred = (block.to(wide) / 255 - mean.to(wide)).flatten(1)
            gram += centred.T @ centred
        eigenvalues, eigenvectors = torch.linalg.eigh(gram / (len(images) - 1))
        return cls(
            mean.reshape(shape).float(), eigenvalues.clamp(min=0).float(), eigenvectors.float().contiguous()
        )

    @property
    def kind(self) -> Kind:
        return "zca"

    @cached_property
    def whitening(self) -> Tensor:
        """(D, D), symmetric."""
        return (self.eigenvectors * (self.eigenvalues + ZCA_EPSILON).rsqrt()) @ self.eigenvectors.T

    @cached_property
    def colouring(self) -> Tensor:
        """(D, D), the inverse of `whitening`."""
        return (self.eigenvectors * (self.eigenvalues + ZCA_EPSILON).sqrt()) @ self.eigenvectors.T

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "eigenvalues": self.eigenvalues, "eigenvectors": self.eigenvectors}

    def apply(self, images: np.ndarray | Tensor) -> Tensor:
        pixels = torch.as_tensor(images)
        mean, whitening = self.mean.to(pixels.device), self.whitening.to(pixels.device)
        result = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
        for block, place in zip(
            torch.split(pixels, BLOCK_IMAGES), torch.split(result, BLOCK_IMAGES), strict=True
        ):
            torch.mm((block.float() / 255 - mean).flatten(1), whitening, out=place.flatten(1))
        return result

    def invert(self, images: Tensor) -> Tensor:
        mean, colouring = self.mean.to(images), self.colouring.to(images)
        return _to_uint8((images.flatten(1) @ colouring).reshape(images.shape) + mean)


def _to_uint8(pixels: Tensor) -> Tensor:
    return pixels.mul(255).round().clamp(0, 255).to(torch.uint8)
