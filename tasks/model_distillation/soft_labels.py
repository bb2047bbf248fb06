"""Asks a teacher once for its labels of every view of every image, and keeps them small.

Source: FKD (Shen and Xing 2022) and the relabel stage of SRe2L and CDA (Yin et al. 2023), in which a view is a
property of a batch and its coordinates are stored. Here it is a function of seed, epoch and sample (`views`):
nothing of it is stored, and students are free in their batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Annotated, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator
from torch import Tensor

from orchestrator.task import (
    Artifact,
    Context,
    Facts,
    Input,
    Needs,
    Output,
    Progress,
    Role,
    Settings,
    Shard,
    ShardFiles,
    Task,
)
from tasks.data import Dataset, Split
from tasks.model_distillation import teachers, views
from tasks.model_distillation.label_codec import Labels, check_labels, row_bytes
from tasks.model_distillation.label_files import KIND, KeptLabels, to_table
from tasks.model_distillation.label_rows import label_rows
from tasks.model_distillation.labelled import TEMPERATURES, Labelled, Numbers, class_means, label
from tasks.model_distillation.prefetch import ahead
from tasks.model_distillation.teachers import Seeing, Teacher
from tasks.model_distillation.views import Extent, Views


class SoftLabelConfig(Settings):
    """Settings of soft_labels."""

    dataset: Dataset
    """Whose training images are labelled."""
    teacher: Teacher | None = None
    """Who labels them: a checkpoint, or a model of Hugging Face."""
    trained_teacher: Annotated[str | None, Input(teachers.KIND)] = None
    """In place of `teacher`: what a stage `train_teacher` makes."""
    member: int = Field(default=0, ge=0)
    """For `trained_teacher`: which of its repeats."""
    views: Views = Views()
    """How an image is changed, anew each epoch. With none, one epoch holds all there is to know."""
    epochs: Annotated[int, Role.PLAN] = Field(default=1, gt=0)
    """Epochs of views that are labelled. More of them reuse the full shards there are."""
    views_per_shard: Annotated[int, Role.PLAN] = Field(default=50_000, gt=0)
    """Views that one shard holds, of one epoch or of several."""
    batch_size: int = Field(default=250, gt=0)
    """Views that the teacher sees at once."""
    labels: Labels = Labels()
    """In what form the labels are kept."""
    features: bool = False
    """Keep for each view, in float16, what the teacher's last layer is given."""

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if (self.teacher is None) == (self.trained_teacher is None):
            raise ValueError("give either `teacher` or `trained_teacher`")
        if self.epochs > 1 and self.views == Views():
            raise ValueError(
                f"epochs is {self.epochs}, but with views none all are equal: set epochs to 1, or views"
            )
        return self


