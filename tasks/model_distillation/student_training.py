"""Trains one student under one method, on one process or on several together, from any point on to the same end."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from orchestrator.task import Progress
from tasks.model_distillation.label_reader import AHEAD
from tasks.model_distillation.losses.dhkd import aligned
from tasks.model_distillation.optimisation import (
    Optimisation,
    learning_rate,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_rate,
)
from tasks.model_distillation.philox import permutation
from tasks.model_distillation.prefetch import ahead
from tasks.model_distillation.ranks import Ranks
from tasks.model_distillation.student_loss import Objective, Step, Targets
from tasks.nets.trace import Traced

SAVE_EVERY = 50
"""Steps between points to go on from, within an epoch."""
LEAST = 2
"""Samples of a step that each rank needs: batch norm cannot take a single one."""

Numbers = npt.NDArray[np.int64]
Save = Callable[[Callable[[], Progress]], None]
Seed = Callable[..., int]
"""A stream's name and numbers to a seed."""


class Samples(Protocol):
    """What a student learns from."""

    def numbers(self, epoch: int) -> Numbers:
        """(N,): the samples that there are in an epoch, in ascending order."""
        ...

    def batch(self, epoch: int, numbers: Numbers) -> tuple[Tensor, Targets]:
        """Their views in an epoch, as the student sees them, and their targets, on the device."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how a student trains."""

    epochs: int
    batch_size: int
    """Samples of a step at most, of all ranks together."""
    optimisation: Optimisation
    bf16: bool = False
    """Whether the networks, not the losses, run in bfloat16."""


@dataclass
class State:
    """How far it has come."""

    epoch: int = 0
    step: int = 0
    """Within the epoch."""
    losses: list[float] = field(default_factory=list)
    """Mean of each epoch so far."""
    tested: list[tuple[int, float]] = field(default_factory=list)
    """Epochs after which the test set was seen, and the accuracy there."""


