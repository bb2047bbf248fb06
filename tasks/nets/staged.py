"""Classifiers with batch norm in stages, in their forms for small images."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from . import resnet
from .batch_norm import convolution
from .convnet import Shape
from .deep_resnet import Block
from .trace import Trace

VGG_FACTORS = (1, 2, 4, 8, 8)
"""vgg8: channels of each of its five convolutions for each channel of the first one."""
VGG_WIDTH = 64


class Staged(nn.Module):
    """Images (N, C, H, W) to logits (N, classes): stages of maps, what makes one row of the last, one linear layer."""

    def __init__(self, stages: Sequence[nn.Module], features: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.stages, self.features, self.head = nn.ModuleList(stages), features, head

    def trace(self, images: Tensor) -> Trace:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        features = self.features(maps[-1])
        return Trace(self.head(features), features, tuple(maps[1:]))

    def forward(self, images: Tensor) -> Tensor:
        return self.trace(images).logits


def staged_convnet(shape: Shape, classes: int, width: int, depth: int) -> Staged:
    """`depth` times 3x3 convolution, batch norm, ReLU, 2x2 mean; the last map is flattened."""
    channels = [shape[0], *[width] * depth]
    stages = [
        nn.Sequential(*convolution(before, after, 3), nn.ReLU(), nn.AvgPool2d(2))
        for before, after in pairwise(channels)
    ]
    places = math.prod(side >> depth for side in shape[1:])
    return Staged(stages, nn.Flatten(), nn.Linear(width * places, classes))


def staged_resnet18(shape: Shape, classes: int, width: int) -> Staged:
    """3x3 stem, four stages of two blocks, as far halved as the image allows; global mean."""
    stages, channels = [nn.Sequential(*convolution(shape[0], width, 3), nn.ReLU())], width
    for number, stride in enumerate(resnet.strides(shape)):
        leaving = width << number
        blocks = [_block(channels, leaving, stride), *_repeated(leaving, resnet.BLOCKS_PER_STAGE - 1)]
        stages.append(nn.Sequential(*blocks))
        channels = leaving
    first, second, *later = stages
    return Staged([nn.Sequential(first, second), *later], _mean(), nn.Linear(channels, classes))


def staged_vgg8(shape: Shape, classes: int, width: int) -> Staged:
    """Five times 3x3 convolution, batch norm, ReLU; 2x2 max-pooling between them down to 4 pixels; global mean."""
    stages, channels, side = [], shape[0], min(shape[1:])
    for number, factor in enumerate(VGG_FACTORS):
        halved = number > 0 and side // 2 >= resnet.SMALLEST_MAP
        pooling = [nn.MaxPool2d(2)] if halved else []
        stages.append(nn.Sequential(*pooling, *convolution(channels, factor * width, 3), nn.ReLU()))
        channels, side = factor * width, side // 2 if halved else side
    return Staged(stages, _mean(), nn.Linear(channels, classes))


def staged_mlp(shape: Shape, classes: int, width: int, depth: int) -> Staged:
    """`depth` linear layers with batch norm and ReLU between them; a hidden layer counts as a map of 1x1."""
    stages: list[nn.Module] = []
    features = math.prod(shape)
    for _ in range(depth - 1):
        layers = [
            nn.Linear(features, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Unflatten(1, (width, 1, 1)),
        ]
        stages.append(nn.Sequential(nn.Flatten(), *layers))
        features = width
    return Staged(stages, nn.Flatten(), nn.Linear(features, classes))


def _block(channels: int, leaving: int, stride: int) -> Block:
    residual = [
        *convolution(channels, leaving, 3, stride=stride),
        nn.ReLU(),
        *convolution(leaving, leaving, 3),
    ]
    return Block(residual, channels, leaving, stride)


def _repeated(width: int, number: int) -> list[nn.Module]:
    return [_block(width, width, 1) for _ in range(number)]


def _mean() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
