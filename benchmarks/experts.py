"""Experts per hour: as the task expert_trajectories trains them, over a plain training loop.

Fashion-MNIST, ConvNet of depth 3 and width 16 (and 128), batch 128, SGD, DSA augmentation of every batch, float32,
snapshots after every epoch. Prints tables and, last, one line of JSON: {"ratio", ...}. Needs torch only:

    .venv/bin/python benchmarks/experts.py

The plain loop: a module of torch.nn's own layers, torch.optim.SGD, the images as tensors in memory, a TensorDataset
and a DataLoader without workers, augmentation batch by batch (the same function as ours), two threads, the test set
after each epoch. Ours: the functions of the task, in as many processes of as many threads, and so many experts in
one program, as a measurement just before finds best on this device; the test set once, after the last epoch. The
processes keep what is freed, as the engine's workers do: glibc would hand large blocks back after every operation and
have them zeroed anew for the next. What that alone does for the plain loop is shown beside it.

Some steps of either are timed in turn and several times over; an expert is taken to be EPOCHS epochs of as many steps
as the training set has batches. The ratio is the median of those of the rounds. On a GPU the time of a part is that of
its launches, and the last one waits for the device; only the sum counts. It was never yet run there.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from _team import KEEP_FREED, Team
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from orchestrator.choosing import Trial, choose
from orchestrator.experiment import Resources
from orchestrator.feasibility import Offer
from orchestrator.task import Needs
from tasks.data import Dataset, Transform, augment
from tasks.dataset_distillation.expert_pace import Shape, pace, stacks_to_try
from tasks.dataset_distillation.expert_stack import Chance, Epoch
from tasks.dataset_distillation.expert_training import Batch, Optimizer, expert_loss, train_epoch
from tasks.dataset_distillation.flat import FlatModel, predict
from tasks.nets import Network, build

EPOCHS = 20
LR = 0.01
STRATEGY = "color_crop_cutout_flip_scale_rotate"
PLAIN_THREADS = 2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PARTS = ("loading", "augmentation", "forward, backward, step", "snapshot", "test")


@dataclass(frozen=True)
class Case:
    """What is trained, and for how long it is timed."""

    dataset: Literal["digits", "fashion_mnist"]
    width: int
    depth: int
    batch_size: int
    steps: int
    tested: int
    """Test images that are timed; the time of all of them follows."""
    rounds: int
    experts: int
    """Asked for in all; bounds the stacks that are tried."""


FULL = (
    Case("fashion_mnist", 16, 3, 128, steps=150, tested=10_000, rounds=7, experts=100),
    Case("fashion_mnist", 128, 3, 128, steps=10, tested=1_000, rounds=3, experts=100),
)
SMALL = (Case("digits", 4, 1, 128, steps=2, tested=100, rounds=1, experts=4),)


class Clock:
    """Adds up seconds by part, of EPOCHS epochs: a part is timed for less and `times` as much is counted."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def part(self, name: str, times: float, within: str | None = None) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds = times * (time.perf_counter() - started)
        self.seconds[name] += seconds
        if within:
            self.seconds[within] -= seconds


@dataclass(frozen=True)
class Data:
    images: Tensor
    labels: Tensor
    test_images: Tensor
    classes: int

    @classmethod
    def loaded(cls, name: Literal["digits", "fashion_mnist"]) -> "Data":
        data = Dataset(name=name).load()
        transform = Transform.fit(data.train.images, "normalize")
        train, test = (transform.apply(split.images).to(DEVICE) for split in (data.train, data.test))
        labels = torch.from_numpy(data.train.labels).to(DEVICE)
        return cls(train, labels, test, len(data.classes))

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width


