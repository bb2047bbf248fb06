"""Trains an image classifier with batch norm on true labels: a teacher for others.

Sources: the architectures of He et al. (2016) and the recipe that is common for them on CIFAR: SGD with
Nesterov's momentum, crops and flips, a falling rate; label smoothing (Szegedy et al. 2016).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Annotated, ClassVar, NamedTuple, cast

import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

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
from tasks.data import Dataset, Split, Transform
from tasks.data.transform import Normalize
from tasks.dataset_distillation.trajectories import mean_and_error
from tasks.model_distillation import philox, views
from tasks.model_distillation.label_reader import step_bounds
from tasks.model_distillation.optimisation import (
    Optimisation,
    learning_rate,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_rate,
)
from tasks.model_distillation.prefetch import ahead
from tasks.model_distillation.teachers import KIND, Seeing
from tasks.model_distillation.views import Extent, Views
from tasks.nets import Classifier, build_classifier, classifier_parameters

OPTIMIZER = "optimizer."
NETWORK = "network."
TEST_BATCH = 500


class TeacherConfig(Settings):
    """Settings of train_teacher; the defaults suit CIFAR images."""

    dataset: Dataset
    """The images to learn."""
    classifier: Classifier
    """The architecture, e.g. cifar_resnet56."""
    repeats: Annotated[int, Role.PLAN] = Field(default=1, gt=0)
    """Classifiers that are trained, each from its own initialisation. More of them reuse those there are."""
    epochs: int = Field(default=200, gt=0)
    """Epochs of the whole schedule."""
    batch_size: int = Field(default=128, ge=2)
    """Images a step. Fewer than two at the end of an epoch join the last step."""
    optimisation: Optimisation = Optimisation()
    """Optimiser and schedule."""
    views: Views = Views(padding=4, flip=True)
    """How an image is changed, anew each epoch. For digits leave out the flip."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """The share of a label that is spread evenly over all classes."""


class Batch(NamedTuple):
    """Views with their true classes."""

    images: Tensor
    targets: Tensor
    other_targets: Tensor
    """Of what is mixed in."""
    shares: Tensor
    """Of the image itself in the mix."""


class TrainTeacher(Task[TeacherConfig]):
    """Trains image classifiers on true labels. One shard is one of them; resumable after every epoch."""

    version: ClassVar[int] = 1
    makes: ClassVar[str] = KIND
    Config: ClassVar[type[Settings]] = TeacherConfig
    needs: ClassVar[Needs] = Needs(memory_gb=2.0)

    @classmethod
    def describe(cls, config: TeacherConfig, inputs: Mapping[str, Facts]) -> Facts:
        data = config.dataset.load()
        classifier_parameters(config.classifier, data.shape, len(data.classes))
        return {
            "dataset": config.dataset.model_dump(mode="json"),
            "data_digest": config.dataset.content_digest(),
            "shape": list(data.shape),
            "classes": len(data.classes),
            "classifier": config.classifier.model_dump(mode="json"),
            "repeats": config.repeats,
        }

    @classmethod
    def shards(cls, config: TeacherConfig, facts: Facts) -> Sequence[Shard]:
        channels, height, width = facts["shape"]
        size = 4 * classifier_parameters(config.classifier, (channels, height, width), facts["classes"])
        return [Shard(identity={"repeat": repeat}, disk_bytes=size) for repeat in range(config.repeats)]

    def __init__(
        self, config: TeacherConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts = config, facts
        data = config.dataset.load()
        self.transform = pixel_statistics(config.dataset)
        self.images = torch.from_numpy(data.train.images).to(context.device)
        self.targets = torch.from_numpy(data.train.labels)
        self.test = data.test

    def compute(self, shard: Shard, context: Context) -> Output:
        channels, height, width = self.facts["shape"]
        network = build_classifier(
            self.config.classifier, (channels, height, width), self.facts["classes"], context.seed("init")
        )
        model = Seeing(network, self.transform.mean, self.transform.std, None).to(context.device)
        optimizer = make_optimizer(self.config.optimisation, model.parameters())
        loss = math.nan
        for epoch in range(resumed(model, optimizer, context.load_progress()), self.config.epochs):
            loss = self._epoch(model, optimizer, epoch, context)
            if not math.isfinite(loss):
                raise ValueError(
                    f"the loss is {loss} after epoch {epoch + 1}; lower optimisation.lr ({self.config.optimisation.lr})"
                )
            context.log({"train_loss": loss}, step=epoch + 1)
            context.save_progress(lambda done=epoch + 1: state(model, optimizer, done))
        accuracy = accuracy_of(model, self.test)
        context.log({"test_accuracy": accuracy}, step=self.config.epochs)
        return Output(tensors={"weights": weights_of(model)}, metrics={"test_accuracy": accuracy})

    def _epoch(self, model: Seeing, optimizer: torch.optim.Optimizer, epoch: int, context: Context) -> float:
        """One epoch in place; the mean loss of its batches, in nats."""
        config, losses = self.config, []
        bounds = step_bounds(len(self.images), config.batch_size)
        model.train()
        with closing(ahead(self._batches(bounds, epoch, context), depth=2)) as batches:
            for step, batch in enumerate(batches):
                rate = learning_rate(config.optimisation, epoch + step / len(bounds), config.epochs)
                set_rate(optimizer, rate)
                loss = true_loss(model(batch.images), batch, config.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _batches(self, bounds: Sequence[tuple[int, int]], epoch: int, context: Context) -> Iterator[Batch]:
        order = philox.permutation(context.seed("order"), len(self.images), epoch)
        seed, extent = context.seed("views"), Extent.of(self.images)
        for start, end in bounds:
            drawn = views.draw(self.config.views, seed, epoch, order[start:end], extent)
            yield Batch(
                views.apply(self.config.views, self.images, drawn),
                *(
                    self.targets[torch.from_numpy(samples)].to(self.images.device)
                    for samples in (drawn.samples, drawn.partners)
                ),
                torch.from_numpy(drawn.shares).to(self.images.device, torch.float32),
            )

    @classmethod
    def close(
        cls,
        config: TeacherConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        accuracies = [shard.metrics["test_accuracy"] for shard in shards]
        mean, error = mean_and_error(accuracies)
        return Output(
            tensors={"transform": pixel_statistics(config.dataset).tensors()},
            tables={"summary": pa.table({"repeat": range(len(shards)), "test_accuracy": accuracies})},
            metrics={"test_accuracy": mean, "test_accuracy_se": error},
        )


def pixel_statistics(dataset: Dataset) -> Normalize:
    """Mean and standard deviation of each channel over the training images."""
    return cast(Normalize, Transform.fit(dataset.load().train.images, "normalize"))


def true_loss(logits: Tensor, batch: Batch, smoothing: float) -> Tensor:
    """Cross entropy with the true classes, for mixed images by their shares; the mean over the batch, in nats."""
    own, other = (
        cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
        for targets in (batch.targets, batch.other_targets)
    )
    return (batch.shares * own + (1 - batch.shares) * other).mean()


def accuracy_of(model: Seeing, test: Split) -> float:
    """The share of the images, as they are, that the model classifies right; the model is left in test mode."""
    model.eval()
    images, targets, right = torch.from_numpy(test.images), torch.from_numpy(test.labels), 0
    with torch.inference_mode():
        for seen, true in zip(images.split(TEST_BATCH), targets.split(TEST_BATCH), strict=True):
            found = model(seen.to(model.mean.device).float() / 255).argmax(1).cpu()
            right += int((found == true).sum())
    return right / len(test)


def weights_of(model: Seeing) -> dict[str, Tensor]:
    """Parameters and statistics of the network, without its pre-processing, on the CPU."""
    return {name: value.to("cpu", copy=True) for name, value in model.network.state_dict().items()}


def state(model: Seeing, optimizer: torch.optim.Optimizer, epochs: int) -> Progress:
    """To go on from, after so many epochs."""
    tensors = {NETWORK + name: value for name, value in weights_of(model).items()}
    tensors |= {OPTIMIZER + name: value for name, value in optimizer_tensors(optimizer).items()}
    return Progress(tensors, {"epochs": epochs})


def resumed(model: Seeing, optimizer: torch.optim.Optimizer, saved: Progress | None) -> int:
    """Brings both to where they were; the number of epochs that are done."""
    if saved is None:
        return 0
    network, steps = (
        {name.removeprefix(kind): value for name, value in saved.tensors.items() if name.startswith(kind)}
        for kind in (NETWORK, OPTIMIZER)
    )
    model.network.load_state_dict(network)
    restore_optimizer(optimizer, steps)
    return int(saved.facts["epochs"])
