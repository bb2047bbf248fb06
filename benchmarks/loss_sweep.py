"""Cells per hour of a loss sweep: as the task loss_sweep trains them, over the way of EnsLoss's author.

The author's network, 1024 wide, at depth 1, 3 and 5, on a table of 3,500 rows and 30 features: 70 percent of them to
train on, batch 128, SGD with momentum 0.9, losses EnsLoss, BCE, hinge and exponential in equal shares, training and
test accuracy every 10 of 300 epochs, float32. Prints tables and, last, one line of JSON: {"ratio", ...}. Needs torch
only, no Ray:

    .venv/bin/python benchmarks/loss_sweep.py

The author's way: one cell after another, a DataLoader over tensors in memory, torch's own losses and SGD (EnsLoss by
the very functions of ours), two threads, tests through a DataLoader with batches of 32. Ours: the functions of the
task, in as many processes of as many threads, and so many cells in one program, as a measurement just before finds best
on this device. Both train some epochs in turn, several times over; the ratio is the median of those of the rounds.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from _team import KEEP_FREED, Team
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from orchestrator.choosing import Trial, choose
from orchestrator.experiment import Resources
from orchestrator.feasibility import Offer
from orchestrator.task import Needs
from tasks.ensloss.loss import EnsLoss
from tasks.ensloss.stack import Stack
from tasks.ensloss.sweep_pace import Shape, pace, stacks_to_try
from tasks.ensloss.training import Data, Members, Recipe, Training
from tasks.nets.scoring import ScoringNetwork, build_scoring

LOSSES = ("ensloss", "bce", "hinge", "exponential")
EPOCHS, TEST_EVERY, REPEATS = 300, 10, 10
PLAIN_THREADS = 2
LR, MOMENTUM, WEIGHT_DECAY, BATCH, TEST_BATCH = 1e-4, 0.9, 5e-6, 128, 32
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PARTS = ("steps", "tests")


@dataclass(frozen=True)
class Case:
    """What is trained, and for how long it is timed."""

    depth: int
    width: int = 1024
    rows: int = 3500
    features: int = 30
    epochs: int = 4
    """Of every loss, in each round."""
    rounds: int = 5

    @property
    def network(self) -> ScoringNetwork:
        return ScoringNetwork(name="tabular_mlp", width=self.width, depth=self.depth)

    def data(self, copies: int = 1) -> Data:
        """Random numbers: only time is measured."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(copies, self.rows, self.features, generator=generator).to(DEVICE)
        labels = (inputs.sum(2) > 0).float() * 2 - 1
        cut = int(0.7 * self.rows)
        return Data(inputs[:, :cut], labels[:, :cut], inputs[:, cut:], labels[:, cut:])


FULL = (Case(1, epochs=8), Case(3), Case(5, epochs=2))
SMALL = (Case(1, width=8, rows=200, epochs=1, rounds=1),)


class Worker:
    """Lives in a process of its own: trains as it is told, and answers with the seconds of each part of a cell."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def pace(self, threads: int, stack: int) -> float:
        """Cells' steps a second."""
        torch.set_num_threads(threads)
        shape = Shape((self.case.network.model_dump(mode="json"),), (self.case.features,), BATCH)
        return pace(shape, stack, DEVICE)

    def ours(self, threads: int, stack: int) -> dict[str, float]:
        """Seconds of an average cell, by stacks that hold all losses in turn."""
        torch.set_num_threads(threads)
        cells = [LOSSES[number % len(LOSSES)] for number in range(max(stack, len(LOSSES)))]
        stacks = [cells[first : first + stack] for first in range(0, len(cells), stack)]
        seconds = [self._trained(losses) for losses in stacks]
        return {part: sum(one[part] for one in seconds) / len(cells) for part in PARTS}

    def _trained(self, losses: Sequence[str]) -> dict[str, float]:
        case, size = self.case, len(losses)
        modules = [build_scoring(case.network, (case.features,), member).to(DEVICE) for member in range(size)]
        rates = torch.full((size,), LR, dtype=torch.float64)
        members = Members(losses, rates, torch.arange(size), lambda stream, member, epoch: member + epoch)
        recipe = Recipe(
            epochs=EPOCHS, batch_size=BATCH, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, test_every=TEST_EVERY,
            lam=0.0, redraw_every=None,
        )  # fmt: skip
        training = Training(Stack(modules), case.data(size), members, recipe)
        started = time.perf_counter()
        for _ in range(case.epochs):
            training.train_epoch()
        training.stack.finite()  # waits for the device
        middle = time.perf_counter()
        for split in ("train", "test"):
            (training.scores(split) > 0).sum()
        return _whole(case, middle - started, time.perf_counter() - middle)

    def plain(self, threads: int) -> dict[str, float]:
        """Seconds of an average cell, as one would write it down."""
        torch.set_num_threads(threads)
        seconds = [self._plain(loss) for loss in LOSSES]
        return {part: statistics.fmean(one[part] for one in seconds) for part in PARTS}

    def _plain(self, name: str) -> dict[str, float]:
        case, data = self.case, self.case.data()
        train = TensorDataset(data.train_x[0].cpu(), data.train_y[0].cpu())
        test = TensorDataset(data.test_x[0].cpu(), data.test_y[0].cpu())
        loader = DataLoader(train, BATCH, shuffle=True)
        module = build_scoring(case.network, (case.features,), 0).to(DEVICE)
        optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        loss = PlainLoss(name)
        started = time.perf_counter()
        for _ in range(case.epochs):
            for inputs, labels in loader:
                optimizer.zero_grad()
                loss(module(inputs.to(DEVICE)), labels.to(DEVICE)).backward()
                if name == "exponential":
                    nn.utils.clip_grad_norm_(module.parameters(), 10)
                optimizer.step()
        next(module.parameters()).sum().item()  # waits for the device
        middle = time.perf_counter()
        for samples, batch in ((train, BATCH), (test, TEST_BATCH)):
            judged(module, DataLoader(samples, batch))
        return _whole(case, middle - started, time.perf_counter() - middle)


