"""Takes over expert trajectories that others have trained and published as MTT's buffer files.

Source of the layout: the published code of MTT (Cazenavette et al. 2022).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator

from orchestrator.task import Artifact, Context, Facts, Needs, Output, Settings, Shard, ShardFiles, Task
from tasks.data import Dataset, Transform, check_strategy
from tasks.data.digest import digest_of_files
from tasks.dataset_distillation.buffers import buffer_files, check_shapes, flat_snapshots, read_buffer
from tasks.dataset_distillation.flat import accuracy
from tasks.dataset_distillation.foreign_path import ForeignPath
from tasks.dataset_distillation.trajectories import (
    DSA,
    KIND,
    PRECISIONS,
    close_trajectories,
    flat_model,
    prepare,
    snapshot_tensors,
    trajectory_facts,
)
from tasks.nets import Network


class BufferPath(ForeignPath):
    """A replay_buffer_*.pt, or the folder that holds them; known by the content of its files."""

    def files(self) -> list[Path]:
        return buffer_files(Path(self.path))

    def content_digest(self) -> str:
        labelled = {f"{number:06}": path for number, path in enumerate(self.files())}
        return digest_of_files("trajectory buffers", labelled)


class ImportConfig(Settings):
    """Settings of import_trajectories. What the files do not say must be given as it was at training."""

    path: BufferPath
    """A replay_buffer_*.pt, or the folder that holds them."""
    dataset: Dataset
    """The images the experts were trained on."""
    network: Network = Network()
    """The network they were."""
    last_epoch: int | None = Field(default=None, gt=0)
    """Take snapshots up to this epoch only; none takes all."""
    transform: Literal["normalize", "zca"] = "normalize"
    """How their pixels were transformed."""
    augment: str = DSA
    """The DSA strategy they were trained with; empty for none."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """The momentum they were trained with."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """Number format of the snapshots kept."""

    @field_validator("augment")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        check_strategy(value)
        return value


class ImportTrajectories(Task[ImportConfig]):
    """Takes over experts that MTT's own code has trained.

    One shard is one expert.
    """

    version: ClassVar[int] = 1
    makes: ClassVar[str] = KIND
    Config: ClassVar[type[Settings]] = ImportConfig
    needs: ClassVar[Needs] = Needs(memory_gb=2.0)

    @classmethod
    def describe(cls, config: ImportConfig, inputs: Mapping[str, Facts]) -> Facts:
        facts = trajectory_facts(
            config.dataset,
            config.network,
            transform=config.transform,
            augment=config.augment,
            momentum=config.momentum,
        )
        files, shapes = config.path.files(), flat_model(facts, "cpu").shapes
        lengths = {path: _lengths(path, shapes) for path in files}
        return {
            **facts,
            "epochs": _common_epochs(lengths, config.last_epoch),
            "experts": sum(map(len, lengths.values())),
            "experts_per_file": [len(epochs) for epochs in lengths.values()],
        }

    @classmethod
    def shards(cls, config: ImportConfig, facts: Facts) -> Sequence[Shard]:
        weights = flat_model(facts, "cpu").size
        size = weights * (facts["epochs"] + 1) * PRECISIONS[config.precision].itemsize
        return [Shard(identity={"expert": expert}, disk_bytes=size) for expert in range(facts["experts"])]

    def __init__(
        self, config: ImportConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts = config, facts
        self.model = flat_model(facts, context.device)
        data = config.dataset.load()
        self.test = prepare(data.test, Transform.fit(data.train.images, config.transform), context.device)

    def compute(self, shard: Shard, context: Context) -> Output:
        expert = self._read(shard.identity["expert"])
        snapshots = flat_snapshots(expert, self.facts["epochs"])
        if not snapshots.isfinite().all():
            raise ValueError(
                f"{self.config.path.path}: expert {shard.identity['expert']} holds weights not finite"
            )
        snapshots = snapshots.to(PRECISIONS[self.config.precision])
        score = accuracy(self.model, snapshots[-1].float().to(context.device), *self.test)
        return Output(
            tensors={"weights": snapshot_tensors(self.model, snapshots)}, metrics={"test_accuracy": score}
        )

    def _read(self, expert: int) -> Sequence[Sequence[torch.Tensor]]:
        where = f"{self.config.path.path}: expert {expert}"
        for path, count in zip(self.config.path.files(), self.facts["experts_per_file"], strict=True):
            if expert < count:
                found = read_buffer(path)[expert]
                check_shapes(found, self.model.shapes, where)
                return found
            expert -= count
        raise AssertionError(f"{where}: not in the files")

    @classmethod
    def close(
        cls,
        config: ImportConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        return close_trajectories(config.dataset, facts, shards)


def _lengths(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
    """The number of epochs of each expert in a file whose experts all fit the network's shapes."""
    experts = read_buffer(path)
    for number, expert in enumerate(experts):
        check_shapes(expert, shapes, f"{path}: expert {number}")
    return [len(expert) - 1 for expert in experts]


def _common_epochs(lengths: Mapping[Path, Sequence[int]], last_epoch: int | None) -> int:
    """The last epoch to take: `last_epoch`, or the one that all experts share."""
    found = {epochs: path for path, experts in lengths.items() for epochs in experts}
    shortest, longest = min(found), max(found)
    if shortest < 1:
        raise ValueError(f"path: {found[shortest]} has an expert of one snapshot; matching needs two or more")
    if last_epoch is not None and last_epoch > shortest:
        raise ValueError(
            f"last_epoch: {last_epoch} asked for, an expert of {found[shortest]} has {shortest}; lower it"
        )
    if last_epoch is None and shortest != longest:
        raise ValueError(
            f"path: experts of {shortest} epochs in {found[shortest]} and of {longest} in {found[longest]}; "
            f"set last_epoch to {shortest} or less"
        )
    return last_epoch or shortest
