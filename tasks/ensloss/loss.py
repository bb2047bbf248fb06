"""EnsLoss as a torch module: in place of binary cross entropy in any training loop."""

import torch
from torch import Generator, Tensor, distributed, nn
from torch.distributed import ProcessGroup

from tasks.ensloss.draws import derivatives, draw_lambda, draw_normal


class EnsLoss(nn.Module):
    """Scores (B,) and labels (B,), either 0 / 1 or -1 / +1, to a surrogate whose gradient is EnsLoss's.

    Its value is no loss: do not stop early on it. Source: Dai 2025, Algorithm 1.

    `lam`: lambda of the inverse Box-Cox draws, 0 in all of the paper's tables. `redraw()` draws another,
    uniform in (-1, 1), for those who call it every few epochs.
    `seed`: of the draws; every rank of a group needs the same one.
    `group`: ranks that share a batch. The margins of all are gathered, so that every rank ranks among the
    whole batch; its value is such that the usual mean of the gradients over the ranks is that of one device
    with the whole batch, also where ranks hold different numbers of samples.
    """

    def __init__(self, lam: float = 0.0, seed: int = 0, group: ProcessGroup | None = None) -> None:
        super().__init__()
        self.lam, self.group = lam, group
        self.generator = Generator().manual_seed(seed)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch of phi'(margin) * margin, a scalar."""
        margins = signed(labels, scores) * scores
        drawn, share = self._derivatives(margins.detach())
        return (drawn * margins).sum() * share

    def redraw(self) -> None:
        """Draws another lambda, for the batches from now on."""
        self.lam = draw_lambda(self.generator)

    def _derivatives(self, margins: Tensor) -> tuple[Tensor, float]:
        """Of this rank's margins; and what a sample's part weighs in this rank's value."""
        if self.group is None:
            return derivatives(margins, draw_normal(tuple(margins.shape), self.generator), self.lam), (
                1 / len(margins)
            )
        ranks, own = self.group.size(), self.group.rank()
        sizes = gathered_sizes(len(margins), margins.device, self.group)
        whole = gathered(margins, sizes, self.group)
        drawn = derivatives(whole, draw_normal((len(whole), *margins.shape[1:]), self.generator), self.lam)
        return drawn.split(sizes)[own], ranks / sum(sizes)


class OneVsRestEnsLoss(nn.Module):
    """Logits (B, K) and classes (B,) to a surrogate: EnsLoss on each class against the rest.

    An extension of ours; the paper is about two classes. All classes share a batch's draws, each class is
    ordered by its own margins, and the surrogate is the mean over the classes. With two classes whose logits
    are -f and f it is EnsLoss of the score f.
    """

    def __init__(self, lam: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.lam = lam
        self.generator = Generator().manual_seed(seed)

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The mean over batch and classes of phi'(margin) * margin, a scalar."""
        number, count = logits.shape
        signs = nn.functional.one_hot(classes, count).to(logits.dtype) * 2 - 1
        margins = (signs * logits).T
        normal = draw_normal((number,), self.generator).expand(count, -1)
        return (derivatives(margins, normal, self.lam) * margins).mean()


def signed(labels: Tensor, like: Tensor) -> Tensor:
    """Labels of 0 / 1 or -1 / +1 as -1 / +1 in the type of `like`.

    ValueError for any other value, and where the shapes differ.
    """
    if labels.shape != like.shape:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}, scores {tuple(like.shape)}; expected one score a "
            "sample: squeeze the last axis of the scores"
        )
    values = labels.to(like.dtype)
    if not bool(((values == 1) | (values == 0) | (values == -1)).all()):
        raise ValueError(
            f"labels hold {float(values[(values.abs() != 1) & (values != 0)][0])}; expected 0 / 1 or -1 / +1"
        )
    return torch.where(values > 0, values, -torch.ones_like(values))


def gathered_sizes(size: int, device: torch.device, group: ProcessGroup) -> list[int]:
    """How many samples each rank holds."""
    sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(group.size())]
    distributed.all_gather(sizes, torch.tensor([size], device=device), group=group)
    return [int(one) for one in sizes]


def gathered(margins: Tensor, sizes: list[int], group: ProcessGroup) -> Tensor:
    """The margins of all ranks one after another; padded on the way, as ranks may hold unequal numbers."""
    longest = max(sizes)
    padded = margins.new_zeros((longest, *margins.shape[1:]))
    padded[: len(margins)] = margins
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded, group=group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
