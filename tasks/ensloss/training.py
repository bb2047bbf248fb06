"""Trains one cell of a sweep, or a stack of cells of one shape, by the protocol of EnsLoss's author."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from torch.optim.sgd import sgd

from orchestrator.task import Progress
from tasks.ensloss.draws import derivatives, draw_lambda, draw_normal
from tasks.ensloss.margin_losses import DERIVATIVES, EXPONENTIAL_NORM
from tasks.ensloss.stack import Stack

CHUNK = 2048
"""Samples that are judged at once, of all members together."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how a cell trains."""

    epochs: int
    batch_size: int
    momentum: float
    weight_decay: float
    test_every: int
    """Epochs between tests; the last epoch is always tested."""
    lam: float
    """Lambda of the inverse Box-Cox draws."""
    redraw_every: int | None
    """Epochs after which lambda is drawn anew; None: never."""

    def tested(self, epoch: int) -> bool:
        """Whether a test follows epoch `epoch`, counted from 0."""
        return (epoch + 1) % self.test_every == 0 or epoch + 1 == self.epochs

    def rate(self, epoch: int) -> float:
        """Share of the learning rate in `epoch`: half a cosine from 1 down to 0."""
        return (1 + math.cos(math.pi * epoch / self.epochs)) / 2


@dataclass(frozen=True)
class Data:
    """R splits of one dataset on the device; labels are -1 or +1."""

    train_x: Tensor
    """(R, N, ...)"""
    train_y: Tensor
    """(R, N)"""
    test_x: Tensor
    """(R, M, ...)"""
    test_y: Tensor
    """(R, M)"""


@dataclass(frozen=True)
class Members:
    """The cells of a stack."""

    losses: Sequence[str]
    lrs: Tensor
    """(S,), on the CPU."""
    splits: Tensor
    """(S,): which split of the data each one sees."""
    seed: Callable[[str, int, int], int]
    """(stream, member, epoch) to the seed of that epoch; streams: `order`, `draws`, `lambda`."""


@dataclass
class Curves:
    """What was seen at each test, members in rows."""

    epochs: list[int] = field(default_factory=list)
    train: list[list[float]] = field(default_factory=list)
    """Accuracies, fractions."""
    test: list[list[float]] = field(default_factory=list)


