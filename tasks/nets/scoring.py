"""The setting of a network that gives one score, and how it becomes a module."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from orchestrator.task import Settings

from . import deep_resnet, mobilenet, tabular_mlp, vgg
from .convnet import Shape


class ScoringNetwork(Settings):
    """An architecture for two classes, with batch norm. `vgg16` is short for `{name: vgg16}`."""

    name: Literal[
        "tabular_mlp", "vgg16", "vgg19", "resnet34", "resnet50", "resnet101", "mobilenet", "mobilenet_v2"
    ] = "tabular_mlp"
    """Architecture; tables fit tabular_mlp only, which flattens images."""
    depth: int | None = Field(default=None, gt=0)
    """tabular_mlp: number of hidden layers; default 3. The depth of the others is fixed."""
    width: int | None = Field(default=None, gt=0)
    """Units of a hidden layer of tabular_mlp, default 1024. Else channels of the first stage, to which all others
    are in proportion: default 64, of the mobilenets 32."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _depth_fits_the_name(self) -> Self:
        if self.depth is not None and self.name != "tabular_mlp":
            raise ValueError(
                f"network {self.name}: its depth is fixed: leave `depth` out, or use tabular_mlp"
            )
        return self

    @property
    def tag(self) -> str:
        """A short name that no other network has: `mlp3`, `mlp3x64` of another width, `vgg16`, `vgg16x8`."""
        name = self.name if self.name != "tabular_mlp" else f"mlp{self.depth or tabular_mlp.DEPTH}"
        return name if self.width in (None, WIDTHS[self.name]) else f"{name}x{self.width}"


IMAGE_NETWORKS: MappingProxyType[str, Callable[[Shape, int], nn.Module]] = MappingProxyType(
    {
        **{name: partial(vgg.vgg, name) for name in vgg.CONVOLUTIONS},
        **{name: partial(deep_resnet.deep_resnet, name) for name in deep_resnet.BLOCKS},
        "mobilenet": mobilenet.mobilenet,
        "mobilenet_v2": mobilenet.mobilenet_v2,
    }
)
"""Name to the builder, from the image shape and the width."""
WIDTHS = MappingProxyType(
    {
        "tabular_mlp": tabular_mlp.WIDTH,
        **dict.fromkeys(vgg.CONVOLUTIONS, vgg.WIDTH),
        **dict.fromkeys(deep_resnet.BLOCKS, deep_resnet.WIDTH),
        **dict.fromkeys(("mobilenet", "mobilenet_v2"), mobilenet.WIDTH),
    }
)
"""Name to the default width."""


def build_scoring(network: ScoringNetwork, shape: tuple[int, ...], seed: int) -> nn.Module:
    """Rows (N, *shape) to scores (N,): torch's default initialisation under `seed`, float32, on the CPU.

    `shape` is (features,) of a table or (C, H, W) of an image. The state of torch's global random numbers is
    left as it was. In training mode a batch needs two rows at least. Raises ValueError for a shape that
    does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _module(network, shape)


def scoring_parameters(network: ScoringNetwork, shape: tuple[int, ...]) -> int:
    """Number of weights, found without allocating them. Raises as `build_scoring`."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _module(network, shape).parameters())


def _module(network: ScoringNetwork, shape: tuple[int, ...]) -> nn.Module:
    width = network.width or WIDTHS[network.name]
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise ValueError(
            f"network {network.name}: rows have the shape {shape}; expected (features,) of a table or (channels, "
            "height, width) of an image, none of them 0: use another dataset"
        )
    if network.name == "tabular_mlp":
        return tabular_mlp.tabular_mlp(shape, width, network.depth or tabular_mlp.DEPTH)
    if len(shape) == 1:
        raise ValueError(
            f"network {network.name}: rows are {shape[0]} features of a table; expected images: use tabular_mlp"
        )
    channels, height, columns = shape
    return IMAGE_NETWORKS[network.name]((channels, height, columns), width)
