"""Trains experts on real images and keeps their weights after every epoch.

Source: MTT (Cazenavette et al. 2022); with its switches on, AST (Shen, Yang, Lam 2023, arXiv 2310.10541).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from orchestrator.task import (
    Artifact,
    Context,
    Facts,
    Needs,
    Output,
    Progress,
    Role,
    Settings,
    Shard,
    ShardFiles,
    Task,
)
from tasks.data import Dataset, Transform, augment, check_strategy
from tasks.dataset_distillation.expert_training import (
    Optimizer,
    batches,
    expert_loss,
    learning_rate,
    loss_scale,
    restarts,
    train_epoch,
)
from tasks.dataset_distillation.flat import accuracy
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
from tasks.nets import Network, parameter_count


class ExpertConfig(Settings):
    """Settings of expert_trajectories; the defaults are those of MTT."""

    dataset: Dataset
    """The real images, e.g. `digits`."""
    network: Network = Network()
    """The network that is trained; width and depth left out follow the image size."""
    experts: Annotated[int, Role.PLAN] = Field(default=100, gt=0)
    """Number of experts. More of them reuse the ones already trained."""
    epochs: int = Field(default=50, gt=0)
    """Epochs of the whole schedule."""
    last_epoch: int | None = Field(default=None, gt=0)
    """Stop after this epoch, the schedule still following `epochs`; none means after the last.
    Matching reads snapshots 0 .. max_start_epoch - 1 + expert_epochs only."""
    batch_size: int = Field(default=256, gt=0)
    """Images a step."""
    lr: float = Field(default=0.01, gt=0)
    """Learning rate of SGD."""
    lr_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the learning rate after epoch index epochs//2+1, where momentum starts anew; 1 keeps it
    constant (MTT), 0.6 is AST's."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of SGD, a fraction."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty on all weights, added to their gradient."""
    loss_scale: bool = False
    """AST: scale the cross entropy by .50, .55 ... .95 in the first ten epochs."""
    gradient_penalty: float = Field(default=0.0, ge=0)
    """AST: weight of the penalty on input gradients; 0 leaves it out, 1 is AST's."""
    transform: Literal["normalize", "zca"] = "normalize"
    """Pixels to network input: mean and standard deviation of each channel, or ZCA whitening."""
    augment: str = DSA
    """DSA strategy on every batch, e.g. `color_crop_scale_rotate`; empty for none."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """Number format of the snapshots kept."""

    @field_validator("augment")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        check_strategy(value)
        return value

    @model_validator(mode="after")
    def _last_within_schedule(self) -> "ExpertConfig":
        if self.last_epoch is not None and self.last_epoch > self.epochs:
            raise ValueError(
                f"last_epoch {self.last_epoch} lies beyond epochs {self.epochs}; lower last_epoch"
            )
        return self

    @property
    def kept_epochs(self) -> int:
        """The last epoch that is trained and kept."""
        return self.last_epoch or self.epochs


@dataclass
class Training:
    """An expert under way: weights, velocity (P,); snapshots so far, one more than losses, one an epoch."""

    weights: Tensor
    velocity: Tensor
    snapshots: list[Tensor]
    losses: list[float]

    def progress(self) -> Progress:
        tensors = {
            "weights": self.weights.to("cpu", copy=True),
            "velocity": self.velocity.to("cpu", copy=True),
            "snapshots": torch.stack(self.snapshots),
        }
        return Progress(tensors=tensors, facts={"losses": list(self.losses)})

    @classmethod
    def resume(cls, saved: Progress, device: str) -> "Training":
        weights, velocity = (saved.tensors[name].to(device, copy=True) for name in ("weights", "velocity"))
        return cls(weights, velocity, list(saved.tensors["snapshots"]), list(saved.facts["losses"]))


class ExpertTrajectories(Task[ExpertConfig]):
    """Trains experts on real images and keeps their weights after every epoch.

    One shard is one expert, resumable after every epoch.
    """

    version: ClassVar[int] = 1
    makes: ClassVar[str] = KIND
    Config: ClassVar[type[Settings]] = ExpertConfig
    needs: ClassVar[Needs] = Needs(memory_gb=2.0)

    @classmethod
    def describe(cls, config: ExpertConfig, inputs: Mapping[str, Facts]) -> Facts:
        facts = trajectory_facts(
            config.dataset,
            config.network,
            transform=config.transform,
            augment=config.augment,
            momentum=config.momentum,
        )
        return {**facts, "epochs": config.kept_epochs, "experts": config.experts}

    @classmethod
    def shards(cls, config: ExpertConfig, facts: Facts) -> Sequence[Shard]:
        c, h, w = facts["shape"]
        weights = parameter_count(Network.model_validate(facts["network"]), (c, h, w), facts["classes"])
        size = weights * (config.kept_epochs + 1) * PRECISIONS[config.precision].itemsize
        return [Shard(identity={"expert": expert}, disk_bytes=size) for expert in range(config.experts)]

    def __init__(
        self, config: ExpertConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts = config, facts
        data = config.dataset.load()
        transform = Transform.fit(data.train.images, config.transform)
        self.images, self.labels = prepare(data.train, transform, context.device)
        self.test = prepare(data.test, transform, context.device)

    def compute(self, shard: Shard, context: Context) -> Output:
        self.model = flat_model(self.facts, context.device, context.seed("init"))
        state = self._begin(context)
        for epoch in range(len(state.losses), self.config.kept_epochs):
            state.losses.append(self._train(state, epoch, context))
            self._check(state, shard, epoch)
            state.snapshots.append(self._snapshot(state.weights))
            context.log({"train_loss": state.losses[-1]}, step=epoch + 1)
            context.save_progress(state.progress)
        return self._finish(state, context)

    def _begin(self, context: Context) -> Training:
        saved = context.load_progress()
        if saved is not None:
            return Training.resume(saved, context.device)
        weights = self.model.initial()
        return Training(weights, torch.zeros_like(weights), [self._snapshot(weights)], [])

    def _snapshot(self, weights: Tensor) -> Tensor:
        return weights.detach().to("cpu", PRECISIONS[self.config.precision], copy=True)

    def _train(self, state: Training, epoch: int, context: Context) -> float:
        """One epoch in place; the mean training loss of its batches."""
        config = self.config
        scale = loss_scale(epoch) if config.loss_scale else 1.0
        order = torch.Generator().manual_seed(context.seed("epoch", epoch))
        noise = torch.Generator().manual_seed(context.seed("augment", epoch))

        def loss(weights: Tensor, number: int, indices: Tensor) -> Tensor:
            indices = indices.to(self.images.device)
            images, labels = self.images[indices], self.labels[indices]
            augmented = augment(images, config.augment, noise)
            return expert_loss(
                self.model, weights, images, augmented, labels, scale=scale, penalty=config.gradient_penalty
            )

        if restarts(epoch, decay=config.lr_decay, epochs=config.epochs):
            state.velocity.zero_()
        lr = learning_rate(epoch, lr=config.lr, decay=config.lr_decay, epochs=config.epochs)
        optimizer = Optimizer(lr, config.momentum, config.weight_decay)
        steps = batches(len(self.images), config.batch_size, order)
        return train_epoch(loss, state.weights, state.velocity, optimizer, steps)

    def _check(self, state: Training, shard: Shard, epoch: int) -> None:
        if not math.isfinite(state.losses[-1]) or not state.weights.isfinite().all():
            raise ValueError(
                f"expert {shard.identity['expert']}: not finite after epoch {epoch + 1}, loss {state.losses[-1]}; "
                f"lower lr ({self.config.lr}) or the network's depth ({self.facts['network']['depth']})"
            )

    def _finish(self, state: Training, context: Context) -> Output:
        score = accuracy(self.model, state.weights, *self.test)
        context.log({"test_accuracy": score}, step=self.config.kept_epochs)
        return Output(
            tensors={"weights": snapshot_tensors(self.model, torch.stack(state.snapshots))},
            metrics={"test_accuracy": score, "train_loss": state.losses[-1]},
        )

    @classmethod
    def close(
        cls,
        config: ExpertConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        return close_trajectories(config.dataset, facts, shards)
