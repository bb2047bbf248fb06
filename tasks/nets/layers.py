"""Two layers of the ConvNet in the form that is fastest on a CPU: as products of small matrices.

Both compute what their namesakes in torch do, to rounding, and can be differentiated any number of times.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNEL = 3
LARGEST_PRODUCT = 64
"""Pixels: the product for a row costs as much as it is long; beyond this torch's own pooling is faster."""


class Convolution(nn.Conv2d):
    """3x3, stride 1, of images or maps (N, C, H, W); parameters and initialisation are those of nn.Conv2d.

    With `normed` an instance norm follows, which takes out what the bias adds: it is left out, and has the
    gradient 0 that otherwise comes out as rounding errors.
    """

    def __init__(self, channels: int, width: int, padding: int, *, normed: bool) -> None:
        super().__init__(channels, width, KERNEL, padding=padding)
        self.normed, self.margin = normed, padding

    def forward(self, images: Tensor) -> Tensor:
        assert self.bias is not None
        weight = self.weight + 0 * self.bias[:, None, None, None] if self.normed else self.weight
        bias = None if self.normed else self.bias
        # torch's own takes twice as long on a CPU where there is one channel.
        by_patches = self.in_channels == 1 and images.device.type == "cpu"
        return (_by_patches if by_patches else functional.conv2d)(images, weight, bias, padding=self.margin)


def _by_patches(images: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Convolution of images of one channel as a product of the kernel and what it sees at each place."""
    padded = functional.pad(images, (padding,) * 4)[:, 0]
    patches = padded.unfold(1, KERNEL, 1).unfold(2, KERNEL, 1).permute(0, 3, 4, 1, 2)
    kernel = weight.reshape(1, len(weight), -1).expand(len(images), -1, -1)
    maps = torch.bmm(kernel, patches.flatten(3).flatten(1, 2)).view(len(images), -1, *patches.shape[3:])
    return maps if bias is None else maps + bias[:, None, None]


class HalvingPool(nn.Module):
    """2x2 average pooling of maps (N, C, H, W)."""

    def forward(self, maps: Tensor) -> Tensor:
        number, channels, height, width = maps.shape
        if maps.device.type != "cpu" or height % 2 or width > LARGEST_PRODUCT:
            return functional.avg_pool2d(maps, 2)
        pairs_of_rows = maps.reshape(-1, 2 * width)
        return (pairs_of_rows @ _averages(width, maps.dtype)).view(number, channels, height // 2, width // 2)


@lru_cache
@torch.inference_mode(False)
def _averages(width: int, dtype: torch.dtype) -> Tensor:
    """(2 * width, width // 2): from two rows of a map, one after the other, to the one in their place."""
    halved = torch.eye(width // 2, device="cpu").repeat_interleave(2, dim=0) / 4
    row = functional.pad(halved, (0, 0, 0, width % 2))
    return torch.cat([row, row]).to(dtype)
