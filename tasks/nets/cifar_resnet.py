"""The ResNets of 6n + 2 layers for small images (He et al. 2016, section 4.2), with parameter-free shortcuts.

A 3x3 stem, three stages of n blocks, the later two halving the map and doubling the channels; global mean;
one linear layer. Where the shape changes the shortcut takes every second pixel and fills the new channels
with zeros, half of them before and half after (option A).
"""

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from .convnet import Shape
from .trace import Trace, pooled

WIDTH = 16
"""Channels of the first stage."""
DEPTHS = (8, 14, 20, 32, 44, 56, 110)


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, and the shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.added = stride, width - channels

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(relu(self.bn1(self.conv1(maps)))))
        return relu(residual + self._shortcut(maps))

    def _shortcut(self, maps: Tensor) -> Tensor:
        if self.stride == 1 and self.added == 0:
            return maps
        before = self.added // 2
        seen = maps[:, :, :: self.stride, :: self.stride]
        return pad(seen, (0, 0, 0, 0, before, self.added - before))


class CifarResNet(nn.Module):
    """Images (N, C, H, W) to logits (N, classes). Parameter names are those of the common CIFAR checkpoints."""

    def __init__(self, shape: Shape, classes: int, width: int, depth: int) -> None:
        super().__init__()
        assert (depth - 2) % 6 == 0, depth
        self.conv1 = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = (depth - 2) // 6
        self.layer1 = _stage(width, width, 1, blocks)
        self.layer2 = _stage(width, 2 * width, 2, blocks)
        self.layer3 = _stage(2 * width, 4 * width, 2, blocks)
        self.linear = nn.Linear(4 * width, classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def trace(self, images: Tensor) -> Trace:
        first = self.layer1(relu(self.bn1(self.conv1(images))))
        second = self.layer2(first)
        third = self.layer3(second)
        features = pooled(third)
        return Trace(self.linear(features), features, (first, second, third))

    def forward(self, images: Tensor) -> Tensor:
        return self.trace(images).logits


def _stage(channels: int, width: int, stride: int, blocks: int) -> nn.Sequential:
    rest = [Block(width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Block(channels, width, stride), *rest)