class PlainLoss:
    """The losses as torch has them; EnsLoss by its module."""

    def __init__(self, name: str) -> None:
        self.name, self.ensloss = name, EnsLoss()

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        if self.name == "ensloss":
            return self.ensloss(scores, labels)
        if self.name == "bce":
            return functional.binary_cross_entropy_with_logits(scores, (labels + 1) / 2)
        margins = labels * scores
        return (1 - margins).clamp(min=0).mean() if self.name == "hinge" else (-margins).exp().mean()


def judged(module: nn.Module, loader: DataLoader[tuple[Tensor, ...]]) -> float:
    """Accuracy, batch by batch."""
    module.eval()
    with torch.no_grad():
        right = [
            int(((module(inputs.to(DEVICE)) > 0) == (labels.to(DEVICE) > 0)).sum())
            for inputs, labels in loader
        ]
    module.train()
    return sum(right) / len(right)


def _whole(case: Case, steps: float, tests: float) -> dict[str, float]:
    """Of a whole cell, from some epochs and one test of both splits."""
    return {"steps": steps * EPOCHS / case.epochs, "tests": tests * EPOCHS / TEST_EVERY}


def arrangement(case: Case, team: Team, cores: int) -> Trial:
    """Workers, threads and cells a program, chosen as the engine does before the first shard."""
    stacks = stacks_to_try(DEVICE, cells=len(LOSSES) * REPEATS, groups=1)
    offer = Offer("here", cores, float(DEVICE == "cuda"), 1e6, None)
    needs = Needs(gpus=float(DEVICE == "cuda"))

    def items_per_s(trial: Trial) -> float:
        asked = (trial.workers, "pace", trial.threads, trial.settings["stack"])
        return float(max(sum(team.ask(*asked)) for _ in range(2)))

    best, tried = choose([{"stack": stack} for stack in stacks], needs, Resources(), offer, items_per_s)
    print(
        f"\ndepth {case.depth}, width {case.width}, {case.rows} rows, {case.features} features, {cores} cores"
    )
    print(f"{'workers':>10} {'threads':>10} {'stack':>10} {'steps a s':>12}")
    for trial in tried:
        chosen = " <- chosen" if replace(best, items_per_s=0) == replace(trial, items_per_s=0) else ""
        row = f"{trial.workers:>10} {trial.threads:>10} {trial.settings['stack']:>10} {trial.items_per_s:>12.1f}"
        print(row + chosen)
    return best


def compare(case: Case, cores: int) -> dict[str, Any]:
    """Both in turn, `case.rounds` times; prints the table of parts."""
    plain: list[Mapping[str, float]] = []
    ours: list[Mapping[str, float]] = []
    with ExitStack() as stack:
        team = Team(partial(Worker, case), cores if DEVICE == "cpu" else 1, stack, KEEP_FREED)
        other = Team(partial(Worker, case), 1, stack, {})
        best = arrangement(case, team, cores)
        for _ in range(case.rounds):
            plain += other.ask(1, "plain", PLAIN_THREADS)
            answers = team.ask(best.workers, "ours", best.threads, best.settings["stack"])
            ours.append(
                {part: statistics.fmean(one[part] for one in answers) / len(answers) for part in PARTS}
            )
    print(f"{'seconds a cell':>26} {'plain':>10} {'ours':>10}  {case.rounds} rounds")
    for name, parts in (("steps", PARTS[:1]), ("tests", PARTS[1:]), ("all", PARTS)):
        row = (statistics.median(_sum(one, parts) for one in side) for side in (plain, ours))
        print(f"{name:>26} " + " ".join(f"{value:10.2f}" for value in row))
    return {
        "ratio": round(_ratio(plain, ours, PARTS), 2),
        "ratio_without_tests": round(_ratio(plain, ours, PARTS[:1]), 2),
        "cells_per_hour": round(statistics.median(3600 / _sum(one, PARTS) for one in ours), 1),
        "arrangement": {"workers": best.workers, "threads": best.threads, **best.settings},
    }


def _ratio(
    plain: Sequence[Mapping[str, float]], ours: Sequence[Mapping[str, float]], parts: Sequence[str]
) -> float:
    return statistics.median(_sum(p, parts) / _sum(o, parts) for p, o in zip(plain, ours, strict=True))


def _sum(seconds: Mapping[str, float], parts: Sequence[str]) -> float:
    return sum(seconds[part] for part in parts)


def main() -> None:
    """Every depth, a table each; then the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a moment's work, for a test")
    cases = SMALL if parser.parse_args().small else FULL
    cores = len(os.sched_getaffinity(0))
    result: dict[str, Any] = {}
    for case in cases:
        suffix = f"_depth_{case.depth}" if result else ""
        result |= {f"{name}{suffix}": value for name, value in compare(case, cores).items()}
    print(json.dumps(result | {"device": DEVICE, "cores": cores, "epochs": EPOCHS}))


if __name__ == "__main__":
    main()
