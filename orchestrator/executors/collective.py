"""What a task sees of its worker where several ranks compute one shard together. Knows torch.distributed, not Ray."""

from collections import Counter
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.executors.context import Due, History, ShardContext
from orchestrator.task import Progress


class GangContext(ShardContext):
    """Fulfils `orchestrator.task.Context` on one rank. What is saved counts for all ranks or for none.

    `group` holds all ranks and is used by nothing else, over gloo: a word between processes is not to wait
    for what a GPU has still to do.
    """

    def __init__(self, *, group: dist.ProcessGroup, **told: Any) -> None:
        super().__init__(**told)
        self.rank, self.world_size = dist.get_rank(group), dist.get_world_size(group)
        self._group = group

    def preview(self, name: str, png: bytes, step: int = 0) -> None:
        if self.rank == 0:
            super().preview(name, png, step)

    def load_progress(self) -> Progress | None:
        saved = super().load_progress()
        if all(self._heard_of_all(saved is not None)):
            return saved
        self.history = History()  # what one rank cannot read, none goes on from
        return None

    def _due(self) -> Due:
        """What rank 0 finds: its clock and its word of a stop count for all."""
        word = torch.tensor([super()._due()])
        dist.broadcast(word, src=0, group=self._group)
        return Due(int(word))

    def _publish(self, made: Progress) -> None:
        """Every rank writes its part; then rank 0 writes the record that names them."""
        part = self._store.put_part(self._key, made.tensors)
        parts = self._heard_of_all((part, list(made.tensors)))
        given = Counter(name for _, names in parts for name in names)
        if twice := [name for name, count in given.items() if count > 1]:
            raise ValueError(f"{self._label}: several ranks saved {twice[0]!r}; expected it from one of them")
        if self.rank == 0:
            facts = self._with_history(made.facts)
            self._store.save_progress(self._key, Progress({}, facts), sorted({part for part, _ in parts}))

    def _heard_of_all(self, word: Any) -> list[Any]:
        """What every rank said, by rank."""
        heard: list[Any] = [None] * self.world_size
        dist.all_gather_object(heard, word, group=self._group)
        return heard


def control_group(patience_s: float) -> dist.ProcessGroup:
    """A group of its own for the engine's words between ranks, which wait for each other for so long.

    A collective call.
    """
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=patience_s))
    assert isinstance(group, dist.ProcessGroup)
    return group
