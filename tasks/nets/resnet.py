"""ResNet-18 for small images (He et al. 2016): 3x3 stem, no max-pooling, global average pooling."""

from torch import Tensor, nn
from torch.nn.functional import relu

from .convnet import Norm, Shape, norm_layer

WIDTH = 64
"""Channels of the first stage; each further stage doubles them."""
NUM_STAGES = 4
BLOCKS_PER_STAGE = 2
SMALLEST_MAP = 4
"""A stage halves the map only down to this side: instance norm of a 1x1 map would leave nothing of it."""


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(channels, width, 3, stride, norm), nn.ReLU(), _convolution(width, width, 3, 1, norm)
        )
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else _convolution(channels, width, 1, stride, norm)

    def forward(self, maps: Tensor) -> Tensor:
        return relu(self.residual(maps) + self.shortcut(maps))


class ResNet18(nn.Module):
    """Images (N, C, H, W) to logits (N, classes)."""

    def __init__(self, shape: Shape, classes: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(shape[0], width, 3, 1, norm), nn.ReLU())
        blocks: list[nn.Module] = []
        channels = width
        for stage, stride in enumerate(strides(shape)):
            for block in range(BLOCKS_PER_STAGE):
                blocks.append(Block(channels, width << stage, stride if block == 0 else 1, norm))
                channels = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.blocks(self.stem(images)).mean((2, 3)))
        return logits


def strides(shape: Shape) -> list[int]:
    """1, 2, 2, 2 at 28 pixels and more; fewer halvings below, so that the last map is not too small."""
    chosen, side = [1], min(shape[1:])
    for _ in range(NUM_STAGES - 1):
        halved = (side + 1) // 2
        chosen.append(2 if halved >= SMALLEST_MAP else 1)
        side = halved if chosen[-1] == 2 else side
    return chosen


def _convolution(channels: int, width: int, kernel: int, stride: int, norm: Norm) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=norm == "none")
    return nn.Sequential(convolution, *norm_layer(norm, width))
