"""Several experts of one shape as one program: what chance decides in an epoch, and its batches.

Each member draws from generators of its own, so that its path is that of the expert trained alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from tasks.data import GROUPS, Drawn, draw
from tasks.dataset_distillation.expert_training import Batch

COLUMNS = max(group.parameters for group in GROUPS.values())


@dataclass(frozen=True)
class Chance:
    """The generators of one member in one epoch, on the CPU."""

    order: Generator
    augmentation: Generator

    @classmethod
    def seeded(cls, order: int, augmentation: int) -> "Chance":
        return cls(Generator().manual_seed(order), Generator().manual_seed(augmentation))


@dataclass(frozen=True)
class Epoch:
    """All that chance decides for S members in one epoch. It lies on the device: no step waits for the CPU."""

    order: Tensor
    """(S, images) of indices, a random permutation for each member."""
    groups: Sequence[Sequence[str]]
    """What is done to each member's batch, for each batch; empty where nothing is."""
    parameters: Tensor
    """(S, images, COLUMNS) of it, in the order of `order`."""
    batch_size: int

    @classmethod
    def drawn(cls, members: Sequence[Chance], images: Tensor, batch_size: int, strategy: str) -> "Epoch":
        """For images (N,C,H,W); the last batch may be smaller."""
        number, _, height, width = images.shape
        orders = [torch.randperm(number, generator=member.order) for member in members]
        sizes = [len(piece) for piece in orders[0].split(batch_size)] if strategy else []
        drawn = [
            [draw(strategy, size, height, width, member.augmentation) for size in sizes] for member in members
        ]
        return cls(
            order=torch.stack(orders).to(images.device),
            groups=[[each.group for each in batch] for batch in zip(*drawn, strict=True)],
            parameters=torch.stack([_parameters(steps) for steps in drawn]).to(images),
            batch_size=batch_size,
        )

    def batches(self, images: Tensor, labels: Tensor) -> Iterator[Batch]:
        """From the training set (N,C,H,W) and (N,), both on the device."""
        for step, indices in enumerate(self.order.split(self.batch_size, dim=1)):
            plain = images[indices]
            augmented = self.augmented(plain, step) if self.groups else plain
            yield Batch(plain, augmented, labels[indices])

    def augmented(self, images: Tensor, step: int) -> Tensor:
        start = step * self.batch_size
        return augment_stack(images, self.groups[step], self.parameters[:, start : start + self.batch_size])


def _parameters(steps: Sequence[Drawn]) -> Tensor:
    """Those of all batches, one below the other; no rows without augmentation."""
    rows = [pad(step.parameters, (0, COLUMNS - step.parameters.shape[1])) for step in steps]
    return torch.cat(rows) if rows else torch.empty(0, COLUMNS)


def augment_stack(images: Tensor, groups: Sequence[str], parameters: Tensor) -> Tensor:
    """Images (S,N,C,H,W), each member's under its own group: once a group, whatever the number of members."""
    done: dict[int, Tensor] = {}
    for group in dict.fromkeys(groups):
        members = [member for member, own in enumerate(groups) if own == group]
        chosen = torch.cat([images[member] for member in members])
        rows = torch.cat([parameters[member, :, : GROUPS[group].parameters] for member in members])
        pieces = GROUPS[group].apply(chosen, rows).unflatten(0, (len(members), -1))
        done |= dict(zip(members, pieces.unbind(), strict=True))
    return torch.stack([done[member] for member in range(len(groups))])
