"""Trains small classifiers under distillation losses, each method with the same start and samples, and compares them.

Sources: see the files in `losses`. The control is a student of the same recipe without a teacher.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.task import (
    Artifact,
    Context,
    Facts,
    Json,
    Needs,
    Output,
    Rows,
    Served,
    Settings,
    Shard,
    ShardFiles,
    Task,
)
from tasks.model_distillation import teachers
from tasks.model_distillation.label_files import KeptLabels, check_same
from tasks.model_distillation.label_reader import LabelReader
from tasks.model_distillation.losses.nd import directions
from tasks.model_distillation.methods import Method
from tasks.model_distillation.model_card import model_card, model_config
from tasks.model_distillation.ranks import Ranks
from tasks.model_distillation.student_config import StudentConfig, check_methods
from tasks.model_distillation.student_loss import Objective, Sizes
from tasks.model_distillation.student_pictures import accuracies, curves, reliability
from tasks.model_distillation.student_samples import LabelledSamples, PlainSamples
from tasks.model_distillation.student_scores import Scores, score
from tasks.model_distillation.student_tables import (
    Result,
    cell_table,
    curve_table,
    reliability_table,
    student_metrics,
    summary_table,
)
from tasks.model_distillation.student_training import Samples, Training, seeded
from tasks.model_distillation.teachers import Seeing
from tasks.model_distillation.train_teacher import pixel_statistics, weights_of
from tasks.model_distillation.views import Views
from tasks.nets import Classifier
from tasks.nets.classifier import build_classifier, classifier_parameters, feature_size

TESTED_AT_ONCE = 500
"""Test images."""
ON_TEST = "teacher_on_test"
"""File of the labels: the classes that the teacher gives to test images."""


class DistillStudent(Task[StudentConfig]):
    """Trains students under several methods and compares them. One shard is one student; resumable within an epoch."""

    version: ClassVar[int] = 1
    makes: ClassVar[str] = teachers.KIND
    Config: ClassVar[type[Settings]] = StudentConfig
    needs: ClassVar[Needs] = Needs(memory_gb=2.0)
    gang: ClassVar[bool] = True

    @classmethod
    def describe(cls, config: StudentConfig, inputs: Mapping[str, Facts]) -> Facts:
        labels, data = inputs.get("labels"), config.dataset.load()
        digest, classes = config.dataset.content_digest(), len(data.classes)
        if labels is not None:
            check_same(labels, {"data_digest": digest, "classes": classes})
        check_methods(config, labels)
        parameters = classifier_parameters(config.student, data.shape, classes)
        return {
            "dataset": config.dataset.model_dump(mode="json"),
            "data_digest": digest,
            "classes": classes,
            "shape": list(data.shape),
            "classifier": config.student.model_dump(mode="json"),
            "parameters": parameters,
            "repeats": len(config.methods) * config.repeats,
            "methods": {method.label: method.formula for method in config.methods},
            "teacher": None if labels is None else labels["teacher"],
        }

    @classmethod
    def shards(cls, config: StudentConfig, facts: Facts) -> Sequence[Shard]:
        size = 4 * facts["parameters"] + 8192
        return [
            Shard({"method": method.formula, "repeat": repeat}, disk_bytes=size)
            for method in config.methods
            for repeat in range(config.repeats)
        ]

    def __init__(
        self, config: StudentConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts, self.device = config, facts, context.device
        self.ranks = Ranks(context.rank, context.world_size)
        self.methods = {method.formula: method for method in config.methods}
        self.data = config.dataset.load()
        self.pixels = pixel_statistics(config.dataset)
        self.test = torch.from_numpy(self.data.test.images).to(self.device)
        self.labels = KeptLabels.of(inputs["labels"]) if config.labels else None
        self.chosen_by_teacher = (
            inputs["labels"].tensors(ON_TEST)["classes"].long() if config.labels else None
        )

    def compute(self, shard: Shard, context: Context) -> Output:
        method, repeat = self.methods[shard.identity["method"]], shard.identity["repeat"]
        training = self._training(method, {"repeat": repeat}, context)
        saved = context.load_progress()
        if saved is not None:
            training.resume(saved)

        def ended(epoch: int) -> None:
            metrics = {"train_loss": training.state.losses[-1]}
            if epoch % self.config.test_every == 0 or epoch == self.config.epochs:
                metrics["accuracy"] = self._score(training.student).accuracy
                training.state.tested.append((epoch, metrics["accuracy"]))
            context.log(metrics, step=epoch)

        training.run(ended, context.save_progress)
        return student_output(training, self._score(training.student))

    def _training(self, method: Method, pair: Mapping[str, Json], context: Context) -> Training:
        """`pair`: what the students that are compared with each other share."""
        student = self._student(context.seed("init", item=pair))
        features = feature_size(self.config.student, self.data.shape, self.facts["classes"])
        known = int(self.labels.facts["features"]) if self.labels else 0
        with seeded(context.seed("layers"), "cpu"):
            sizes = Sizes(features, self.facts["classes"], known)
            objective = Objective(method, sizes, self._directions()).to(self.device)
        return Training(
            student,
            objective,
            self._samples(pair, context),
            self.config.recipe,
            order=lambda epoch: context.seed("order", epoch, item=pair),
            chance=context.seed,
            ranks=self.ranks,
            device=self.device,
        )

    def _student(self, seed: int) -> Seeing:
        network = build_classifier(self.config.student, self.data.shape, self.facts["classes"], seed)
        return Seeing(network, self.pixels.mean, self.pixels.std, None).to(self.device)

    def _directions(self) -> Tensor | None:
        means = self.labels.class_means if self.labels else None
        return None if means is None else directions(means)

    def _samples(self, pair: Mapping[str, Json], context: Context) -> Samples:
        if self.labels is not None:
            size = self.config.batch_size
            reader = LabelReader.open(
                self.labels, self.config.dataset, size, seed=0
            )  # the order is not its own
            return LabelledSamples(reader, self.device)
        parts = (self.data.train.images, self.data.train.labels)
        images, classes = (torch.from_numpy(part).to(self.device) for part in parts)
        return PlainSamples(images, classes, self.config.views or Views(), context.seed("views", item=pair))

    def _score(self, student: nn.Module) -> Scores:
        logits = answers(student, self.test)
        return score(logits, torch.from_numpy(self.data.test.labels), self.chosen_by_teacher)

    @classmethod
    def close(
        cls,
        config: StudentConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        labels = {method.formula: method.label for method in config.methods}
        results = [Result.of(shard, labels) for shard in shards]
        metrics, known = student_metrics(results), None
        if config.labels:
            known = inputs["labels"].facts
            metrics["teacher_accuracy"] = inputs["labels"].metrics["teacher_accuracy"]
        for name, paint in PICTURES.items():
            context.preview(name, paint(results))
        wanted = {"method": config.shown.formula, "repeat": 0}
        shown = next(shard for shard in shards if dict(shard.identity) == wanted)
        names, pixels = config.dataset.load().classes, pixel_statistics(config.dataset).tensors()
        return Output(
            tensors={"model": shown.tensors("weights"), "transform": pixels},
            tables={
                "summary": summary_table(results),
                "cells": cell_table(results),
                "curves": curve_table(results),
                "reliability": reliability_table(results),
            },
            documents={
                "config": model_config(facts, names, pixels),
                "card": model_card(config, facts, known, summary_table(results)),
            },
            metrics=metrics,
        )

    @classmethod
    def serves(cls, facts: Facts) -> Served | None:
        return Served(
            "classifier", Rows("uint8", tuple(facts["shape"])), Rows("float32", (facts["classes"],))
        )

    @classmethod
    def asked(cls, artifact: Artifact) -> Callable[[np.ndarray], np.ndarray]:
        return asked_student(artifact)


def asked_student(artifact: Artifact) -> Callable[[np.ndarray], np.ndarray]:
    """The student of the file `model`: images uint8 (N, C, H, W) to logits float32 (N, classes)."""
    channels, height, width = artifact.facts["shape"]
    classifier = Classifier.model_validate(artifact.facts["classifier"])
    network = build_classifier(classifier, (channels, height, width), artifact.facts["classes"], seed=0)
    teachers.fill(network, artifact.tensors("model"))
    pixels = artifact.tensors("transform")
    student = teachers.seeing(network, pixels["mean"], pixels["std"], "cpu")
    return lambda images: answers(student, torch.from_numpy(images)).numpy()


def answers(student: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, classes) of uint8 images (N, C, H, W) in test mode, on the CPU."""
    student.eval()
    with torch.inference_mode():
        parts = [student(part.float() / 255).float().cpu() for part in torch.split(images, TESTED_AT_ONCE)]
    return torch.cat(parts)


def student_output(training: Training, scores: Scores) -> Output:
    """The files of a shard: the student alone, without the layers that only its loss needed."""
    state, weights = training.state, weights_of(cast(Seeing, training.student))
    result = {"scores": scores.to_json(), "losses": state.losses, "tested": state.tested}
    return Output({"weights": weights}, documents={"result": result}, metrics=scores.named())


PICTURES = {"accuracy": accuracies, "reliability": reliability, "curves": curves}