class Training:
    """One student under way. `order(epoch)` and `chance(epoch, step)` are seeds: of the order of the samples, which
    methods that are compared share, and of a step's dropout and draws."""

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        samples: Samples,
        recipe: Recipe,
        *,
        order: Seed,
        chance: Seed,
        ranks: Ranks,
        device: str,
    ) -> None:
        self.student, self.objective, self.samples, self.recipe = student, objective, samples, recipe
        self.order, self.chance, self.ranks, self.device = order, chance, ranks, device
        self.both = nn.ModuleDict({"student": student, "objective": objective})
        self.optimizer = make_optimizer(recipe.optimisation, self.both.parameters())
        self.state, self.sum = State(), torch.zeros((), dtype=torch.float64, device=device)

    def run(self, ended: Callable[[int], None], save: Save) -> None:
        """To the end. Calls `ended` after each epoch with the number of epochs so far, and `save` every few steps."""
        while self.state.epoch < self.recipe.epochs:
            self._epoch(save)
            self.state.losses.append(self._checked_loss())
            self.state.epoch, self.state.step = self.state.epoch + 1, 0
            self.sum.zero_()
            ended(self.state.epoch)
            save(self.progress)

    def _epoch(self, save: Save) -> None:
        self.both.train()
        batches = self._batches()
        own = (batch[self.ranks.own] for batch in batches[self.state.step :])
        made = ahead((self.samples.batch(self.state.epoch, numbers) for numbers in own), AHEAD)
        with closing(made):
            for images, targets in made:
                self._step(images, targets, len(batches[self.state.step]), self.state.step / len(batches))
                self.state.step += 1
                if self.state.step % SAVE_EVERY == 0 and self.state.step < len(batches):
                    self._checked_loss()
                    save(self.progress)

    def _batches(self) -> list[Numbers]:
        """Of the epoch, for all ranks together: every sample once, in parts whose sizes differ by one at most, so
        that no last batch is too small."""
        numbers = self.samples.numbers(self.state.epoch)
        order = numbers[permutation(self.order(self.state.epoch), len(numbers))]
        batches = np.array_split(order, math.ceil(len(order) / self.recipe.batch_size))
        if len(batches[-1]) < LEAST * self.ranks.size:
            raise ValueError(
                f"a step has {len(batches[-1])} samples for {self.ranks.size} ranks; expected {LEAST} for each at "
                "least: raise `batch_size`, or lower `resources.ranks`"
            )
        return batches

    def _step(self, images: Tensor, targets: Targets, samples: int, done: float) -> None:
        """One step; `done` is the share of the epoch that lies behind it."""
        epoch, number = self.state.epoch, self.state.step
        drawn = self.chance("ensloss", epoch, number)
        step = Step(epoch, self.recipe.epochs, samples, drawn, self.ranks)
        with seeded(self.chance("dropout", epoch, number, self.ranks.rank), self.device):
            terms = self._terms(images, targets, step)
            gradients = self._gradients(terms)
        for parameter, gradient in zip(self.both.parameters(), gradients, strict=True):
            parameter.grad = gradient
        rate = learning_rate(self.recipe.optimisation, epoch + done, self.recipe.epochs)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.sum += _total(terms.values()).detach()

    def _terms(self, images: Tensor, targets: Targets, step: Step) -> dict[str, Tensor]:
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.recipe.bf16):
            found: dict[str, Tensor] = self.objective(cast(Traced, self.student), images, targets, step)
        return found or {"none": torch.zeros((), device=self.device)}

    def _gradients(self, terms: Mapping[str, Tensor]) -> list[Tensor]:
        """Of all ranks together, for every parameter; where asked for, DHKD's is aligned with that of the rest."""
        dhkd = self.objective.method.dhkd
        rest = [term for name, term in terms.items() if name != "dhkd"]
        if dhkd is None or not dhkd.alignment or "dhkd" not in terms or not rest:
            return self._summed([_total(terms.values())])[0]
        return aligned(*self._summed([_total(rest), terms["dhkd"]]))

    def _summed(self, losses: list[Tensor]) -> list[list[Tensor]]:
        """The gradients of each loss, summed over the ranks; in the same exchange the running statistics of batch
        norm become the mean of those of the ranks."""
        parameters = list(self.both.parameters())
        found: list[Tensor] = []
        for number, loss in enumerate(losses):
            found += _gradients(loss, parameters, keep=number + 1 < len(losses))
        statistics = running_statistics(self.both)
        summed = self.ranks.summed([*found, *(value / self.ranks.size for value in statistics)])
        if self.ranks.size > 1:
            for value, mean in zip(statistics, summed[len(found) :], strict=True):
                value.copy_(mean)
        count = len(parameters)
        return [summed[first : first + count] for first in range(0, len(found), count)]

    def _checked_loss(self) -> float:
        """The mean over the steps of this epoch; ValueError where it is not finite."""
        (total,) = self.ranks.summed([self.sum])
        loss = float(total) / max(1, self.state.step)
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss is {loss} in epoch {self.state.epoch + 1}, step {self.state.step}; lower optimisation.lr "
                f"({self.recipe.optimisation.lr:g}) or the weights of the method, or raise a term's `warmup`"
            )
        return loss

    def progress(self) -> Progress:
        """In a gang all ranks have the same networks; rank 0 hands them over, and a part of the sum each."""
        tensors = {f"sum.{self.ranks.rank}": self.sum.to("cpu", copy=True)}
        if self.ranks.rank == 0:
            kept = self.both.state_dict()
            tensors |= {f"both.{name}": value.to("cpu", copy=True) for name, value in kept.items()}
            state = optimizer_tensors(self.optimizer)
            tensors |= {f"optimizer.{name}": value for name, value in state.items()}
        return Progress(tensors, asdict(self.state))

    def resume(self, saved: Progress) -> None:
        """Goes on from there, whatever number of ranks saved it."""
        self.both.load_state_dict(_under("both.", saved.tensors))
        restore_optimizer(self.optimizer, _under("optimizer.", saved.tensors))
        self.state = State(**saved.facts)
        if self.ranks.rank == 0:
            sums = _under("sum.", saved.tensors).values()
            self.sum.copy_(torch.stack([value.to(self.device) for value in sums]).sum())


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """torch's global random numbers from `seed`, and afterwards as they were before."""
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Means and variances of its batch norms, and no other buffer."""
    named = module.named_buffers()
    return [value for name, value in named if name.endswith(("running_mean", "running_var"))]


def _total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def _gradients(loss: Tensor, parameters: list[nn.Parameter], keep: bool) -> list[Tensor]:
    """Zeros for what it does not reach."""
    if not loss.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    return list(torch.autograd.grad(loss, parameters, retain_graph=keep, materialize_grads=True))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