class Training:
    """S cells under way; `run` trains them to the end. Every epoch draws from seeds of its own."""

    def __init__(self, stack: Stack, data: Data, members: Members, recipe: Recipe) -> None:
        self.stack, self.data, self.members, self.recipe = stack, data, members, recipe
        self.velocity = [torch.zeros_like(weight) for weight in stack.weights]
        self.epoch, self.curves = 0, Curves()
        self._lambdas: Sequence[float] = ()
        self._splits = members.splits.to(data.train_x.device)
        self._rows = {name: _rows(members.losses, name) for name in dict.fromkeys(members.losses)}

    def run(self, tested: Callable[[int], None], save: Callable[[Callable[[], Progress]], None]) -> Curves:
        """Calls `tested` with the epoch after each test, and `save` after each epoch."""
        while self.epoch < self.recipe.epochs:
            self.train_epoch()
            self.epoch += 1
            if self.recipe.tested(self.epoch - 1):
                self._test()
                tested(self.epoch)
            save(self.progress)
        return self.curves

    def progress(self) -> Progress:
        tensors = {f"stack.{name}": value for name, value in self.stack.state().items()}
        tensors |= {f"velocity.{i}": value.to("cpu", copy=True) for i, value in enumerate(self.velocity)}
        curves = {"epochs": self.curves.epochs, "train": self.curves.train, "test": self.curves.test}
        return Progress(tensors, {"epoch": self.epoch, "curves": curves})

    def resume(self, saved: Progress) -> None:
        """Goes on from there."""
        self.stack.restore({name[6:]: value for name, value in saved.tensors.items() if name[:6] == "stack."})
        for i, velocity in enumerate(self.velocity):
            velocity.copy_(saved.tensors[f"velocity.{i}"])
        self.epoch, self.curves = int(saved.facts["epoch"]), Curves(**saved.facts["curves"])

    def scores(self, split: str) -> Tensor:
        """Scores (S, samples) of the training or test samples, on the CPU."""
        inputs = {"train": self.data.train_x, "test": self.data.test_x}[split]
        size = max(1, CHUNK // self.stack.size)
        with self.stack.judging():
            parts = [
                self.stack(inputs[self._splits, start : start + size])
                for start in range(0, inputs.shape[1], size)
            ]
        return torch.cat(parts, 1).to("cpu", torch.float32)

    def truth(self, split: str) -> Tensor:
        """Labels (S, samples), on the CPU."""
        return {"train": self.data.train_y, "test": self.data.test_y}[split][self._splits].cpu()

    def train_epoch(self) -> None:
        """One epoch, without a test; `run` counts it."""
        rates = self.members.lrs * self.recipe.rate(self.epoch)
        for inputs, labels, normal in self._batches():
            margins = labels * self.stack(inputs)
            surrogate = (self._slopes(margins.detach(), normal) * margins).mean(1).sum()
            found = torch.autograd.grad(surrogate, self.stack.weights)
            gradients = [gradient.contiguous() for gradient in found]  # torch's fused step takes no other
            if "exponential" in self._rows:
                self._clip(gradients, self._rows["exponential"])
            self._step(gradients, rates)

    def _slopes(self, margins: Tensor, normal: Tensor) -> Tensor:
        """phi' at the margins (S, B), each member's by its own loss; `normal` as in `_batches`."""
        if len(self._rows) == 1 and "ensloss" not in self._rows:
            return DERIVATIVES[self.members.losses[0]](margins)
        slopes = torch.empty_like(margins)
        for name, rows in self._rows.items():
            if name == "ensloss":
                slopes[rows] = self._drawn(margins[rows], normal, rows)
            else:
                slopes[rows] = DERIVATIVES[name](margins[rows])
        return slopes

    def _drawn(self, margins: Tensor, normal: Tensor, rows: Sequence[int]) -> Tensor:
        lambdas = [self._lambdas[row] for row in rows]
        if len(set(lambdas)) == 1:
            return derivatives(margins, normal, lambdas[0])
        each = zip(margins, normal, lambdas, strict=True)
        return torch.stack([derivatives(own, drawn, lam) for own, drawn, lam in each])

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Inputs (S, B, ...), labels (S, B) and the numbers (E, B) that the E members under EnsLoss draw, of one
        epoch. A last batch of a single sample is left out: batch norm cannot take it."""
        count, size, device = self.data.train_y.shape[1], self.recipe.batch_size, self.data.train_x.device
        every, drawing = range(self.stack.size), self._rows.get("ensloss", [])
        orders = torch.stack(
            [torch.randperm(count, generator=one) for one in self._generators("order", every)]
        )
        normals = [draw_normal((count,), one) for one in self._generators("draws", drawing)]
        normal = torch.stack(normals).to(device) if normals else torch.empty(0, count, device=device)
        self._lambdas = self._lambdas_now()
        members = self._splits[:, None]
        for indices, drawn in zip(orders.to(device).split(size, 1), normal.split(size, 1), strict=True):
            if indices.shape[1] > 1:
                yield self.data.train_x[members, indices], self.data.train_y[members, indices], drawn

    def _generators(self, stream: str, members: Sequence[int]) -> list[Generator]:
        seeds = (self.members.seed(stream, member, self.epoch) for member in members)
        return [Generator().manual_seed(seed) for seed in seeds]

    def _lambdas_now(self) -> list[float]:
        every, members = self.recipe.redraw_every, range(self.stack.size)
        if every is None or self.epoch < every:
            return [self.recipe.lam for _ in members]
        last = self.epoch - self.epoch % every
        seeds = (self.members.seed("lambda", member, last) for member in members)
        return [draw_lambda(Generator().manual_seed(seed)) for seed in seeds]

    def _clip(self, gradients: Sequence[Tensor], rows: Sequence[int]) -> None:
        """The norm of each of these members' gradient to EXPONENTIAL_NORM at most, in place."""
        shaped = [gradient if self.stack.size > 1 else gradient[None] for gradient in gradients]
        norms = torch.stack([gradient[rows].flatten(1).norm(dim=1) for gradient in shaped]).norm(dim=0)
        factors = (EXPONENTIAL_NORM / (norms + 1e-6)).clamp(max=1)
        for gradient in shaped:
            gradient[rows] *= factors.view(-1, *[1] * (gradient.ndim - 1))

    @torch.no_grad()
    def _step(self, gradients: list[Tensor], rates: Tensor) -> None:
        """SGD with momentum and weight decay, each member at its own rate."""
        recipe, weights = self.recipe, self.stack.weights
        if bool((rates == rates[0]).all()):
            sgd(
                weights, gradients, list(self.velocity), foreach=False, fused=True,
                weight_decay=recipe.weight_decay, momentum=recipe.momentum, lr=float(rates[0]),
                dampening=0.0, nesterov=False, maximize=False,
            )  # fmt: skip
            return
        rates = rates.to(weights[0].device, weights[0].dtype)
        for weight, gradient, velocity in zip(weights, gradients, self.velocity, strict=True):
            velocity.mul_(recipe.momentum).add_(gradient.add_(weight, alpha=recipe.weight_decay))
            weight.addcmul_(velocity, rates.view(-1, *[1] * (weight.ndim - 1)), value=-1)

    def _test(self) -> None:
        for split, curve in (("train", self.curves.train), ("test", self.curves.test)):
            right = (self.scores(split) > 0) == (self.truth(split) > 0)
            curve.append(right.double().mean(1).tolist())
        self.curves.epochs.append(self.epoch)


def _rows(losses: Sequence[str], name: str) -> list[int]:
    return [row for row, loss in enumerate(losses) if loss == name]