class Worker:
    """Lives in a process of its own: trains as it is told, and answers with the seconds of each part."""

    def __init__(self, case: Case) -> None:
        self.case, self.data = case, Data.loaded(case.dataset)
        self.network = Network(width=case.width, depth=case.depth)
        self.model = FlatModel(build(self.network, self.data.shape, self.data.classes, 0).to(DEVICE))
        self.epochs_of_steps = EPOCHS * math.ceil(len(self.data.images) / case.batch_size) / case.steps
        self.tests = len(self.data.test_images) / case.tested

    def pace(self, threads: int, stack: int) -> float:
        """Experts' steps a second."""
        torch.set_num_threads(threads)
        shape = Shape({}, self.data.shape, self.data.classes, self.case.batch_size, STRATEGY, False)
        return pace(self.model, shape, stack, DEVICE)

    def stack(self, threads: int, stack: int) -> dict[str, float]:
        """A stack of experts, trained as the task does it."""
        torch.set_num_threads(threads)
        clock, case, data = Clock(), self.case, self.data
        weights = self.model.initial().expand(stack, -1).clone()
        with clock.part("augmentation", EPOCHS):
            chance = [Chance.seeded(member, member) for member in range(stack)]
            drawn = Epoch.drawn(chance, data.images, case.batch_size, STRATEGY)
        epoch = TimedEpoch(**vars(drawn), clock=clock, times=self.epochs_of_steps)
        with clock.part(PARTS[2], self.epochs_of_steps):
            batches = islice(epoch.batches(data.images, data.labels), case.steps)
            train_epoch(self._loss, weights, torch.zeros_like(weights), Optimizer(LR), batches).tolist()
        with clock.part("snapshot", EPOCHS):
            weights.to("cpu", copy=True)
        with clock.part("test", self.tests):
            for own in weights:
                predict(self.model, own, data.test_images[: case.tested]).argmax(1).tolist()
        return clock.seconds

    def _loss(self, weights: Tensor, batch: Batch) -> Tensor:
        return expert_loss(self.model.stacked, weights, batch)

    def plain(self, threads: int) -> dict[str, float]:
        """One expert, trained as one would write it down."""
        torch.set_num_threads(threads)
        clock, case, data = Clock(), self.case, self.data
        module = plain_convnet(data.shape, data.classes, case.width, case.depth).to(DEVICE)
        optimizer = torch.optim.SGD(module.parameters(), lr=LR)
        noise = torch.Generator().manual_seed(0)
        dataset = TensorDataset(data.images.cpu(), data.labels.cpu())
        loader = iter(DataLoader(dataset, case.batch_size, shuffle=True))
        losses = []
        for _ in range(case.steps):
            with clock.part("loading", self.epochs_of_steps):
                images, labels = (part.to(DEVICE) for part in next(loader))
            with clock.part("augmentation", self.epochs_of_steps):
                images = augment(images, STRATEGY, noise)
            with clock.part(PARTS[2], self.epochs_of_steps):
                loss = functional.cross_entropy(module(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        with clock.part(PARTS[2], self.epochs_of_steps):
            torch.stack(losses).tolist()
        with clock.part("snapshot", EPOCHS):
            [parameter.detach().to("cpu", copy=True) for parameter in module.parameters()]
        with clock.part("test", EPOCHS * self.tests), torch.no_grad():
            for batch in data.test_images[: case.tested].split(1000):
                module(batch).argmax(1).tolist()
        return clock.seconds


@dataclass(frozen=True)
class TimedEpoch(Epoch):
    """Tells a clock how long its batches take; that lies within the time of the steps."""

    clock: Clock
    times: float

    def batches(self, images: Tensor, labels: Tensor) -> Iterator[Batch]:
        made = super().batches(images, labels)
        while True:
            with self.clock.part("loading", self.times, within=PARTS[2]):
                batch = next(made, None)
            if batch is None:
                return
            yield batch

    def augmented(self, images: Tensor, step: int) -> Tensor:
        with self.clock.part("augmentation", self.times, within="loading"):
            return super().augmented(images, step)


def plain_convnet(shape: tuple[int, int, int], classes: int, width: int, depth: int) -> nn.Module:
    """The same network of torch's own layers."""
    layers: list[nn.Module] = []
    channels, side = shape[0], shape[1]
    for block in range(depth):
        padding = 3 if block == 0 and shape == (1, 28, 28) else 1
        layers += [nn.Conv2d(channels, width, 3, padding=padding), nn.GroupNorm(width, width), nn.ReLU()]
        layers += [nn.AvgPool2d(2)]
        channels, side = width, (side + 2 * padding - 2) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side * side, classes))


