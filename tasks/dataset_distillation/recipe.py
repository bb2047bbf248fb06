"""The recipe by which the field judges a small set: train a fresh network on it, test once at the end.

SGD with momentum and weight decay, DSA augmentation, the step size times 0.1 after epoch E//2+1 of E
(evaluation protocol of Cazenavette et al., Dataset Distillation by Matching Training Trajectories, 2022).
Everything lies on one device; batches come from a permutation that depends on (seed, epoch) alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from orchestrator.task import Progress, derive_seed
from tasks.data import augment

TEST_BATCH = 1024
LEARNING_RATE_DECAY = 0.1

Log = Callable[[Mapping[str, float], int], None]
Save = Callable[[Callable[[], Progress]], None]


@dataclass(frozen=True)
class Labelled:
    """Images (N,C,H,W) float, with labels (N,) int64 or class probabilities (N,classes) float."""

    images: Tensor
    labels: Tensor

    def to(self, device: str) -> "Labelled":
        return Labelled(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; epochs are counted from 1."""

    epochs: int
    learning_rate: float
    batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: str = ""

    @property
    def decay_after(self) -> int:
        return self.epochs // 2 + 1


@dataclass(frozen=True)
class Scores:
    """Test accuracies as fractions; `best_accuracy` is selected on the test set: not a result."""

    accuracy: float
    best_accuracy: float
    best_epoch: int
    train_loss: float
    """Mean cross entropy over the last epoch, in nats."""


class Training:
    """A network in training, one epoch at a time, whose whole state goes out as a Progress and back in."""

    def __init__(self, module: nn.Module, train: Labelled, recipe: Recipe, seed: int) -> None:
        self.module, self.train, self.recipe, self.seed = module, train, recipe, seed
        self.epoch = 0
        self._start_optimiser(recipe.learning_rate)

    def run_epoch(self) -> Tensor:
        """Trains one epoch; returns its mean loss as a scalar on the device."""
        self.epoch += 1
        images, labels = self.train.images, self.train.labels
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        order = torch.randperm(len(images), generator=generator).to(images.device)
        total = torch.zeros((), device=images.device)
        self.module.train()
        for chosen in order.split(self.recipe.batch_size):
            batch = augment(images[chosen], self.recipe.augment, generator)
            total += self._step(batch, labels[chosen]) * len(chosen)
        if self.epoch == self.recipe.decay_after:
            self._start_optimiser(self.recipe.learning_rate * LEARNING_RATE_DECAY)
        return total / len(images)

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = cross_entropy(self.module(images), labels)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        return loss.detach()

    def progress(self, best: Mapping[str, float]) -> Progress:
        """Parameters, buffers and momenta by name, copied to the CPU, the epoch, and the `best` so far."""
        state = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            momentum = self._optimiser.state.get(parameter, {}).get("momentum_buffer")
            state[f"momentum.{name}"] = torch.zeros_like(parameter) if momentum is None else momentum
        tensors = {name: value.detach().cpu().clone() for name, value in state.items()}
        return Progress(tensors, {"epoch": self.epoch, "best": dict(best)})

    def restore(self, progress: Progress) -> None:
        """Goes back to the state that `progress` holds."""
        tensors, epoch = progress.tensors, int(progress.facts["epoch"])
        module = {name: value for name, value in tensors.items() if name.startswith("module.")}
        self.module.load_state_dict({name.removeprefix("module."): value for name, value in module.items()})
        factor = LEARNING_RATE_DECAY if epoch >= self.recipe.decay_after else 1.0
        self._start_optimiser(self.recipe.learning_rate * factor)
        for name, parameter in self.module.named_parameters():
            momentum = tensors[f"momentum.{name}"].to(parameter.device, copy=True)
            self._optimiser.state[parameter]["momentum_buffer"] = momentum
        self.epoch = epoch

    def _start_optimiser(self, learning_rate: float) -> None:
        """A new optimiser has no momentum: as in the protocol's code, the decay starts it afresh."""
        recipe = self.recipe
        self._optimiser = torch.optim.SGD(
            self.module.parameters(), learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
        )


def accuracy(module: nn.Module, test: Labelled) -> float:
    """The fraction of `test` (hard labels) that the network gets right."""
    module.eval()
    with torch.no_grad():
        pairs = zip(test.images.split(TEST_BATCH), test.labels.split(TEST_BATCH), strict=True)
        right = sum((module(images).argmax(1) == labels).sum() for images, labels in pairs)
    return float(right) / len(test.labels)


def train_and_test(
    training: Training,
    test: Labelled,
    test_every: int,
    *,
    log: Log = lambda metrics, step: None,
    save: Save = lambda make: None,
    start: Progress | None = None,
) -> Scores:
    """Trains to the end, testing after every `test_every` epochs and after the last; logs train_loss and
    test_accuracy there. `save` is called after each epoch; `start` is what it saved last."""
    best = {"accuracy": -1.0, "epoch": 0}
    if start is not None:
        training.restore(start)
        best = dict(start.facts["best"])
    epochs = training.recipe.epochs
    while training.epoch < epochs:
        loss = training.run_epoch()
        if training.epoch % test_every == 0 or training.epoch == epochs:
            tested, train_loss = accuracy(training.module, test), float(loss)
            log({"train_loss": train_loss, "test_accuracy": tested}, training.epoch)
            if tested > best["accuracy"]:
                best = {"accuracy": tested, "epoch": training.epoch}
        if training.epoch < epochs:
            save(partial(training.progress, best))
    return Scores(tested, best["accuracy"], int(best["epoch"]), train_loss)
