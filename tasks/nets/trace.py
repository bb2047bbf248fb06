"""What a classifier tells of one forward pass, beyond the logits: what distillation losses compare."""

from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Trace(NamedTuple):
    """Of N images."""

    logits: Tensor
    """(N, classes)."""
    features: Tensor
    """(N, d): what the last linear layer is given."""
    maps: tuple[Tensor, ...]
    """The maps (N, C, H, W) after each stage, the last one before pooling; of a network without maps 1x1 ones."""


class Traced(Protocol):
    """A classifier of images (N, C, H, W)."""

    @property
    def head(self) -> nn.Linear:
        """The last linear layer: features to logits."""
        ...

    def trace(self, images: Tensor) -> Trace: ...
    def __call__(self, images: Tensor) -> Tensor: ...


def pooled(maps: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C): the mean over all places."""
    return maps.mean((2, 3))
