"""Small networks and random data for tests of the mathematics."""

import torch
from torch import Tensor, nn

from tasks.dataset_distillation.flat import FlatModel

CLASSES = 3


def small_network(seed: int = 0, dtype: torch.dtype = torch.float64) -> FlatModel:
    """Convolution, norm, smooth activation, linear: for images (1, 6, 6) of three classes.

    Softplus has the derivatives that a central difference needs; a ReLU's kink would not.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.GroupNorm(4, 4),
            nn.Softplus(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(36, CLASSES),
        )
    return FlatModel(module.to(dtype))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
