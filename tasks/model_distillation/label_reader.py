"""Feeds a student: shuffled views with their labels, the same on any number of ranks and after any interruption.

The order of an epoch is a permutation of all labelled samples, whatever shards they lie in, and depends on seed
and epoch alone. Step s takes the next `batch_size` of them, shared out among the ranks; so ranks make equal
numbers of steps, and two ranks of half the batch see together what one sees alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from tasks.data import Dataset
from tasks.model_distillation import philox, views
from tasks.model_distillation.label_files import KeptLabels, check_same
from tasks.model_distillation.prefetch import ahead

LEAST_ROWS = 2
"""Images a rank: batch norm needs two. Fewer at the end of an epoch join the last step."""
AHEAD = 4
"""Batches that are made ahead of the student."""


class LabelledBatch(NamedTuple):
    """N views with the teacher's labels."""

    images: Tensor
    """(N, C, H, W), float32, pixels in [0, 1] under the view: to be normalised as the student wants it."""
    targets: Tensor
    """(N,), int64: the true classes."""
    logits: Tensor
    """(N, classes), float32: the teacher's logits, of top_k labels its log probabilities."""
    features: Tensor | None
    """(N, d), float32: the teacher's, where the artifact has them."""
    samples: Tensor
    """(N,), int64: whose view."""
    other_targets: Tensor
    """(N,), int64: the class of what is mixed in; where nothing is, the sample's own."""
    shares: Tensor
    """(N,), float32: the share of the sample itself in the mix; 1 where nothing is mixed."""

    def to(self, device: str | torch.device) -> "LabelledBatch":
        """On this device."""
        return LabelledBatch._make(None if part is None else part.to(device) for part in self)


class Place(NamedTuple):
    """Which part of every step is this reader's."""

    rank: int = 0
    ranks: int = 1


ALONE = Place()


@dataclass(frozen=True, eq=False)
class LabelReader:
    """See the module. `batch_size` counts the images of a step on all ranks together."""

    labels: KeptLabels
    images: Tensor
    """The training images, uint8 (samples, C, H, W)."""
    targets: Tensor
    """(samples,), int64."""
    batch_size: int
    seed: int
    place: Place = ALONE

    def __post_init__(self) -> None:
        rank, ranks = self.place
        assert 0 <= rank < ranks, self.place
        if len(self.images) != self.labels.samples:
            raise ValueError(
                f"soft labels: made for {self.labels.samples} images, found {len(self.images)}; give the same data"
            )
        if self.batch_size < LEAST_ROWS * ranks:
            raise ValueError(
                f"batch_size is {self.batch_size} for {ranks} ranks; expected {LEAST_ROWS} images a rank at least"
            )

    @classmethod
    def open(
        cls,
        labels: KeptLabels,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        place: Place = ALONE,
        expected: dict[str, Any] | None = None,
    ) -> "LabelReader":
        """A reader over the training images. ValueError that names the field where the labels were made for other
        data, or differ from what is `expected` of their facts (`views`, `teacher_digest`, `classes` ...)."""
        split = dataset.load().train
        found = {"data_digest": dataset.content_digest(), "classes": len(dataset.load().classes)}
        check_same(labels.facts, {**found, **(expected or {})})
        images, targets = torch.from_numpy(split.images), torch.from_numpy(split.labels)
        return cls(labels, images, targets, batch_size, seed, place)

    def steps(self, epoch: int) -> int:
        """Steps of an epoch, the same on every rank."""
        return len(self._bounds(self.labels.kept(epoch)))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[LabelledBatch]:
        """The batches of an epoch from step `first` on, made ahead in a thread of their own."""
        return ahead(self.batches(epoch, first), AHEAD)

    def batches(self, epoch: int, first: int = 0, every: int = 1) -> Iterator[LabelledBatch]:
        """As `epoch`, in the caller's thread; with `every` only each so many'th step."""
        kept = self.labels.kept(epoch)
        order = kept[philox.permutation(self.seed, len(kept), epoch)]
        for start, end in self._bounds(kept)[first::every]:
            yield self.batch(epoch, order[start:end][self.place.rank :: self.place.ranks])

    def batch(self, epoch: int, samples: npt.NDArray[np.int64]) -> LabelledBatch:
        """These samples in their views of an epoch."""
        labels = self.labels
        drawn = views.draw(
            labels.views, labels.view_seed, epoch % labels.epochs, samples, views.Extent.of(self.images)
        )
        logits, features = labels.read(epoch, samples)
        return LabelledBatch(
            images=views.apply(labels.views, self.images, drawn),
            targets=self.targets[torch.from_numpy(samples)],
            logits=logits,
            features=features,
            samples=torch.from_numpy(samples),
            other_targets=self.targets[torch.from_numpy(drawn.partners)],
            shares=torch.from_numpy(drawn.shares).float(),
        )

    def _bounds(self, kept: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        return step_bounds(len(kept), self.batch_size, self.place.ranks)


def step_bounds(number: int, batch_size: int, ranks: int = 1) -> list[tuple[int, int]]:
    """Where each step begins and ends in an order of so many samples; a last step that is too small for the ranks
    is joined with the one before."""
    starts = list(range(0, number, batch_size))
    if len(starts) > 1 and number - starts[-1] < LEAST_ROWS * ranks:
        starts.pop()
    return list(zip(starts, [*starts[1:], number], strict=True))


class LabelStream(IterableDataset[LabelledBatch]):
    """The batches of one epoch for torch's DataLoader: `DataLoader(LabelStream(reader, 0), batch_size=None,
    num_workers=2)` gives what `reader.epoch(0)` gives, in the same order."""

    def __init__(self, reader: LabelReader, epoch: int, first: int = 0) -> None:
        self.reader, self.number, self.first = reader, epoch, first

    def __iter__(self) -> Iterator[LabelledBatch]:
        worker = get_worker_info()
        number, every = (worker.id, worker.num_workers) if worker else (0, 1)
        return self.reader.batches(self.number, self.first + number, every)

    def __len__(self) -> int:
        return self.reader.steps(self.number) - self.first
