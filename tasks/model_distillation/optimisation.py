"""How a classifier is optimised: optimiser, schedule of its rate, and its state as named tensors."""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from orchestrator.task import Settings


class Optimisation(Settings):
    """Optimiser and schedule; the defaults are usual for CIFAR images at 128 a step."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float = Field(default=0.1, gt=0)
    """Highest learning rate."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD, a fraction."""
    nesterov: bool = True
    """For SGD with momentum: Nesterov's."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay on every parameter: for SGD added to the gradient, for AdamW apart from it."""
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    """The rate over the epochs: a half cosine down to 0, falling at `milestones`, or the same all through."""
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    """For `steps`: where the rate falls, in fractions of all epochs; the default is 150, 180, 210 of 240."""
    factor: float = Field(default=0.1, gt=0, le=1)
    """For `steps`: the rate after a milestone as a fraction of that before."""
    warmup: float = Field(default=0.0, ge=0)
    """Epochs over which the rate rises from 0 in a straight line."""

    @model_validator(mode="after")
    def _milestones_in_order(self) -> Self:
        ends = (0.0, *self.milestones, 1.0)
        if any(first >= second for first, second in pairwise(ends)):
            raise ValueError(f"milestones {self.milestones}: expected rising fractions between 0 and 1")
        return self


def learning_rate(optimisation: Optimisation, epoch: float, epochs: int) -> float:
    """The rate at `epoch`, which counts from 0 and may lie within one, of a training of `epochs`."""
    rising = min(1.0, epoch / optimisation.warmup) if optimisation.warmup else 1.0
    done = epoch / epochs
    if optimisation.schedule == "cosine":
        falling = (1 + math.cos(math.pi * min(1.0, done))) / 2
    elif optimisation.schedule == "steps":
        falling = optimisation.factor ** sum(done >= milestone for milestone in optimisation.milestones)
    else:
        falling = 1.0
    return optimisation.lr * rising * falling


def make_optimizer(optimisation: Optimisation, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """At its highest rate; see `set_rate`."""
    if optimisation.optimizer == "adamw":
        return torch.optim.AdamW(parameters, optimisation.lr, weight_decay=optimisation.weight_decay)
    return torch.optim.SGD(
        parameters,
        optimisation.lr,
        momentum=optimisation.momentum,
        weight_decay=optimisation.weight_decay,
        nesterov=optimisation.nesterov and optimisation.momentum > 0,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """For the next steps of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its state on the CPU as `NUMBER.NAME` for each parameter's number: what `restore_optimizer` takes."""
    return {
        f"{number}.{name}": torch.as_tensor(value).to("cpu", copy=True)
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Brings an optimizer, made anew for the same parameters, to the state that `tensors` tell."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