def arrangement(case: Case, team: Team, cores: int) -> Trial:
    """Workers, threads and experts a program, chosen as the engine does before the first shard."""
    data = Data.loaded(case.dataset)
    network = Network(width=case.width, depth=case.depth)
    size = 4 * EPOCHS * sum(p.numel() for p in build(network, data.shape, data.classes, 0).parameters())
    stacks = stacks_to_try(DEVICE, experts=case.experts, expert_bytes=size)
    offer = Offer("here", cores, float(DEVICE == "cuda"), 1e6, None)
    needs = Needs(gpus=float(DEVICE == "cuda"))

    def items_per_s(trial: Trial) -> float:
        asked = (trial.workers, "pace", trial.threads, trial.settings["stack"])
        return float(max(sum(team.ask(*asked)) for _ in range(2)))

    best, tried = choose([{"stack": stack} for stack in stacks], needs, Resources(), offer, items_per_s)
    print(
        f"\n{case.dataset}, width {case.width}, depth {case.depth}, batch {case.batch_size}, on {cores} cores"
    )
    print(f"{'workers':>10} {'threads':>10} {'stack':>10} {'steps a s':>12}")
    for trial in tried:
        chosen = " <- chosen" if replace(best, items_per_s=0) == replace(trial, items_per_s=0) else ""
        row = f"{trial.workers:>10} {trial.threads:>10} {trial.settings['stack']:>10} {trial.items_per_s:>12.1f}"
        print(row + chosen)
    return best


@dataclass(frozen=True)
class Found:
    """Seconds an expert by part, of every round."""

    plain: Sequence[Mapping[str, float]]
    kept: Sequence[Mapping[str, float]]
    """The plain loop in a process that keeps freed memory, as ours does."""
    ours: Sequence[Mapping[str, float]]
    """Of all workers together."""
    best: Trial

    def ratio(self, side: Sequence[Mapping[str, float]], parts: Sequence[str] = PARTS) -> float:
        """Median over the rounds of how many times as long a plain loop takes."""
        pairs = zip(side, self.ours, strict=True)
        return statistics.median(_sum(other, parts) / _sum(own, parts) for other, own in pairs)

    def show(self) -> None:
        """The table of parts."""
        print(f"{'seconds an expert':>26} {'plain':>10} {'kept':>10} {'ours':>10}  {len(self.ours)} rounds")
        for name, parts in {**{part: [part] for part in PARTS}, "all": PARTS}.items():
            row = (statistics.median(_sum(each, parts) for each in side) for side in self._sides)
            print(f"{name:>26} " + " ".join(f"{value:10.2f}" for value in row))

    def figures(self) -> dict[str, Any]:
        """What the last line tells of this case."""
        plain, _, ours = (
            statistics.median(3600 / _sum(each, PARTS) for each in side) for side in self._sides
        )
        arrangement = {"workers": self.best.workers, "threads": self.best.threads, **self.best.settings}
        return {
            "ratio": round(self.ratio(self.plain), 2),
            "ratio_without_tests": round(self.ratio(self.plain, PARTS[:-1]), 2),
            "ratio_memory_kept": round(self.ratio(self.kept), 2),
            "experts_per_hour": round(ours, 2),
            "plain_experts_per_hour": round(plain, 2),
            "arrangement": arrangement,
        }

    @property
    def _sides(self) -> tuple[Sequence[Mapping[str, float]], ...]:
        return self.plain, self.kept, self.ours


def _sum(seconds: Mapping[str, float], parts: Sequence[str]) -> float:
    return sum(seconds[part] for part in parts)


def compare(case: Case, cores: int) -> Found:
    """All in turn, `case.rounds` times."""
    plain: list[dict[str, float]] = []
    kept: list[dict[str, float]] = []
    ours: list[dict[str, float]] = []
    with ExitStack() as stack:
        team = Team(partial(Worker, case), cores if DEVICE == "cpu" else 1, stack, KEEP_FREED)
        other = Team(partial(Worker, case), 1, stack, {})
        best = arrangement(case, team, cores)
        experts = best.settings["stack"]
        for _ in range(case.rounds):
            plain += other.ask(1, "plain", PLAIN_THREADS)
            answers = team.ask(best.workers, "stack", best.threads, experts)
            shares = {part: statistics.fmean(answer[part] for answer in answers) for part in PARTS}
            ours.append({part: seconds / experts / len(answers) for part, seconds in shares.items()})
            kept += team.ask(1, "plain", PLAIN_THREADS)
    return Found(plain, kept, ours, best)


def main() -> None:
    """Every case, a table each; then the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a moment's work on the digits, for a test")
    cases = SMALL if parser.parse_args().small else FULL
    cores = len(os.sched_getaffinity(0))
    result: dict[str, Any] = {}
    for case in cases:
        found = compare(case, cores)
        found.show()
        suffix = f"_width_{case.width}" if result else ""
        result |= {f"{name}{suffix}": value for name, value in found.figures().items()}
    result |= {"device": DEVICE, "cores": cores, "epochs": EPOCHS}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
