"""What a shard of token labels has so far, from which it can go on; and how that is packed at its end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.task import Progress
from tasks.llm_distillation.labels.label_forms import Taken
from tasks.llm_distillation.labels.token_codec import Codec, Fitted, Sets, Tables, fit, joined, some

TOGETHER = 8
"""Sequences that are packed at once."""


@dataclass
class Labelled:
    """Sequences of a shard that are done, in order."""

    done: int = 0
    """Sequences of the shard, labelled or put aside."""
    numbers: list[int] = field(default_factory=list)
    """Of the labelled ones, in the corpus."""
    sizes: list[int] = field(default_factory=list)
    """Positions of each."""
    lost: list[tuple[float, float]] = field(default_factory=list)
    """Of each, the sums of both parts of the divergence, in nats."""
    aside: list[tuple[int, str]] = field(default_factory=list)
    """Number and reason of those without labels."""
    sets: list[Sets] = field(default_factory=list)
    rows: list[NDArray[np.float16]] = field(default_factory=list)

    def add(self, number: int, taken: Taken) -> None:
        self.numbers.append(number)
        self.sizes.append(len(taken))
        if taken.lost is not None:
            self.lost.append(taken.lost)
        if taken.sets is not None:
            self.sets.append(taken.sets)
        if taken.rows is not None:
            self.rows.append(taken.rows)

    @property
    def losses(self) -> dict[str, float]:
        """Means over all positions, in nats; nothing where there are none, or the tokens are drawn."""
        if not self.lost:
            return {}
        kept, spread = np.sum(self.lost, axis=0) / sum(self.sizes)
        return {"kl": float(kept + spread), "kl_kept": float(kept)}

    def progress(self) -> Progress:
        return Progress(
            tensors=self._tensors(),
            facts={
                "done": self.done,
                "numbers": list(self.numbers),
                "sizes": list(self.sizes),
                "lost": [list(own) for own in self.lost],
                "aside": [list(own) for own in self.aside],
            },
        )

    def _tensors(self) -> dict[str, Tensor]:
        if self.rows:
            return {"rows": torch.from_numpy(np.concatenate(self.rows))}
        if not self.sets:
            return {}
        self.sets = [joined(self.sets)]
        sets = self.sets[0]
        parts = {
            "ids": sets.ids,
            "levels": sets.levels,
            "count": sets.count,
            "extra": sets.extra.view(np.int16),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in parts.items()}

    @classmethod
    def resume(cls, saved: Progress | None) -> "Labelled":
        """What `progress` saved, or a beginning."""
        if saved is None:
            return cls()
        facts, arrays = saved.facts, {name: tensor.numpy() for name, tensor in saved.tensors.items()}
        made = cls(
            done=facts["done"],
            numbers=list(facts["numbers"]),
            sizes=list(facts["sizes"]),
            lost=[(kept, spread) for kept, spread in facts["lost"]],
            aside=[(number, reason) for number, reason in facts["aside"]],
        )
        if "rows" in arrays:
            made.rows = [arrays["rows"]]
        elif arrays:
            made.sets = [
                Sets(arrays["ids"], arrays["levels"], arrays["count"], arrays["extra"].view(np.uint16))
            ]
        return made

    def packed(self, vocabulary: int, seed: int) -> tuple[list[bytes], Tables | None]:
        """The bytes of each labelled sequence, and the tables that they are read with."""
        ends = np.cumsum([0, *self.sizes])
        if self.rows:
            rows = np.concatenate(self.rows)
            bounds = pairwise(ends)
            return [rows[start:end].astype("<f2").tobytes() for start, end in bounds], None
        sets = joined(self.sets)
        fitted = fit(sets, vocabulary, seed)
        return packed_blocks(sets, fitted, self.sizes), fitted.tables


def packed_blocks(sets: Sets, fitted: Fitted, sizes: Sequence[int]) -> list[bytes]:
    """The bytes of blocks of these `sizes`, of sets that were `fitted`; some at once, to bound the memory."""
    codec, ends, made = Codec(fitted.tables), np.cumsum([0, *sizes]), []
    for first in range(0, len(sizes), TOGETHER):
        part = slice(ends[first], ends[min(first + TOGETHER, len(sizes))])
        own = Fitted(fitted.tables, fitted.kind[part], fitted.level_kind[part])
        made += codec.pack(some(sets, part), own, sizes[first : first + TOGETHER])
    return made
