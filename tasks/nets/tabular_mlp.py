"""The multilayer perceptron for tables of EnsLoss (Dai 2025): batch norm comes after the ReLU."""

import math

from torch import nn

WIDTH = 1024
DEPTH = 3


def tabular_mlp(shape: tuple[int, ...], width: int, depth: int) -> nn.Module:
    """Rows (N, *shape) to scores (N,): `depth` times linear, ReLU, batch norm; then one linear layer."""
    layers: list[nn.Module] = [nn.Flatten()]
    features = math.prod(shape)
    for _ in range(depth):
        layers += [nn.Linear(features, width), nn.ReLU(), nn.BatchNorm1d(width)]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, 1), nn.Flatten(0))
