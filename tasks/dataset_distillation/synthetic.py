"""The synthetic set under way: what is learned, how it starts, how one gradient changes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

CONFIDENCE = 5.0
"""Logit of the true class, the others 0, where soft labels start from scaled one-hot vectors."""


@dataclass(frozen=True)
class Rates:
    """Learning rate and momentum of SGD for each thing learned, and the decay of the pixels' average."""

    lr: Mapping[str, float]
    momentum: Mapping[str, float]
    average_decay: float = 0.0


@dataclass
class SyntheticSet:
    """images (n,C,H,W), labels: classes (n,) int64 or logits (n,classes) float32, step_size a scalar.

    `velocity` holds the momentum of each learned tensor, `average` the pixels' moving average.
    """

    images: Tensor
    labels: Tensor
    step_size: Tensor
    average: Tensor
    velocity: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, images: Tensor, labels: Tensor, step_size: float) -> "SyntheticSet":
        step = torch.tensor(step_size, dtype=images.dtype, device=images.device)
        return cls(images, labels, step, images.clone())

    def descend(self, gradients: Mapping[str, Tensor], rates: Rates) -> None:
        """v <- momentum v + gradient; value <- value - lr v, for each gradient given; then the average."""
        for name, gradient in gradients.items():
            velocity = self.velocity.get(name, torch.zeros_like(gradient))
            self.velocity[name] = rates.momentum[name] * velocity + gradient
            setattr(self, name, getattr(self, name) - rates.lr[name] * self.velocity[name])
        if rates.average_decay:
            self.average = torch.lerp(self.images, self.average, rates.average_decay)

    def is_finite(self) -> bool:
        """Whether no number of what is learned has overflowed."""
        return all(bool(value.isfinite().all()) for value in (self.images, self.labels, self.step_size))

    def tensors(self) -> dict[str, Tensor]:
        """Copies of everything, for progress."""
        named = {name: getattr(self, name) for name in ("images", "labels", "step_size", "average")}
        named |= {f"velocity.{name}": value for name, value in self.velocity.items()}
        return {name: value.detach().to("cpu", copy=True) for name, value in named.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: str) -> "SyntheticSet":
        named = {name: value.to(device, copy=True) for name, value in tensors.items()}
        velocity = {name.removeprefix("velocity."): value for name, value in named.items() if "." in name}
        learned = (named["images"], named["labels"], named["step_size"])
        return cls(*learned, average=named["average"], velocity=velocity)

    def probabilities(self) -> Tensor:
        """Hard labels as they are, soft ones as probabilities (n,classes)."""
        return functional.softmax(self.labels, dim=1) if self.labels.is_floating_point() else self.labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy with classes (n,) or with soft labels given as logits (n,classes)."""
    targets = functional.softmax(labels, dim=1) if labels.is_floating_point() else labels
    return functional.cross_entropy(logits, targets)


def one_hot_logits(labels: Tensor, classes: int) -> Tensor:
    """Logits (n,classes) that are CONFIDENCE at the class and 0 elsewhere."""
    return CONFIDENCE * functional.one_hot(labels, classes).float()


def expert_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The expert's logits (n,classes) where it names the right class, scaled one-hot where it does not."""
    right = logits.argmax(dim=1) == labels
    return torch.where(right[:, None], logits, one_hot_logits(labels, logits.shape[1]))
