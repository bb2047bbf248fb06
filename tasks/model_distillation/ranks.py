"""What the processes that train one student together have to tell each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from tasks.ensloss.loss import gathered, gathered_sizes


@dataclass(frozen=True)
class Ranks:
    """`size` processes, of which this is number `rank`. One alone needs no torch.distributed."""

    rank: int = 0
    size: int = 1

    @property
    def own(self) -> slice:
        """This rank's part of the samples of a step."""
        return slice(self.rank, None, self.size)

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each over all ranks, in one exchange; all are of one type."""
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def whole(self, rows: Tensor) -> Tensor:
        """The rows (N, ...) of all ranks, one rank after another; the gradient flows through the own ones alone.

        Where every rank makes the same scalar of them, the sum of their gradients is that of one process with
        the whole batch.
        """
        if self.size == 1:
            return rows
        group = distributed.group.WORLD
        assert group is not None
        sizes = gathered_sizes(len(rows), rows.device, group)
        parts = list(torch.split(gathered(rows.detach(), sizes, group), sizes))
        parts[self.rank] = rows
        return torch.cat(parts)

    def part(self, value: Tensor) -> Tensor:
        """Of a scalar that every rank has: its gradient whole, in value a share, so that values add up too."""
        return value if self.size == 1 else value - value.detach() * (1 - 1 / self.size)
