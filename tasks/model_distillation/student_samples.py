"""What students learn from: views of the training images, with a teacher's labels or without."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.model_distillation import views
from tasks.model_distillation.label_reader import LabelReader
from tasks.model_distillation.student_loss import Targets

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelledSamples:
    """The views that a teacher has labelled. A training that is longer than the labels sees them again."""

    reader: LabelReader
    device: str

    def numbers(self, epoch: int) -> Numbers:
        """(N,): the samples that have a label in this epoch."""
        return self.reader.labels.kept(epoch)

    def batch(self, epoch: int, numbers: Numbers) -> tuple[Tensor, Targets]:
        """Their views, pixels in [0, 1], and their targets, on the device."""
        found = self.reader.batch(epoch, numbers).to(self.device)
        classes = larger_part_first(found.targets, found.other_targets, found.shares)
        return found.images, Targets(*classes, found.logits, found.features)


@dataclass(frozen=True, eq=False)
class PlainSamples:
    """Fresh views in every epoch, and the true classes."""

    images: Tensor
    """uint8 (samples, C, H, W), on the device."""
    classes: Tensor
    """int64 (samples,), on the device."""
    views: views.Views
    seed: int
    """Of the views."""

    def numbers(self, epoch: int) -> Numbers:
        """(N,): all samples."""
        return np.arange(len(self.images))

    def batch(self, epoch: int, numbers: Numbers) -> tuple[Tensor, Targets]:
        """Their views, pixels in [0, 1], and their targets, on the device."""
        drawn = views.draw(self.views, self.seed, epoch, numbers, views.Extent.of(self.images))
        device = self.images.device
        own, partners = (
            self.classes[torch.from_numpy(rows).to(device)] for rows in (numbers, drawn.partners)
        )
        shares = torch.from_numpy(drawn.shares).float().to(device)
        return views.apply(self.views, self.images, drawn), Targets(*larger_part_first(own, partners, shares))


def larger_part_first(classes: Tensor, partners: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two classes of each mixed view, that of the larger part first, and the share of that one."""
    swapped = shares < 0.5
    first, second = (torch.where(swapped, *pair) for pair in ((partners, classes), (classes, partners)))
    return first, second, torch.where(swapped, 1 - shares, shares)
