"""The setting of a classifier that learns from or teaches others, and how it becomes a module.

Unlike those of `Network` these have batch norm. Every one has `forward(images)`, `trace(images)` and `head`
(`tasks.nets.trace.Traced`).
"""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import nn

from orchestrator.task import Settings

from . import cifar_resnet, convnet, mlp, resnet, staged
from .convnet import Shape
from .trace import Traced


class Classifier(Settings):
    """An architecture with batch norm. `cifar_resnet20` is short for `{name: cifar_resnet20}`."""

    name: Literal[
        "cifar_resnet8",
        "cifar_resnet14",
        "cifar_resnet20",
        "cifar_resnet32",
        "cifar_resnet44",
        "cifar_resnet56",
        "cifar_resnet110",
        "resnet18",
        "vgg8",
        "convnet",
        "mlp",
    ]
    """Architecture. The cifar_resnets are those of He et al. (2016) for CIFAR, with parameter-free shortcuts."""
    width: int | None = Field(default=None, gt=0)
    """Channels of the first stage, to which all others are in proportion; units of a hidden layer for mlp.
    Default 16 for the cifar_resnets, 64 for resnet18 and vgg8, 128 for convnet and mlp."""
    depth: int | None = Field(default=None, gt=0)
    """convnet: number of blocks, each halving the image; default 3 at 28 and 32 pixels. mlp: number of linear
    layers; default 3. That of the others is fixed."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _depth_fits_the_name(self) -> Self:
        if self.depth is not None and self.name not in ("convnet", "mlp"):
            raise ValueError(
                f"classifier {self.name}: its depth is fixed: leave `depth` out, or use convnet or mlp"
            )
        return self

    @property
    def tag(self) -> str:
        """A short name that no other classifier has: `cifar_resnet20`, of another width `cifar_resnet20x8`."""
        depth = f"{self.depth}" if self.depth else ""
        return f"{self.name}{depth}" + (f"x{self.width}" if self.width else "")


def build_classifier(classifier: Classifier, shape: Shape, classes: int, seed: int) -> nn.Module:
    """A freshly initialised module that fulfils `Traced`: torch's default initialisation under `seed`, float32,
    on the CPU.

    The state of torch's global random numbers is left as it was. In training mode a batch needs two images
    at least. Raises ValueError for a shape (C, H, W) or a number of classes that does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _module(classifier, shape, classes)


def classifier_parameters(classifier: Classifier, shape: Shape, classes: int) -> int:
    """Number of weights, found without allocating them. Raises as `build_classifier`."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _module(classifier, shape, classes).parameters())


def feature_size(classifier: Classifier, shape: Shape, classes: int) -> int:
    """d of the features that the last layer is given. Raises as `build_classifier`."""
    with torch.device("meta"):
        head: nn.Linear = cast(Traced, _module(classifier, shape, classes)).head
    return head.in_features


def _module(classifier: Classifier, shape: Shape, classes: int) -> nn.Module:
    if classes < 2:
        raise ValueError(f"classifier {classifier.name}: found {classes} classes; expected two or more")
    least = _least_side(classifier)
    if min(shape[1:]) < least:
        raise ValueError(
            f"classifier {classifier.name}: images of {shape[1]}x{shape[2]} pixels are too small; expected "
            f"{least}x{least} at least: lower `depth` where it has one, or use mlp"
        )
    return BUILDERS[classifier.name](classifier, shape, classes)


def _least_side(classifier: Classifier) -> int:
    """Pixels that each side of an image needs."""
    if classifier.name == "convnet":
        return 2 ** (classifier.depth or 1)
    return 1 if classifier.name in ("mlp", "vgg8") else resnet.SMALLEST_MAP


def _cifar_resnet(depth: int, classifier: Classifier, shape: Shape, classes: int) -> nn.Module:
    return cifar_resnet.CifarResNet(shape, classes, classifier.width or cifar_resnet.WIDTH, depth)


def _convnet(classifier: Classifier, shape: Shape, classes: int) -> nn.Module:
    depth = classifier.depth or convnet.default_depth(shape)
    return staged.staged_convnet(shape, classes, classifier.width or convnet.WIDTH, depth)


def _mlp(classifier: Classifier, shape: Shape, classes: int) -> nn.Module:
    return staged.staged_mlp(shape, classes, classifier.width or mlp.WIDTH, classifier.depth or mlp.DEPTH)


def _resnet18(classifier: Classifier, shape: Shape, classes: int) -> nn.Module:
    return staged.staged_resnet18(shape, classes, classifier.width or resnet.WIDTH)


def _vgg8(classifier: Classifier, shape: Shape, classes: int) -> nn.Module:
    return staged.staged_vgg8(shape, classes, classifier.width or staged.VGG_WIDTH)


CIFAR_RESNETS = {f"cifar_resnet{depth}": depth for depth in cifar_resnet.DEPTHS}
BUILDERS: MappingProxyType[str, Callable[[Classifier, Shape, int], nn.Module]] = MappingProxyType(
    {
        **{name: partial(_cifar_resnet, depth) for name, depth in CIFAR_RESNETS.items()},
        "resnet18": _resnet18,
        "vgg8": _vgg8,
        "convnet": _convnet,
        "mlp": _mlp,
    }
)
