"""What the networks for scores are built of: layers with real batch norm, and their last two layers.

Batch norm keeps running statistics (momentum 0.1), which the test mode uses. Under `torch.func.vmap` over
`functional_call` with stacked parameters and buffers the training mode updates the stacked buffers in place.
"""

from collections.abc import Sequence

from torch import nn

HEAD_FACTOR = 8
"""Units of the layer before the score, for each channel of the first stage: 512 at 64 channels."""


def convolution(
    channels: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1, bias: bool = False
) -> list[nn.Module]:
    """A convolution that keeps the map's size at stride 1, then batch norm."""
    layer = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)
    return [layer, nn.BatchNorm2d(width)]


def scored(maps: Sequence[nn.Module], *head: nn.Module) -> nn.Sequential:
    """Images (N, C, H, W) to scores (N,): `maps`, the mean over all places, `head` with one unit at its end."""
    return nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head, nn.Flatten(0))


def two_linear(features: int, width: int) -> list[nn.Module]:
    """The authors' last layers: two linear ones with nothing between them."""
    units = HEAD_FACTOR * width
    return [nn.Linear(features, units), nn.Linear(units, 1)]
