"""How fast stacks of cells train on the device at hand, found by training on random samples."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.task import Json
from tasks.ensloss.stack import Stack
from tasks.ensloss.training import Data, Members, Recipe, Training
from tasks.nets.scoring import ScoringNetwork, build_scoring

STACKS = {"cpu": (1, 2, 5, 10), "cuda": (1, 5, 10, 20, 40)}
SECONDS = 0.4
"""Of the steps that count, for each network."""
BATCHES = 16
"""In an epoch of random samples."""


@dataclass(frozen=True)
class Shape:
    """What the pace of a stack depends on, besides its size and the device."""

    networks: tuple[Mapping[str, Json], ...]
    inputs: tuple[int, ...]
    """Shape of a sample."""
    batch_size: int

    def depends_on(self) -> dict[str, Json]:
        """As plain JSON."""
        networks = [dict(network) for network in self.networks]
        return {"networks": networks, "inputs": list(self.inputs), "batch_size": self.batch_size}


def stacks_to_try(device: str, *, cells: int, groups: int) -> list[int]:
    """Sizes of a stack, from 1 on: none beyond the cells of one shape, of which there are `groups`.

    On a CPU stacks leave work for two workers at least.
    """
    kind = device.partition(":")[0]
    largest = min(cells, cells * groups // 2) if kind == "cpu" else cells
    return [stack for stack in STACKS[kind] if stack <= max(1, largest)]


def pace(shape: Shape, stack: int, device: str) -> float:
    """Steps of a cell a second, of all members together, with the threads that torch is set to; over the networks
    the harmonic mean, as each of them takes as many steps."""
    return len(shape.networks) / sum(1 / _pace(network, shape, stack, device) for network in shape.networks)


def _pace(network: Mapping[str, Any], shape: Shape, stack: int, device: str) -> float:
    setting = ScoringNetwork.model_validate(network)
    modules = [build_scoring(setting, shape.inputs, member).to(device) for member in range(stack)]
    training = Training(Stack(modules), _random(shape, stack, device), _members(stack), _recipe(shape))
    seconds, epochs = _seconds(training, 1), 1
    if seconds > 5 * SECONDS:
        return stack * BATCHES / seconds
    while (seconds := _seconds(training, epochs)) < SECONDS:
        epochs *= 2
    return stack * epochs * BATCHES / seconds


def _seconds(training: Training, epochs: int) -> float:
    started = time.perf_counter()
    for _ in range(epochs):
        training.train_epoch()
    training.stack.finite()  # waits for the device
    return time.perf_counter() - started


def _random(shape: Shape, stack: int, device: str) -> Data:
    generator = torch.Generator().manual_seed(0)
    count = BATCHES * shape.batch_size
    inputs = torch.randn(stack, count, *shape.inputs, generator=generator).to(device)
    labels = torch.randint(2, (stack, count), generator=generator).to(inputs) * 2 - 1
    return Data(inputs, labels, inputs[:, :1], labels[:, :1])


def _members(stack: int) -> Members:
    return Members(
        losses=["ensloss"] * stack,
        lrs=torch.full((stack,), 1e-4, dtype=torch.float64),
        splits=torch.arange(stack),
        seed=lambda stream, member, epoch: member,
    )


def _recipe(shape: Shape) -> Recipe:
    return Recipe(
        epochs=1 << 30, batch_size=shape.batch_size, momentum=0.9, weight_decay=5e-6, test_every=1 << 30,
        lam=0.0, redraw_every=None,
    )  # fmt: skip
