"""Compares classification losses: datasets x networks x losses x repeats, every cell trained from scratch.

Protocol of EnsLoss (Dai 2025, arXiv 2409.00908) by default: a new 70/30 split for each repeat of a table, SGD with
momentum and a cosine, 300 epochs, and the accuracy after the last epoch: no epoch is picked on the test samples.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from orchestrator.task import (
    Artifact,
    Choices,
    Context,
    Facts,
    Json,
    Needs,
    Output,
    Settings,
    Shard,
    ShardFiles,
    Task,
)
from tasks.binary import BinaryDataset
from tasks.ensloss.stack import Stack
from tasks.ensloss.sweep_cells import Cell, Result, cells_in, cells_of, identity, named
from tasks.ensloss.sweep_config import SweepConfig
from tasks.ensloss.sweep_pace import Shape, pace, stacks_to_try
from tasks.ensloss.sweep_pictures import overfitting, win_loss
from tasks.ensloss.sweep_tables import (
    REFERENCE,
    cell_table,
    compare,
    comparison_table,
    curve_table,
    score_table,
    summary_table,
    sweep_metrics,
)
from tasks.ensloss.training import Curves, Data, Members, Training
from tasks.nets.scoring import ScoringNetwork, build_scoring, scoring_parameters

_ENSLOSS_ALONE = frozenset({"lam", "redraw_every"})
"""Settings that only EnsLoss reads."""


class LossSweep(Task[SweepConfig]):
    """Compares classification losses, EnsLoss among them, over datasets, networks and repeats.

    One shard is one cell, or a stack of cells of one dataset and network; resumable after every epoch.
    """

    version: ClassVar[int] = 1
    makes: ClassVar[str] = "loss_scores"
    Config: ClassVar[type[Settings]] = SweepConfig
    needs: ClassVar[Needs] = Needs(memory_gb=2.0)

    @classmethod
    def describe(cls, config: SweepConfig, inputs: Mapping[str, Facts]) -> Facts:
        datasets = [_described(dataset) for dataset in config.datasets]
        _check_twins(datasets)
        for entry in datasets:
            for network in config.networks:
                scoring_parameters(network, tuple(entry["shape"]))  # refuses what does not fit
        tags = {network.tag: network.model_dump(mode="json") for network in config.networks}
        return {"datasets": datasets, "networks": tags}

    @classmethod
    def shards(cls, config: SweepConfig, facts: Facts) -> Sequence[Shard]:
        found = []
        for entry in sorted(facts["datasets"], key=lambda entry: -entry["rows"]):
            for tag in facts["networks"]:
                rates = config.rates(entry["images"])
                cells = cells_of(entry["label"], tag, rates, config.losses, config.repeats)
                size = config.stack or 1
                stacks = [cells[first : first + size] for first in range(0, len(cells), size)]
                found += [_shard(stack, entry["data"]) for stack in stacks]
        return found

    @classmethod
    def choices(cls, config: SweepConfig, facts: Facts, device: str) -> Choices | None:
        if config.stack is not None:
            return None
        cells = len(config.losses) * config.repeats
        stacks = stacks_to_try(device, cells=cells, groups=len(facts["datasets"]) * len(facts["networks"]))
        if len(stacks) == 1:
            return None
        settings = [{"stack": stack} for stack in stacks]
        return Choices(depends_on=_shape(config, facts).depends_on(), settings=settings)

    @classmethod
    def pace(cls, config: SweepConfig, facts: Facts, device: str) -> float:
        return pace(_shape(config, facts), config.stack or 1, device)

    def __init__(
        self, config: SweepConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts, self.device = config, facts, context.device
        self.datasets = {dataset.label: dataset for dataset in config.datasets}
        self.described = {named(entry["data"]): entry for entry in facts["datasets"]}
        self.networks = {tag: ScoringNetwork.model_validate(kept) for tag, kept in facts["networks"].items()}

    def compute(self, shard: Shard, context: Context) -> Output:
        entry = self.described[shard.identity["data"]]
        cells = cells_in(shard.identity, entry["label"])
        training = self._training(cells, entry, context)
        saved = context.load_progress()
        if saved is not None:
            training.resume(saved)

        def tested(epoch: int) -> None:
            _check(training.stack, cells, epoch)
            context.log(_curve_points(cells, training.curves), step=epoch)

        training.run(tested, context.save_progress)
        return _output(_results(cells, training))

    def _training(self, cells: Sequence[Cell], entry: Facts, context: Context) -> Training:
        data, images = entry["data"], entry["images"]
        network = self.networks[cells[0].network]
        seeds = [context.seed("init", item=_paired(cell, data)) for cell in cells]
        modules = [build_scoring(network, tuple(entry["shape"]), seed).to(self.device) for seed in seeds]
        split_seeds = [0 if images else context.seed("split", item=_split(cell, data)) for cell in cells]
        unique = list(dict.fromkeys(split_seeds))

        def seed(stream: str, member: int, epoch: int) -> int:
            item = _paired(cells[member], data) if stream == "order" else identity([cells[member]], data)
            return context.seed(stream, epoch, item=item)

        members = Members(
            losses=[cell.loss for cell in cells],
            lrs=torch.tensor([cell.lr for cell in cells], dtype=torch.float64),
            splits=torch.tensor([unique.index(own) for own in split_seeds]),
            seed=seed,
        )
        return Training(Stack(modules), self._data(entry, unique), members, self.config.recipe(images))

    def _data(self, entry: Facts, seeds: Sequence[int]) -> Data:
        """The splits of these seeds on the device."""
        dataset = self.datasets[entry["label"]]
        if dataset.content_digest() != entry["data"]:
            raise ValueError(
                f"dataset {dataset.label}: its content changed since it was planned; run it again"
            )
        splits = [dataset.load().split(seed, self.config.test_share) for seed in seeds]
        return Data(*(torch.stack(parts).to(self.device) for parts in zip(*splits, strict=True)))

    @classmethod
    def close(
        cls,
        config: SweepConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        labels = {named(entry["data"]): entry["label"] for entry in facts["datasets"]}
        results = [
            Result.from_json(told, labels[shard.identity["data"]])
            for shard in shards
            for told in shard.document("results")
        ]
        comparisons = compare(results)
        reference = REFERENCE if REFERENCE in config.losses else config.losses[0]
        context.preview("curves", overfitting(results))
        tables = {
            "cells": cell_table(results),
            "curves": curve_table(results),
            "scores": score_table(results),
            "summary": summary_table(results, comparisons, config.alpha),
        }
        if comparisons:
            context.preview("win_loss", win_loss(comparisons, reference, config.alpha))
            tables["comparisons"] = comparison_table(comparisons, config.alpha)
        return Output(tables=tables, metrics=sweep_metrics(results))


def _described(dataset: BinaryDataset) -> dict[str, Json]:
    data = dataset.load()
    return {
        "label": dataset.label, "data": dataset.content_digest(), "rows": data.rows,
        "positive_rate": data.positive_rate, "shape": list(data.shape), "images": data.is_images,
    }  # fmt: skip


def _check_twins(datasets: Sequence[Facts]) -> None:
    """Two datasets of one name could not be told apart in a table, nor two of the same content in a shard."""
    for what, advice in (("label", "give one of them a `title`"), ("data", "leave one of them out")):
        seen: dict[str, Json] = {}
        for entry in datasets:
            if entry[what] in seen:
                same = (
                    f"two are called {entry['label']!r}"
                    if what == "label"
                    else (f"{seen[entry[what]]!r} and {entry['label']!r} hold the same data")
                )
                raise ValueError(f"datasets: {same}; {advice}")
            seen[entry[what]] = entry["label"]


def _shard(cells: Sequence[Cell], data: str) -> Shard:
    unread = frozenset[str]() if any(cell.loss == "ensloss" for cell in cells) else _ENSLOSS_ALONE
    return Shard(identity(cells, data), unread, disk_bytes=8192 * len(cells))


def _split(cell: Cell, data: str) -> dict[str, Json]:
    """What a split depends on: a repeat has one, for all networks, losses and rates."""
    return {"data": data, "repeat": cell.repeat}


def _paired(cell: Cell, data: str) -> dict[str, Json]:
    """What the first weights and the order of the samples depend on: not the loss, nor the rate, so that a repeat
    compares them on equal terms."""
    return {**_split(cell, data), "network": cell.network}


def _check(stack: Stack, cells: Sequence[Cell], epoch: int) -> None:
    for cell, fine in zip(cells, stack.finite(), strict=True):
        if not fine:
            raise ValueError(
                f"{cell.dataset}, {cell.network}, {cell.loss}, repeat {cell.repeat}: weights are not finite after "
                f"epoch {epoch}; lower lr ({cell.lr:g})"
            )


def _curve_points(cells: Sequence[Cell], curves: Curves) -> dict[str, float]:
    """`LOSS_accuracy` and `LOSS_train_accuracy` at the last test: means over the cells of this shard."""
    points: dict[str, list[float]] = {}
    for cell, train, test in zip(cells, curves.train[-1], curves.test[-1], strict=True):
        points.setdefault(f"{cell.loss}_accuracy", []).append(test)
        points.setdefault(f"{cell.loss}_train_accuracy", []).append(train)
    return {name: math.fsum(values) / len(values) for name, values in points.items()}


def _results(cells: Sequence[Cell], training: Training) -> list[Result]:
    curves = training.curves
    areas = map(_area, training.scores("test"), training.truth("test"))
    train, test = (tuple(zip(*rows, strict=True)) for rows in (curves.train, curves.test))
    return [
        Result(cell, own_train[-1], own_test[-1], area, tuple(curves.epochs), own_train, own_test)
        for cell, own_train, own_test, area in zip(cells, train, test, areas, strict=True)
    ]


def _area(scores: Tensor, labels: Tensor) -> float | None:
    """Under the ROC curve; None where all labels are the same."""
    from sklearn.metrics import roc_auc_score  # slow to import, and a plan does without

    if len(labels.unique()) < 2:
        return None
    return float(roc_auc_score(labels.numpy(), scores.numpy()))


def _output(results: Sequence[Result]) -> Output:
    mean = math.fsum(result.test_accuracy for result in results) / len(results)
    return Output(
        documents={"results": [result.to_json() for result in results]}, metrics={"test_accuracy": mean}
    )


def _shape(config: SweepConfig, facts: Facts) -> Shape:
    """Of the sweep's middle dataset."""
    entries = sorted(facts["datasets"], key=lambda entry: math.prod(entry["shape"]))
    middle = entries[len(entries) // 2]
    return Shape(
        networks=tuple(facts["networks"].values()),
        inputs=tuple(middle["shape"]),
        batch_size=config.batch_size,
    )
