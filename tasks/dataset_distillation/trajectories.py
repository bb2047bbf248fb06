"""What every maker of the artifact kind "trajectories" shares: its facts, its layout, its closing step.

Each shard is one expert, or a stack of experts that were trained as one program. The file `weights` (in a
stack `weights_0`, `weights_1` ... by the expert's number) holds, by parameter name, the snapshots
(epochs + 1, *shape): row 0 at initialisation, row e after epoch e. `experts_of` gives the experts one by one
whatever the stacks. The closing file `transform` holds the statistics of the pixels, so that every consumer
sees the images as the experts did.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from orchestrator.task import Facts, Json, Output, ShardFiles
from tasks.data import Dataset, Split, Transform
from tasks.dataset_distillation.flat import FlatModel
from tasks.nets import Network, build, resolve

KIND = "trajectories"
DSA = "color_crop_cutout_flip_scale_rotate"
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}


class Expert(Protocol):
    """Read-only view of one expert; a shard of one expert is such a view itself."""

    @property
    def identity(self) -> Mapping[str, Json]: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    def tensors(self, name: str, rows: Sequence[int] | None = None) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Member:
    """An expert within a stack, seen as if it had a shard of its own."""

    stack: ShardFiles
    number: int

    @property
    def identity(self) -> Mapping[str, Json]:
        return {"expert": self.number}

    @property
    def metrics(self) -> Mapping[str, float]:
        found: Mapping[str, float] = self.stack.facts["metrics"][str(self.number)]
        return found

    def tensors(self, name: str, rows: Sequence[int] | None = None) -> dict[str, Tensor]:
        return self.stack.tensors(f"{name}_{self.number}", rows)


def stack_identity(experts: range) -> dict[str, Json]:
    """What tells a shard of these experts from its siblings; a single expert is a stack of its own."""
    if len(experts) == 1:
        return {"expert": experts[0]}
    return {"first_expert": experts[0], "last_expert": experts[-1]}


def numbers(identity: Mapping[str, Json]) -> range:
    """The experts of a shard: `stack_identity` undone."""
    first, last = (identity.get(end, identity.get("expert")) for end in ("first_expert", "last_expert"))
    return range(first, last + 1)


def stack_output(
    tensors: Sequence[Mapping[str, Tensor]], metrics: Mapping[int, Mapping[str, float]]
) -> Output:
    """What a shard makes of its experts' snapshots and of their metrics by expert."""
    if len(metrics) == 1:
        return Output(tensors={"weights": tensors[0]}, metrics=next(iter(metrics.values())))
    names = next(iter(metrics.values()))
    return Output(
        tensors={f"weights_{number}": own for number, own in zip(metrics, tensors, strict=True)},
        facts={"metrics": {str(number): dict(own) for number, own in metrics.items()}},
        metrics={name: statistics.fmean(own[name] for own in metrics.values()) for name in names},
    )


def experts_of(shards: Sequence[ShardFiles]) -> list[Expert]:
    """The experts of the shards of trajectories, in their order, whatever the stacks they were trained in."""
    experts: list[Expert] = []
    for shard in shards:
        members = numbers(shard.identity)
        experts += [shard] if len(members) == 1 else [Member(shard, number) for number in members]
    return experts


def trajectory_facts(
    dataset: Dataset,
    network: Network,
    *,
    transform: str,
    augment: str,
    momentum: float,
) -> dict[str, Json]:
    """Facts of trajectories without `epochs` and `experts`. ValueError for a network that does not fit."""
    data = dataset.load()
    network = resolve(network, data.shape, len(data.classes))
    return {
        "dataset": dataset.model_dump(mode="json"),
        "data_digest": dataset.content_digest(),
        "shape": list(data.shape),
        "classes": len(data.classes),
        "network": network.model_dump(mode="json"),
        "transform": transform,
        "augment": augment,
        "momentum": momentum,
    }


def flat_model(facts: Facts, device: str, seed: int = 0) -> FlatModel:
    """The network of the facts of trajectories or of a distilled set, initialised by `seed`."""
    c, h, w = facts["shape"]
    module = build(Network.model_validate(facts["network"]), (c, h, w), facts["classes"], seed)
    return FlatModel(module.to(device))


def prepare(split: Split, transform: Transform, device: str) -> tuple[Tensor, Tensor]:
    """Images (N,C,H,W) in the transformed space and labels (N,), both on the device."""
    return transform.apply(split.images).to(device), torch.from_numpy(split.labels).to(device)


def snapshot_tensors(model: FlatModel, snapshots: Tensor) -> dict[str, Tensor]:
    """Flat snapshots (epochs + 1, P) as the file `weights` of a shard holds them."""
    return {name: value.contiguous() for name, value in model.unflatten(snapshots).items()}


def read_snapshots(model: FlatModel, expert: Expert, epochs: Sequence[int]) -> Tensor:
    """The snapshots (len(epochs), P) after these epochs, as fp32; only these are read."""
    tensors = expert.tensors("weights", rows=epochs)
    return model.flatten({name: value.float() for name, value in tensors.items()})


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the mean; the error of a single value is 0."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), spread / math.sqrt(len(values))


def close_trajectories(dataset: Dataset, facts: Facts, shards: Sequence[ShardFiles]) -> Output:
    """The transform's statistics, and the experts' mean test accuracy with its standard error."""
    transform = Transform.fit(dataset.load().train.images, facts["transform"])
    mean, error = mean_and_error([expert.metrics["test_accuracy"] for expert in experts_of(shards)])
    return Output(
        tensors={"transform": transform.tensors()},
        metrics={"test_accuracy": mean, "test_accuracy_se": error},
    )
