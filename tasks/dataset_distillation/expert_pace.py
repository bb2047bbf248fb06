"""How fast stacks of experts train on the device at hand, found by training on random images."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count, islice

import torch
from torch import Tensor

from orchestrator.task import Json
from tasks.dataset_distillation.expert_stack import Chance, Epoch
from tasks.dataset_distillation.expert_training import Batch, Optimizer, expert_loss, train_epoch
from tasks.dataset_distillation.flat import FlatModel

STACKS = {"cpu": (1, 2, 4, 8), "cuda": (1, 2, 4, 8, 16, 32)}
STACK_BYTES = 1 << 29
"""Snapshots that a stack may hold in memory until it is done."""
SECONDS = 0.5
"""Of the steps that count."""
BATCHES = 8
"""In an epoch of random images."""


@dataclass(frozen=True)
class Shape:
    """What the pace of a stack depends on, besides its size and the device."""

    network: Mapping[str, Json]
    image: tuple[int, ...]
    """(C, H, W)"""
    classes: int
    batch_size: int
    augment: str
    penalty: bool

    def depends_on(self) -> dict[str, Json]:
        """As plain JSON."""
        return {**asdict(self), "network": dict(self.network), "image": list(self.image)}


def stacks_to_try(device: str, *, experts: int, expert_bytes: int) -> list[int]:
    """Sizes of a stack, from 1 on: none beyond what memory holds and `experts` fill.

    On a CPU stacks leave work for two workers at least.
    """
    kind = device.partition(":")[0]
    largest = min(experts // 2 if kind == "cpu" else experts, STACK_BYTES // expert_bytes)
    return [stack for stack in STACKS[kind] if stack <= max(1, largest)]


def pace(model: FlatModel, shape: Shape, stack: int, device: str) -> float:
    """Steps of an expert a second, of all members together, with the threads that torch is set to."""
    steps = 1
    while True:
        seconds = _seconds(model, shape, stack, device, steps)
        warm = steps > 1 or seconds > 5 * SECONDS
        if warm and seconds >= SECONDS:
            return stack * steps / seconds
        steps *= 2


def _seconds(model: FlatModel, shape: Shape, stack: int, device: str, steps: int) -> float:
    """Time of so many steps of a stack, chance and augmentation included."""
    weights = model.initial().expand(stack, -1).clone()
    batches = _random_batches(shape, stack, device)

    def loss(weights: Tensor, batch: Batch) -> Tensor:
        return expert_loss(model.stacked, weights, batch, penalty=float(shape.penalty))

    started = time.perf_counter()
    losses = train_epoch(loss, weights, torch.zeros_like(weights), Optimizer(1e-3), islice(batches, steps))
    losses.tolist()  # waits for the device
    return time.perf_counter() - started


def _random_batches(shape: Shape, stack: int, device: str) -> Iterator[Batch]:
    """Without end."""
    generator = torch.Generator().manual_seed(0)
    number = BATCHES * shape.batch_size
    images = torch.randn(number, *shape.image, generator=generator).to(device)
    labels = torch.randint(shape.classes, (number,), generator=generator).to(device)
    for epoch in count():
        chance = [Chance.seeded(member, epoch) for member in range(stack)]
        yield from Epoch.drawn(chance, images, shape.batch_size, shape.augment).batches(images, labels)
