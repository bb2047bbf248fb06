"""ResNet-34, 50 and 101 (He et al. 2016) as EnsLoss (Dai 2025) trains them on small images: a 7x7 stem of
stride 2 without max-pooling."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import relu

from .batch_norm import convolution, scored, two_linear
from .convnet import Shape

WIDTH = 64
BLOCKS = {"resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
"""Name to the number of blocks of each stage; a stage after the first halves the map, doubles the channels."""
EXPANSION = 4
"""Channels that leave a bottleneck for each one inside."""
Residual = Callable[[int, int, int], tuple[list[nn.Module], int]]
"""From channels, width and stride to the layers of a residual and the channels that leave it."""


class Block(nn.Module):
    """A residual and a shortcut, projected where the shape changes."""

    def __init__(self, residual: list[nn.Module], channels: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(*residual)
        same = stride == 1 and channels == leaving
        self.shortcut = nn.Sequential(*([] if same else convolution(channels, leaving, 1, stride=stride)))

    def forward(self, maps: Tensor) -> Tensor:
        return relu(self.residual(maps) + self.shortcut(maps))


def deep_resnet(name: str, shape: Shape, width: int) -> nn.Module:
    """Images (N, C, H, W) to scores (N,)."""
    residual: Residual = _basic if name == "resnet34" else _bottleneck
    layers = [*convolution(shape[0], width, 7, stride=2), nn.ReLU()]
    channels = width
    for stage, number in enumerate(BLOCKS[name]):
        for block in range(number):
            stride = 2 if stage and block == 0 else 1
            inner, leaving = residual(channels, width << stage, stride)
            layers.append(Block(inner, channels, leaving, stride))
            channels = leaving
    return scored(layers, *two_linear(channels, width))


def _basic(channels: int, width: int, stride: int) -> tuple[list[nn.Module], int]:
    first = convolution(channels, width, 3, stride=stride)
    return [*first, nn.ReLU(), *convolution(width, width, 3)], width


def _bottleneck(channels: int, width: int, stride: int) -> tuple[list[nn.Module], int]:
    leaving = EXPANSION * width
    middle = convolution(width, width, 3, stride=stride)
    last = convolution(width, leaving, 1)
    return [*convolution(channels, width, 1), nn.ReLU(), *middle, nn.ReLU(), *last], leaving
