"""The ConvNet of the dataset distillation literature (Gidaris and Komodakis 2018; Zhao et al. 2021).

`depth` blocks of: 3x3 convolution, norm, ReLU, 2x2 average pooling; then one linear layer.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from .layers import Convolution, HalvingPool

Shape = tuple[int, int, int]
"""(C, H, W) of an image."""
Norm = Literal["instance", "none"]

WIDTH = 128
MNIST_SHAPE = (1, 28, 28)
MNIST_PADDING = 3
"""Of the first convolution, which then makes a map of 32x32."""


class ConvNet(nn.Module):
    """Images (N, C, H, W) to logits (N, classes)."""

    def __init__(self, shape: Shape, classes: int, width: int, depth: int, norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = shape[0]
        for block in range(depth):
            padding = MNIST_PADDING if block == 0 and shape == MNIST_SHAPE else 1
            layers += [Convolution(channels, width, padding, normed=norm != "none"), *norm_layer(norm, width)]
            layers += [nn.ReLU(inplace=True), HalvingPool()]
            channels = width
        height, width_px = (side >> depth for side in map_size(shape))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * height * width_px, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.features(images), 1))
        return logits


def norm_layer(norm: Norm, channels: int) -> list[nn.Module]:
    """Instance norm with affine parameters and no running statistics, so that weights are all there is."""
    return [nn.GroupNorm(channels, channels)] if norm == "instance" else []


def map_size(shape: Shape) -> tuple[int, int]:
    """Height and width after the first convolution."""
    return (32, 32) if shape == MNIST_SHAPE else shape[1:]


def largest_depth(shape: Shape) -> int:
    """How often the image can be halved before nothing is left."""
    return int(math.log2(min(map_size(shape))))


def default_depth(shape: Shape) -> int:
    """3 at 28 and 32 pixels, 4 at 64, 5 at 128; a last map of 4x4 below."""
    side = min(map_size(shape))
    return 3 if 28 <= side < 32 else max(1, int(math.log2(side)) - 2)