class SoftLabels(Task[SoftLabelConfig]):
    """Labels every view of every training image. One shard is a range of views; resumable after every batch."""

    version: ClassVar[int] = 1
    makes: ClassVar[str] = KIND
    Config: ClassVar[type[Settings]] = SoftLabelConfig
    needs: ClassVar[Needs] = Needs(memory_gb=2.0)

    @classmethod
    def describe(cls, config: SoftLabelConfig, inputs: Mapping[str, Facts]) -> Facts:
        data = config.dataset.load()
        classes = len(data.classes)
        check_labels(config.labels, classes)
        if config.teacher is not None:
            teacher = config.teacher.facts(data.shape, classes)
            digest = {"teacher_digest": config.teacher.content_digest()}
        else:
            trained = inputs["trained_teacher"]
            teacher, digest = teachers.trained_facts(trained, config.member, data.shape, classes), {}
        return {
            "dataset": config.dataset.model_dump(mode="json"),
            "data_digest": config.dataset.content_digest(),
            "shape": list(data.shape),
            "classes": classes,
            "samples": len(data.train),
            "teacher": teacher,
            **digest,
            "views": config.views.model_dump(mode="json"),
            "epochs": config.epochs,
            "labels": config.labels.model_dump(mode="json"),
            "features": teacher["features"] if config.features else 0,
        }

    @classmethod
    def shards(cls, config: SoftLabelConfig, facts: Facts) -> Sequence[Shard]:
        number, most = facts["samples"] * config.epochs, config.views_per_shard
        size = row_bytes(config.labels, facts["classes"]) + 2 * facts["features"]
        ranges = [range(first, min(first + most, number)) for first in range(0, number, most)]
        return [
            Shard(identity={"first": own[0], "last": own[-1]}, disk_bytes=size * len(own)) for own in ranges
        ]

    def __init__(
        self, config: SoftLabelConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts = config, facts
        self.teacher = load_teacher(config, inputs, facts, context.device)
        train = config.dataset.load().train
        self.images = torch.from_numpy(train.images).to(context.device)
        self.targets = torch.from_numpy(train.labels)

    def compute(self, shard: Shard, context: Context) -> Output:
        saved = context.load_progress()
        parts = [] if saved is None else [Labelled.resume(saved)]
        first = 0 if saved is None else saved.facts["batches"]
        with closing(ahead(self._seen(shard, first, context), depth=2)) as batches:
            for done, (numbers, images) in enumerate(batches, first + 1):
                parts.append(self._label(numbers, images))
                context.log(divergences(parts[-1]), step=done)
                context.save_progress(partial(progress, parts, done))
        return shard_output(Labelled.joined(parts))

    def _seen(self, shard: Shard, first: int, context: Context) -> Iterator[tuple[Numbers, Tensor]]:
        """What the teacher sees, from batch `first` of the shard on."""
        seed, size = context.seed("views", item={}), self.config.batch_size
        start, end = shard.identity["first"], shard.identity["last"] + 1
        for begin in range(start + first * size, end, size):
            epochs, samples = np.divmod(np.arange(begin, min(begin + size, end)), len(self.images))
            drawn = views.draw(self.config.views, seed, epochs, samples, Extent.of(self.images))
            yield Numbers(samples, epochs), views.apply(self.config.views, self.images, drawn)

    def _label(self, numbers: Numbers, images: Tensor) -> Labelled:
        with torch.inference_mode():
            trace = self.teacher.trace(images)
        targets = self.targets[torch.from_numpy(numbers.samples)]
        return label(trace, self.config.labels, targets, numbers, features=self.config.features)

    @classmethod
    def close(
        cls,
        config: SoftLabelConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        teacher = load_teacher(config, inputs, facts, context.device)
        test = config.dataset.load().test
        chosen = chosen_on_test(teacher, test, config.batch_size, context.device)
        right = (chosen == torch.from_numpy(test.labels)).double().mean()
        metrics = {**summary(shards), "teacher_accuracy": float(right)}
        sums = torch.stack([shard.tensors("class_sums")["sums"] for shard in shards]).sum(0)
        means = {} if config.views.mix != "none" else {"class_means": {"means": class_means(sums)}}
        return Output(
            tensors={"teacher_on_test": {"classes": chosen}, **means},
            tables={
                "set_aside": pa.concat_tables([aside_table(()), *asides(shards)]),
                "summary": pa.table({name: [value] for name, value in metrics.items()}),
            },
            facts={
                "view_seed": context.seed("views", item={}),
                "teacher_digest": teacher_digest(config, inputs),
            },
            metrics=metrics,
        )

    @classmethod
    def rows(cls, artifact: Artifact) -> Iterator[pa.Table]:
        return label_rows(KeptLabels.of(artifact))


def teacher_digest(config: SoftLabelConfig, inputs: Mapping[str, Artifact]) -> str:
    """Of the teacher's weights and pre-processing."""
    if config.teacher is not None:
        return config.teacher.content_digest()
    return teachers.trained_digest(inputs["trained_teacher"], config.member)


def load_teacher(
    config: SoftLabelConfig, inputs: Mapping[str, Artifact], facts: Facts, device: str
) -> Seeing:
    """The teacher of the settings, ready to label."""
    channels, height, width = facts["shape"]
    if config.teacher is not None:
        return config.teacher.load((channels, height, width), facts["classes"], device)
    return teachers.load_trained(inputs["trained_teacher"], config.member, device)


def chosen_on_test(teacher: Seeing, test: Split, batch_size: int, device: str) -> Tensor:
    """The class that the teacher gives each test image as it is: int64 (N,), on the CPU."""
    with torch.inference_mode():
        parts = [
            teacher(pixels.to(device).float() / 255).argmax(1).cpu()
            for pixels in torch.from_numpy(test.images).split(batch_size)
        ]
    return torch.cat(parts)


def progress(parts: Sequence[Labelled], batches: int) -> Progress:
    """To go on from, after so many batches."""
    return Labelled.joined(parts).progress(batches)


def divergences(labelled: Labelled) -> dict[str, float]:
    """Mean over the labelled views of what the stored labels have lost, in nats; nothing where there are none."""
    if not labelled.divergences.numel():
        return {}
    means = labelled.divergences.mean(1).tolist()
    return dict(zip(TEMPERATURES, means, strict=True))


def shard_output(labelled: Labelled) -> Output:
    """The files of a shard. ValueError where not one of its views has a label."""
    if not labelled.divergences.numel():
        sample, epoch, reason = labelled.aside[0]
        raise ValueError(
            f"no view has a label, beginning with that of sample {sample} in epoch {epoch}: {reason}; check the "
            "teacher's weights, its mean and std"
        )
    table, largest = to_table(labelled.columns), labelled.divergences.amax(1).tolist()
    metrics = {f"{name}_mean": mean for name, mean in divergences(labelled).items()}
    metrics |= {f"{name}_max": most for name, most in zip(TEMPERATURES, largest, strict=True)}
    facts = {
        "labelled": labelled.divergences.shape[1],
        "set_aside": len(labelled.aside),
        "bytes": table.nbytes,
    }
    return Output(
        tensors={"class_sums": {"sums": labelled.sums}},
        tables={"set_aside": aside_table(labelled.aside)} if labelled.aside else {},
        mapped={"labels": table},
        facts=facts,
        metrics=metrics,
    )


def summary(shards: Sequence[ShardFiles]) -> dict[str, float]:
    """Divergences over all labelled views, bytes a view, and how many were put aside."""
    labelled = [shard.facts["labelled"] for shard in shards]
    aside = sum(shard.facts["set_aside"] for shard in shards)
    metrics: dict[str, float] = {}
    for name in TEMPERATURES:
        means = [shard.metrics[f"{name}_mean"] for shard in shards]
        weighted = sum(mean * number for mean, number in zip(means, labelled, strict=True))
        metrics[f"{name}_mean"] = weighted / sum(labelled)
        metrics[f"{name}_max"] = max(shard.metrics[f"{name}_max"] for shard in shards)
    total = sum(shard.facts["bytes"] for shard in shards)
    return {**metrics, "bytes_per_view": total / (sum(labelled) + aside), "set_aside": float(aside)}


def asides(shards: Sequence[ShardFiles]) -> list[pa.Table]:
    """The table of each shard that put some aside."""
    return [shard.table("set_aside") for shard in shards if shard.facts["set_aside"]]


def aside_table(aside: Sequence[tuple[int, int, str]]) -> pa.Table:
    """Sample, epoch and reason of each view without a label."""
    samples, epochs, reasons = zip(*aside, strict=True) if aside else ((), (), ())
    return pa.table(
        {
            "sample": pa.array(samples, pa.int64()),
            "epoch": pa.array(epochs, pa.int64()),
            "reason": pa.array(reasons, pa.string()),
        }
    )
