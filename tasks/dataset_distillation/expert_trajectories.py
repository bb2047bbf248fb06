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
    Choices,
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
from tasks.data import Dataset, Transform, check_strategy
from tasks.dataset_distillation.expert_pace import Shape, pace, stacks_to_try
from tasks.dataset_distillation.expert_stack import Chance, Epoch
from tasks.dataset_distillation.expert_training import (
    Batch,
    Optimizer,
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
    numbers,
    prepare,
    snapshot_tensors,
    stack_identity,
    stack_output,
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
    stack: Annotated[int | None, Role.PLAN] = Field(default=None, gt=0)
    """Number of experts that train as one program, and are one shard; none: the fastest on the device at hand,
    measured once. Their paths do not depend on it, beyond rounding."""
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
    """S experts under way: weights, velocity (S,P); snapshots so far, one more than losses, one an epoch."""

    weights: Tensor
    velocity: Tensor
    snapshots: list[Tensor]
    losses: list[list[float]]

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

    One shard is one expert, or a stack of them that train as one program; resumable after every epoch.
    """

    version: ClassVar[int] = 2
    makes: ClassVar[str] = KIND
    tolerant: ClassVar[bool] = True
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
        stack, every = config.stack or 1, range(config.experts)
        stacks = [every[first : first + stack] for first in every[::stack]]
        return [Shard(identity=stack_identity(own), disk_bytes=size * len(own)) for own in stacks]

    @classmethod
    def choices(cls, config: ExpertConfig, facts: Facts, device: str) -> Choices | None:
        if config.stack is not None:
            return None
        expert_bytes = cls.shards(config, facts)[0].disk_bytes
        stacks = stacks_to_try(device, experts=config.experts, expert_bytes=expert_bytes)
        if len(stacks) == 1:
            return None
        settings = [{"stack": stack} for stack in stacks]
        return Choices(depends_on=_shape(config, facts).depends_on(), settings=settings)

    @classmethod
    def pace(cls, config: ExpertConfig, facts: Facts, device: str) -> float:
        return pace(flat_model(facts, device), _shape(config, facts), config.stack or 1, device)

    def __init__(
        self, config: ExpertConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts = config, facts
        self.model = flat_model(facts, context.device)
        data = config.dataset.load()
        transform = Transform.fit(data.train.images, config.transform)
        self.images, self.labels = prepare(data.train, transform, context.device)
        self.test = prepare(data.test, transform, context.device)

    def compute(self, shard: Shard, context: Context) -> Output:
        experts = numbers(shard.identity)
        state = self._begin(experts, context)
        for epoch in range(len(state.losses), self.config.kept_epochs):
            state.losses.append(self._train(state, epoch, experts, context))
            self._check(state, experts, epoch)
            state.snapshots.append(self._snapshot(state.weights))
            context.log(_named("train_loss", experts, state.losses[-1]), step=epoch + 1)
            context.save_progress(state.progress)
        return self._finish(state, experts, context)

    def _begin(self, experts: range, context: Context) -> Training:
        saved = context.load_progress()
        if saved is not None:
            return Training.resume(saved, context.device)
        seeds = [context.seed("init", item={"expert": expert}) for expert in experts]
        weights = torch.stack([flat_model(self.facts, "cpu", seed).initial() for seed in seeds])
        weights = weights.to(context.device)
        return Training(weights, torch.zeros_like(weights), [self._snapshot(weights)], [])

    def _snapshot(self, weights: Tensor) -> Tensor:
        return weights.detach().to("cpu", PRECISIONS[self.config.precision], copy=True)

    def _train(self, state: Training, epoch: int, experts: range, context: Context) -> list[float]:
        """One epoch in place; the mean training loss of its batches, for each expert."""
        config = self.config
        scale = loss_scale(epoch) if config.loss_scale else 1.0

        def loss(weights: Tensor, batch: Batch) -> Tensor:
            return expert_loss(
                self.model.stacked, weights, batch, scale=scale, penalty=config.gradient_penalty
            )

        if restarts(epoch, decay=config.lr_decay, epochs=config.epochs):
            state.velocity.zero_()
        lr = learning_rate(epoch, lr=config.lr, decay=config.lr_decay, epochs=config.epochs)
        optimizer = Optimizer(lr, config.momentum, config.weight_decay)
        chance = [_chance(context, expert, epoch) for expert in experts]
        drawn = Epoch.drawn(chance, self.images, config.batch_size, config.augment)
        batches = drawn.batches(self.images, self.labels)
        return train_epoch(loss, state.weights, state.velocity, optimizer, batches).tolist()

    def _check(self, state: Training, experts: range, epoch: int) -> None:
        finite = state.weights.isfinite().all(dim=1).tolist()
        for expert, loss, fine in zip(experts, state.losses[-1], finite, strict=True):
            if not (fine and math.isfinite(loss)):
                raise ValueError(
                    f"expert {expert}: not finite after epoch {epoch + 1}, loss {loss}; lower lr "
                    f"({self.config.lr}) or the network's depth ({self.facts['network']['depth']})"
                )

    def _finish(self, state: Training, experts: range, context: Context) -> Output:
        scores = [accuracy(self.model, weights, *self.test) for weights in state.weights]
        context.log(_named("test_accuracy", experts, scores), step=self.config.kept_epochs)
        snapshots = torch.stack(state.snapshots).unbind(1)
        results = zip(experts, scores, state.losses[-1], strict=True)
        return stack_output(
            [snapshot_tensors(self.model, own) for own in snapshots],
            {expert: {"test_accuracy": score, "train_loss": loss} for expert, score, loss in results},
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


def _chance(context: Context, expert: int, epoch: int) -> Chance:
    order, augmentation = (
        context.seed(name, epoch, item={"expert": expert}) for name in ("epoch", "augment")
    )
    return Chance.seeded(order, augmentation)


def _named(metric: str, experts: range, values: Sequence[float]) -> dict[str, float]:
    """By expert; the one of a shard of its own needs no name."""
    if len(experts) == 1:
        return {metric: values[0]}
    return {f"{metric}/expert={expert}": value for expert, value in zip(experts, values, strict=True)}


def _shape(config: ExpertConfig, facts: Facts) -> Shape:
    return Shape(
        network=facts["network"],
        image=tuple(facts["shape"]),
        classes=facts["classes"],
        batch_size=config.batch_size,
        augment=config.augment,
        penalty=config.gradient_penalty > 0,
    )
