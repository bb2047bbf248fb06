"""Multilayer perceptron: by default two hidden layers of 128, as in the dataset condensation literature."""

import math

from torch import Tensor, nn

from .convnet import Shape

WIDTH = 128
DEPTH = 3


class Mlp(nn.Module):
    """Images (N, C, H, W) to logits (N, classes) through `depth` linear layers with ReLU between them."""

    def __init__(self, shape: Shape, classes: int, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        features = math.prod(shape)
        for _ in range(depth - 1):
            layers += [nn.Linear(features, width), nn.ReLU()]
            features = width
        self.layers = nn.Sequential(*layers, nn.Linear(features, classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits
