"""VGG for small images (Simonyan and Zisserman 2015): 3x3 convolution, batch norm, ReLU; 2x2 max-pooling."""

from torch import nn

from .batch_norm import convolution, scored, two_linear
from .convnet import Shape

WIDTH = 64
CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Name to the number of convolutions of each stage; 16 and 19 count the linear layers of the first form too."""
FACTORS = (1, 2, 4, 8, 8)
"""Channels of a stage for each channel of the first one."""


def vgg(name: str, shape: Shape, width: int) -> nn.Module:
    """Images (N, C, H, W) to scores (N,). A map of one pixel is not halved any more."""
    layers: list[nn.Module] = []
    channels, side = shape[0], min(shape[1:])
    for number, factor in zip(CONVOLUTIONS[name], FACTORS, strict=True):
        for _ in range(number):
            layers += [*convolution(channels, width * factor, 3, bias=True), nn.ReLU()]
            channels = width * factor
        layers += [nn.MaxPool2d(2)] if side > 1 else []
        side = max(1, side // 2)
    return scored(layers, *two_linear(channels, width))
