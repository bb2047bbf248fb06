"""MobileNet (Howard et al. 2017) and MobileNetV2 (Sandler et al. 2018) in the forms usual for CIFAR images:
the stem keeps the map's size, so do the first stages, and ReLU is not cut at 6."""

from torch import Tensor, nn

from .batch_norm import convolution, scored
from .convnet import Shape

WIDTH = 32
STAGES = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *((16, 1),) * 5, (32, 2), (32, 1))
"""MobileNet, a layer each: channels for each channel of the stem, stride."""
STAGES_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""MobileNetV2, a stage each: expansion, channels where the stem has 32, blocks, stride of the first."""
LAST_V2 = 40
"""Channels before the score for each channel of the stem: 1280 at 32."""


class InvertedResidual(nn.Module):
    """Expands, filters each channel, projects; a shortcut where the map keeps its size, projected where the
    channels change."""

    def __init__(self, channels: int, leaving: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * channels
        self.residual = nn.Sequential(
            *convolution(channels, inner, 1),
            nn.ReLU(),
            *convolution(inner, inner, 3, stride=stride, groups=inner),
            nn.ReLU(),
            *convolution(inner, leaving, 1),
        )
        projection = convolution(channels, leaving, 1) if channels != leaving else []
        self.shortcut = nn.Sequential(*projection) if stride == 1 else None

    def forward(self, maps: Tensor) -> Tensor:
        residual: Tensor = self.residual(maps)
        return residual if self.shortcut is None else residual + self.shortcut(maps)


def mobilenet(shape: Shape, width: int) -> nn.Module:
    """Images (N, C, H, W) to scores (N,)."""
    layers = [*convolution(shape[0], width, 3), nn.ReLU()]
    channels = width
    for factor, stride in STAGES:
        layers += [*convolution(channels, channels, 3, stride=stride, groups=channels), nn.ReLU()]
        layers += [*convolution(channels, factor * width, 1), nn.ReLU()]
        channels = factor * width
    return scored(layers, nn.Linear(channels, 1))


def mobilenet_v2(shape: Shape, width: int) -> nn.Module:
    """Images (N, C, H, W) to scores (N,)."""
    layers = [*convolution(shape[0], width, 3), nn.ReLU()]
    channels = width
    for expansion, usual, blocks, first_stride in STAGES_V2:
        leaving = max(1, round(usual * width / WIDTH))
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            layers.append(InvertedResidual(channels, leaving, expansion, stride))
            channels = leaving
    layers += [*convolution(channels, LAST_V2 * width, 1), nn.ReLU()]
    return scored(layers, nn.Linear(LAST_V2 * width, 1))
