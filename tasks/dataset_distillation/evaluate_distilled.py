"""Judges a distilled set: trains fresh networks on it and on real images, and compares their test accuracy.

Protocol of MTT (Cazenavette et al. 2022): the accuracy is that after the last epoch. The best over the
epochs, which several papers report, is selected on the test set; it is given beside it under its own name.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator
from torch import nn

from orchestrator.task import (
    Artifact,
    Context,
    Facts,
    Input,
    Json,
    Needs,
    Output,
    Role,
    Settings,
    Shard,
    ShardFiles,
    Task,
)
from tasks.data import Dataset, check_strategy
from tasks.dataset_distillation.recipe import Recipe, Training, train_and_test
from tasks.dataset_distillation.scores import (
    accuracy_metrics,
    accuracy_picture,
    cell_table,
    group_cells,
    label_networks,
    summary_table,
)
from tasks.dataset_distillation.training_sets import TrainingSets
from tasks.nets import Network, build

Control = Literal["random", "kmeans", "full"]


class EvaluateConfig(Settings):
    """Settings of `evaluate_distilled`."""

    distilled: Annotated[str, Input("distilled")]
    """The distilled set to judge."""
    dataset: Dataset | None = None
    """Where its real data lies on this machine; None: where it lay when the set was made."""
    controls: Annotated[tuple[Control, ...], Role.PLAN] = ("random",)
    """What to compare with, trained by the same recipe: `random` real images and `kmeans` representatives,
    as many as the distilled set has, and the `full` training set."""
    networks: Annotated[tuple[Network, ...], Role.PLAN] = ()
    """The architectures to train; none: the one that the set was distilled with."""
    repeats: Annotated[int, Role.PLAN] = Field(default=5, ge=1)
    """Freshly initialised networks a set and architecture; `random` draws other images each time."""
    epochs: int = Field(default=1000, ge=1)
    """Epochs over a small set; the step size is multiplied by 0.1 after epoch epochs // 2 + 1."""
    full_epochs: int = Field(default=100, ge=1)
    """Epochs over the full training set."""
    batch_size: int = Field(default=256, ge=1)
    """Images a step."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Step size for the distilled set; None: the one learned with it."""
    control_learning_rate: float = Field(default=0.01, gt=0)
    """Step size for the controls."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay of SGD, on every parameter."""
    augment: str | None = None
    """Augmentation of every batch, such as color_crop_flip; None: as distilled; "": none."""
    test_every: int = Field(default=100, ge=1)
    """Epochs between tests on a small set; on the full set each is tested. The last one is always tested."""

    @field_validator("controls")
    @classmethod
    def _no_twins(cls, controls: tuple[Control, ...]) -> tuple[Control, ...]:
        if len(set(controls)) < len(controls):
            raise ValueError("a control stands there twice; name each once")
        return controls

    @field_validator("augment")
    @classmethod
    def _known_strategy(cls, augment: str | None) -> str | None:
        check_strategy(augment or "")
        return augment


