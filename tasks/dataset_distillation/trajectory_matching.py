"""Distils a dataset by matching the training trajectories of experts.

Sources: MTT (Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories"); each part of
AST (Shen, Yang, Lam 2023, arXiv 2310.10541) is a switch; the average of the pixels is FTD's (Du et al. 2023),
soft labels are learned in the manner of DATM (Guo et al. 2024).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import pyarrow as pa
import torch
from torch import Tensor

from orchestrator.task import (
    Artifact,
    Context,
    Facts,
    Needs,
    Output,
    Progress,
    Settings,
    Shard,
    ShardFiles,
    Task,
)
from tasks.data import Dataset, Transform, augment
from tasks.dataset_distillation.curves import loss_curve
from tasks.dataset_distillation.distilled_rows import distilled_rows
from tasks.dataset_distillation.flat import predict
from tasks.dataset_distillation.matching import (
    MatchingGradient,
    Target,
    balance,
    matching_gradient,
    matching_targets,
    perturb,
    student_batches,
)
from tasks.dataset_distillation.matching_config import MatchingConfig, check_dataset, check_epochs
from tasks.dataset_distillation.representative import random_indices, representative_indices
from tasks.dataset_distillation.synthetic import SyntheticSet, cross_entropy, expert_logits, one_hot_logits
from tasks.dataset_distillation.trajectories import Expert, experts_of, flat_model, prepare, read_snapshots
from tasks.pictures import grid


class TrajectoryMatching(Task[MatchingConfig]):
    """Learns a few images a class that train a network as experts were trained.

    One shard, resumable after every iteration.
    """

    version: ClassVar[int] = 2
    makes: ClassVar[str] = "distilled"
    Config: ClassVar[type[Settings]] = MatchingConfig
    needs: ClassVar[Needs] = Needs(memory_gb=2.0)

    @classmethod
    def describe(cls, config: MatchingConfig, inputs: Mapping[str, Facts]) -> Facts:
        experts = inputs["experts"]
        dataset = config.dataset or Dataset.model_validate(experts["dataset"])
        check_epochs(config, experts["epochs"])
        check_dataset(config, dataset, experts)
        passed = ("data_digest", "shape", "classes", "network", "transform")
        return {
            "dataset": dataset.model_dump(mode="json"),
            **{name: experts[name] for name in passed},
            "augment": experts["augment"] if config.augment is None else config.augment,
            "images_per_class": config.images_per_class,
            "soft_labels": config.labels != "hard",
        }

    @classmethod
    def shards(cls, config: MatchingConfig, facts: Facts) -> Sequence[Shard]:
        pixels = facts["classes"] * config.images_per_class * math.prod(facts["shape"])
        ignored = frozenset({"dataset", "log_every", "preview_every"})
        return [Shard(identity={"set": 0}, ignores=ignored, disk_bytes=4 * pixels)]

    def __init__(
        self, config: MatchingConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts, self.device = config, facts, context.device
        self.experts = experts_of(inputs["experts"].shards)
        self.last_epoch = inputs["experts"].facts["epochs"]
        self.transform = Transform.from_tensors(inputs["experts"].tensors("transform"))
        self.model = flat_model(facts, context.device)

    def compute(self, shard: Shard, context: Context) -> Output:
        synthetic, losses = self._begin(context)
        for iteration in range(len(losses), self.config.iterations):
            if iteration % self.config.preview_every == 0:
                self._preview(synthetic, context, iteration)
            found = self._gradient(synthetic, context, iteration)
            losses.append(self._update(synthetic, found, iteration))
            if (iteration + 1) % self.config.log_every == 0:
                values = {"matching_loss": losses[-1], "step_size": float(synthetic.step_size)}
                context.log(values, step=iteration + 1)
            context.save_progress(lambda: Progress(synthetic.tensors(), {"losses": list(losses)}))
        return self._finish(synthetic, losses, context)

    def _begin(self, context: Context) -> tuple[SyntheticSet, list[float]]:
        """The synthetic set and the losses so far."""
        saved = context.load_progress()
        if saved is not None:
            return SyntheticSet.from_tensors(saved.tensors, self.device), list(saved.facts["losses"])
        images, labels = self._initial_images(context)
        if self.config.labels != "hard":
            labels = self._initial_logits(images, labels, context)
        return SyntheticSet.start(images, labels, self.config.step_size), []

    def _initial_images(self, context: Context) -> tuple[Tensor, Tensor]:
        """Class after class: images (n,C,H,W) and their classes (n,)."""
        classes, per_class = self.facts["classes"], self.config.images_per_class
        labels = torch.arange(classes, device=self.device).repeat_interleave(per_class)
        generator = torch.Generator().manual_seed(context.seed("init"))
        if self.config.init == "noise":
            shape = (len(labels), *self.facts["shape"])
            return torch.randn(shape, generator=generator).to(self.device), labels
        data = Dataset.model_validate(self.facts["dataset"]).load()
        images, real = prepare(data.train, self.transform, self.device)
        if self.config.init == "random":
            chosen = random_indices(real.cpu(), classes, per_class, generator)
        else:
            logits = self._expert_logits(images, context).cpu()
            chosen = representative_indices(logits, real.cpu(), classes, per_class, context.seed("kmeans"))
        return images[chosen.to(self.device)].clone(), labels

    def _initial_logits(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        if self.config.label_init == "one_hot":
            return one_hot_logits(labels, self.facts["classes"])
        return expert_logits(self._expert_logits(images, context), labels)

    def _expert_logits(self, images: Tensor, context: Context) -> Tensor:
        """Logits of one expert, always the same, at its last snapshot."""
        expert = self.experts[context.seed("init", "expert") % len(self.experts)]
        weights = read_snapshots(self.model, expert, [self.last_epoch])[0]
        return predict(self.model, weights.to(self.device), images)

    def _gradient(self, synthetic: SyntheticSet, context: Context, iteration: int) -> MatchingGradient:
        """One expert, one start epoch, N steps of a student: all drawn from this iteration's own streams."""
        config = self.config
        draws = torch.Generator().manual_seed(context.seed("iteration", iteration))
        start_epoch = int(torch.randint(config.max_start_epoch, (), generator=draws))
        start, targets = self._path(self._expert(context, iteration), start_epoch, draws)
        batches = student_batches(len(synthetic.images), config.batch_size, config.student_steps, draws)
        factor = balance(start_epoch, config.max_start_epoch) if config.balance_loss else 1.0

        def step_loss(step: int, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            noise = torch.Generator().manual_seed(context.seed("iteration", iteration, "step", step))
            batch = batches[step].to(self.device)
            augmented = augment(images[batch], self.facts["augment"], noise)
            return factor * cross_entropy(self.model(weights, augmented), labels[batch])

        return matching_gradient(
            step_loss,
            start,
            targets,
            synthetic.images,
            synthetic.labels,
            synthetic.step_size,
            steps=config.student_steps,
            momentum=config.student_momentum,
        )

    def _expert(self, context: Context, iteration: int) -> Expert:
        """Each expert once, in random order, then each again in another."""
        cycle, place = divmod(iteration, len(self.experts))
        generator = torch.Generator().manual_seed(context.seed("experts", cycle))
        return self.experts[int(torch.randperm(len(self.experts), generator=generator)[place])]

    def _path(
        self, expert: Expert, start_epoch: int, generator: torch.Generator
    ) -> tuple[Tensor, list[Target]]:
        """The student's start (P,) and where it should come by and end."""
        between, epochs = self.config.intermediate_matching, self.config.expert_epochs
        after = range(1, epochs + 1) if between != "none" else [epochs]
        rows = [start_epoch, *(start_epoch + k for k in after)]
        snapshots = read_snapshots(self.model, expert, rows).to(self.device)
        start = snapshots[0]
        if self.config.perturb_weights:
            start = self.model.flatten(perturb(self.model.unflatten(start), generator))
        return start, matching_targets(snapshots[1:], self.config.student_steps, between)

    def _update(self, synthetic: SyntheticSet, found: MatchingGradient, iteration: int) -> float:
        """Changes the synthetic set in place; the matching loss."""
        config, loss = self.config, float(found.loss)
        gradients = {"images": found.images, "step_size": found.step_size}
        if config.labels == "learned":
            assert found.labels is not None, "soft labels have a gradient"
            gradients["labels"] = found.labels
        synthetic.descend(gradients, config.rates())
        if not math.isfinite(loss) or not synthetic.is_finite():
            raise ValueError(
                f"iteration {iteration + 1}: with a matching loss of {loss} the synthetic set is no longer finite; "
                f"lower pixel_lr ({config.pixel_lr}) or step_size ({config.step_size})"
            )
        if synthetic.step_size <= 0:
            raise ValueError(
                f"iteration {iteration + 1}: the learned step size fell to {float(synthetic.step_size):.3g}; "
                f"lower step_size_lr ({config.step_size_lr}) or raise step_size ({config.step_size})"
            )
        return loss

    def _published(self, synthetic: SyntheticSet) -> Tensor:
        return synthetic.average if self.config.pixel_ema else synthetic.images

    def _preview(self, synthetic: SyntheticSet, context: Context, step: int) -> None:
        images = self.transform.invert(self._published(synthetic).cpu()).numpy()
        columns = self.config.images_per_class if 1 < self.config.images_per_class <= 10 else 10
        context.preview("synthetic", grid(images, columns), step)

    def _finish(self, synthetic: SyntheticSet, losses: Sequence[float], context: Context) -> Output:
        self._preview(synthetic, context, len(losses))
        curve = loss_curve(
            losses, title="Trajectory matching", axis="matching loss (1: expert's start, 0: its end)"
        )
        context.preview("matching_loss", curve, len(losses))
        tensors = {
            "images": self._published(synthetic),
            "labels": synthetic.probabilities(),
            "learning_rate": synthetic.step_size,
        }
        last = losses[-100:]
        return Output(
            tensors={"synthetic": {name: value.cpu().contiguous() for name, value in tensors.items()}},
            metrics={"matching_loss": sum(last) / len(last), "step_size": float(synthetic.step_size)},
        )

    @classmethod
    def close(
        cls,
        config: MatchingConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        return Output(
            tensors={"transform": inputs["experts"].tensors("transform")}, metrics=dict(shards[0].metrics)
        )

    @classmethod
    def rows(cls, artifact: Artifact) -> Iterator[pa.Table]:
        return distilled_rows(artifact)
