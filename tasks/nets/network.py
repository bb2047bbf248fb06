"""The setting `network:` of a task, and how it becomes a module."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import nn

from orchestrator.task import Settings

from . import convnet, mlp, resnet
from .convnet import Norm, Shape


class Network(Settings):
    """An architecture. `network: resnet18` is short for `network: {name: resnet18}`."""

    name: Literal["convnet", "resnet18", "mlp"] = "convnet"
    """Architecture."""
    width: int | None = Field(default=None, gt=0)
    """Channels of a convolution (of the first stage for resnet18), units of a hidden layer for mlp. Default 128,
    resnet18 64."""
    depth: int | None = Field(default=None, gt=0)
    """convnet: number of blocks, each halving the image; default 3 at 28 and 32 pixels, 4 at 64, 5 at 128.
    mlp: number of linear layers; default 3. resnet18 has none."""
    norm: Norm | None = None
    """Instance norm (the default) or none. Batch norm is left out: its running statistics are no weights, so
    a trajectory of weights would not hold the whole network. mlp has none."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


class Architecture(NamedTuple):
    resolve: Callable[[Network, Shape], Network]
    build: Callable[[Network, Shape, int], nn.Module]
    """From a resolved network, the image shape and the number of classes."""


def resolve(network: Network, shape: Shape, classes: int) -> Network:
    """`network` with every field that applies filled in, for images of `shape` (C, H, W).

    Raises ValueError for a setting that the architecture does not have, or a depth too large for the image.
    """
    if classes < 2:
        raise ValueError(f"network {network.name}: found {classes} classes; expected two or more")
    return ARCHITECTURES[network.name].resolve(network, shape)


def build(network: Network, shape: Shape, classes: int, seed: int) -> nn.Module:
    """A freshly initialised module: torch's default initialisation under `seed`, float32, on the CPU.

    The state of torch's global random numbers is left as it was. Raises as `resolve`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _module(network, shape, classes)


def parameter_count(network: Network, shape: Shape, classes: int) -> int:
    """Number of weights, found without allocating them. Raises as `resolve`."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _module(network, shape, classes).parameters())


def _module(network: Network, shape: Shape, classes: int) -> nn.Module:
    resolved = resolve(network, shape, classes)
    return ARCHITECTURES[network.name].build(resolved, shape, classes)


def _resolve_convnet(network: Network, shape: Shape) -> Network:
    largest = convnet.largest_depth(shape)
    if network.depth is not None and network.depth > largest:
        raise ValueError(
            f"network convnet: depth {network.depth} is too large for images of {shape[1]}x{shape[2]} pixels, which "
            f"each block halves; expected at most {largest}: set `depth` to {largest} or less"
        )
    if largest < 1:
        raise ValueError(
            f"network convnet: images of {shape[1]}x{shape[2]} pixels are too small; expected 2x2 at least: use mlp"
        )
    return _filled(network, convnet.WIDTH, convnet.default_depth(shape), "instance")


def _resolve_resnet18(network: Network, shape: Shape) -> Network:
    if network.depth is not None:
        raise ValueError(
            f"network resnet18: found depth {network.depth}, but its depth is fixed: leave `depth` out, or use convnet"
        )
    if min(shape[1:]) < resnet.SMALLEST_MAP:
        raise ValueError(
            f"network resnet18: images of {shape[1]}x{shape[2]} pixels are too small; expected "
            f"{resnet.SMALLEST_MAP}x{resnet.SMALLEST_MAP} at least: use mlp"
        )
    return _filled(network, resnet.WIDTH, None, "instance")


def _resolve_mlp(network: Network, shape: Shape) -> Network:
    if network.norm == "instance":
        raise ValueError(
            "network mlp: found norm instance, but it has no maps to normalise: leave `norm` out"
        )
    return _filled(network, mlp.WIDTH, mlp.DEPTH, "none")


def _filled(network: Network, width: int, depth: int | None, norm: Norm) -> Network:
    return Network(
        name=network.name,
        width=network.width or width,
        depth=network.depth or depth,
        norm=network.norm or norm,
    )


def _build_convnet(network: Network, shape: Shape, classes: int) -> nn.Module:
    assert network.width is not None
    assert network.depth is not None
    assert network.norm is not None
    return convnet.ConvNet(shape, classes, network.width, network.depth, network.norm)


def _build_resnet18(network: Network, shape: Shape, classes: int) -> nn.Module:
    assert network.width is not None
    assert network.norm is not None
    return resnet.ResNet18(shape, classes, network.width, network.norm)


def _build_mlp(network: Network, shape: Shape, classes: int) -> nn.Module:
    assert network.width is not None
    assert network.depth is not None
    return mlp.Mlp(shape, classes, network.width, network.depth)


ARCHITECTURES = MappingProxyType(
    {
        "convnet": Architecture(_resolve_convnet, _build_convnet),
        "resnet18": Architecture(_resolve_resnet18, _build_resnet18),
        "mlp": Architecture(_resolve_mlp, _build_mlp),
    }
)