class EvaluateDistilled(Task[EvaluateConfig]):
    """Trains fresh networks on a distilled set, and on real images beside it, and tests them.

    One shard, a cell, trains one network on one set. No control depends on the distilled set.
    """

    version: ClassVar[int] = 2
    makes: ClassVar[str] = "scores"
    Config: ClassVar[type[Settings]] = EvaluateConfig
    needs: ClassVar[Needs] = Needs(memory_gb=2.0)

    @classmethod
    def describe(cls, config: EvaluateConfig, inputs: Mapping[str, Facts]) -> Facts:
        given = inputs["distilled"]
        dataset = _located(config.dataset, given)
        if {"random", "kmeans"} & set(config.controls):
            _check_counts(dataset, given["images_per_class"])
        c, h, w = given["shape"]
        asked = config.networks or (Network.model_validate(given["network"]),)
        return {
            **{
                name: given[name]
                for name in ("data_digest", "shape", "classes", "transform", "images_per_class")
            },
            "dataset": dataset.model_dump(mode="json"),
            "augment": given["augment"] if config.augment is None else config.augment,
            "networks": label_networks(asked, (c, h, w), given["classes"]),
        }

    @classmethod
    def shards(cls, config: EvaluateConfig, facts: Facts) -> Sequence[Shard]:
        longest_first = sorted(("distilled", *config.controls), key=lambda name: name != "full")
        return [
            Shard(_identity(name, entry["tag"], repeat, facts), _UNREAD[name], disk_bytes=4096)
            for name in longest_first
            for entry in facts["networks"]
            for repeat in range(config.repeats)
        ]

    def __init__(
        self, config: EvaluateConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts, self.device = config, facts, context.device
        data = Dataset.model_validate(facts["dataset"]).load()
        self.sets = TrainingSets(inputs["distilled"], data, facts, context.device)
        self.networks = {
            entry["tag"]: Network.model_validate(entry["network"]) for entry in facts["networks"]
        }

    def compute(self, shard: Shard, context: Context) -> Output:
        name, train = shard.identity["set"], self.sets.train(shard.identity["set"], context.seed("images"))
        recipe = self._recipe(name)
        module = self._network(shard.identity["network"], context.seed("init"))
        scores = train_and_test(
            Training(module, train, recipe, context.seed("train")),
            self.sets.test(name),
            test_every=1 if name == "full" else self.config.test_every,
            log=context.log,
            save=context.save_progress,
            start=context.load_progress(),
        )
        return Output(
            metrics={"accuracy": scores.accuracy, "best_accuracy": scores.best_accuracy},
            facts={
                "best_epoch": scores.best_epoch,
                "train_loss": scores.train_loss,
                "images": len(train.images),
                "learning_rate": recipe.learning_rate,
            },
        )

    @classmethod
    def close(
        cls,
        config: EvaluateConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        groups = group_cells(facts, shards)
        context.preview("accuracy", accuracy_picture(facts, groups))
        return Output(
            tables={"cells": cell_table(facts, shards), "summary": summary_table(groups)},
            metrics=accuracy_metrics(groups),
        )

    def _network(self, tag: str, seed: int) -> nn.Module:
        c, h, w = self.facts["shape"]
        return build(self.networks[tag], (c, h, w), self.facts["classes"], seed).to(self.device)

    def _recipe(self, name: str) -> Recipe:
        config = self.config
        return Recipe(
            epochs=config.full_epochs if name == "full" else config.epochs,
            learning_rate=self._distilled_rate() if name == "distilled" else config.control_learning_rate,
            batch_size=config.batch_size,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            augment=self.facts["augment"],
        )

    def _distilled_rate(self) -> float:
        return self.config.learning_rate or float(self.sets.synthetic["learning_rate"])


_SMALL_CONTROL = frozenset({"distilled", "dataset", "augment", "learning_rate", "full_epochs"})
_UNREAD = {
    "distilled": frozenset({"dataset", "augment", "control_learning_rate", "full_epochs"}),
    "random": _SMALL_CONTROL,
    "kmeans": _SMALL_CONTROL,
    "full": _SMALL_CONTROL - {"full_epochs"} | {"epochs", "test_every"},
}
"""Of each set the settings that its cells do not read; what they need of them stands in the identity."""


def _identity(name: str, tag: str, repeat: int, facts: Facts) -> dict[str, Json]:
    cell = {"set": name, "network": tag, "repeat": repeat, "augment": facts["augment"]}
    if name == "distilled":
        return cell
    if name != "full":
        cell["images_per_class"] = facts["images_per_class"]
    return {**cell, "transform": facts["transform"], "data": facts["data_digest"]}


def _located(dataset: Dataset | None, given: Facts) -> Dataset:
    """The real data, which has to be that of the distilled set."""
    if dataset is None:
        dataset = Dataset.model_validate(given["dataset"])
        try:
            digest = dataset.content_digest()
        except ValueError as error:
            raise ValueError(f"dataset: {error}; or set `dataset` to where the data lies here") from error
    else:
        digest = dataset.content_digest()
    if digest != given["data_digest"]:
        raise ValueError(
            f"dataset: {dataset.name} has the digest {digest}, but the distilled set was made from "
            f"{given['dataset']['name']} with the digest {given['data_digest']}; set `dataset` to that data"
        )
    return dataset


def _check_counts(dataset: Dataset, per_class: int) -> None:
    counts = dataset.load().counts
    if per_class > min(counts):
        raise ValueError(
            f"controls: a class of {dataset.name} has {min(counts)} training images, the distilled set "
            f"{per_class} a class; leave out `random` and `kmeans`"
        )
