"""The settings of trajectory_matching, and what can be known to be wrong with them before work starts."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.task import Facts, Input, Settings
from tasks.data import Dataset, check_strategy
from tasks.dataset_distillation.matching import Intermediate
from tasks.dataset_distillation.synthetic import Rates
from tasks.dataset_distillation.trajectories import KIND


class MatchingConfig(Settings):
    """Settings of trajectory_matching; all switches off is MTT."""

    experts: Annotated[str, Input(KIND)]
    """The expert trajectories to match."""
    dataset: Dataset | None = None
    """Where the experts' dataset lies on this machine, if it has moved."""
    images_per_class: int = Field(default=1, gt=0)
    """Synthetic images of each class (IPC)."""
    iterations: int = Field(default=5000, gt=0)
    """Updates of the synthetic set."""
    expert_epochs: int = Field(default=2, gt=0)
    """M: how many of the expert's epochs the student is to make up for."""
    student_steps: int = Field(default=20, gt=0)
    """N: SGD steps of the student on the synthetic set in each iteration."""
    max_start_epoch: int = Field(default=20, gt=0)
    """T+: the student starts at an epoch drawn from 0 .. T+ - 1."""
    batch_size: int | None = Field(default=None, gt=0)
    """Synthetic images in a student's step; none takes all."""
    pixel_lr: float = Field(default=1000.0, gt=0)
    """Learning rate of the pixels."""
    pixel_momentum: float = Field(default=0.5, ge=0, lt=1)
    """Momentum of the pixels, a fraction."""
    pixel_ema: float = Field(default=0.0, ge=0, lt=1)
    """FTD: decay of the pixels' moving average, which is then published; 0 publishes them as they are."""
    step_size: float = Field(default=0.01, gt=0)
    """alpha at the start: the student's learning rate, which is learned."""
    step_size_lr: float = Field(default=1e-5, ge=0)
    """Learning rate of alpha; 0 keeps it fixed."""
    step_size_momentum: float = Field(default=0.5, ge=0, lt=1)
    """Momentum of alpha, a fraction."""
    init: Literal["random", "representative", "noise"] = "random"
    """Where pixels start: random real images; those nearest to k-means centres of an expert's logits (AST);
    or normal noise."""
    perturb_weights: bool = False
    """AST: start the student near the expert's weights instead of at them."""
    balance_loss: bool = False
    """AST: scale the student's loss by the factor b(t) of the start epoch."""
    intermediate_matching: Intermediate = "none"
    """AST: match the epochs between as well, each counting 1 (equal) or k/M (adaptive)."""
    student_momentum: float = Field(default=0.0, ge=0, lt=1)
    """AST: momentum of the student's SGD, 0.9 there; the effective step is step_size / (1 - momentum)."""
    labels: Literal["hard", "soft", "learned"] = "hard"
    """Class numbers; probabilities that stay as they start; or probabilities that are learned (DATM)."""
    label_init: Literal["expert", "one_hot"] = "expert"
    """Logits at which soft labels start: an expert's on the images they start from, or scaled one-hot."""
    label_lr: float = Field(default=2.0, gt=0)
    """Learning rate of the label logits, where they are learned."""
    label_momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of the label logits, a fraction."""
    augment: str | None = None
    """DSA strategy of the student's steps; none takes the experts', empty is no augmentation."""
    log_every: int = Field(default=10, gt=0)
    """Iterations between points of the curves."""
    preview_every: int = Field(default=500, gt=0)
    """Iterations between pictures of the synthetic images."""

    @field_validator("augment")
    @classmethod
    def _known_strategy(cls, value: str | None) -> str | None:
        check_strategy(value or "")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "MatchingConfig":
        if self.intermediate_matching != "none" and self.student_steps < self.expert_epochs:
            raise ValueError(
                f"intermediate_matching needs a student step for each expert epoch; raise student_steps "
                f"({self.student_steps}) to expert_epochs ({self.expert_epochs}) or more"
            )
        if self.labels != "hard" and self.init == "noise" and self.label_init == "expert":
            raise ValueError(
                "label_init: an expert's logits on noise mean nothing; set label_init to one_hot"
            )
        return self

    def rates(self) -> Rates:
        return Rates(
            lr={"images": self.pixel_lr, "step_size": self.step_size_lr, "labels": self.label_lr},
            momentum={
                "images": self.pixel_momentum,
                "step_size": self.step_size_momentum,
                "labels": self.label_momentum,
            },
            average_decay=self.pixel_ema,
        )


def check_epochs(config: MatchingConfig, epochs: int) -> None:
    """ValueError where the student would start or end beyond the `epochs` that the trajectories hold."""
    if config.expert_epochs > epochs:
        raise ValueError(
            f"expert_epochs: {config.expert_epochs} asked for, the trajectories hold {epochs} epochs; "
            f"lower expert_epochs to {epochs} or less"
        )
    largest = epochs - config.expert_epochs + 1
    if config.max_start_epoch > largest:
        raise ValueError(
            f"max_start_epoch: {config.max_start_epoch} with expert_epochs {config.expert_epochs} reaches "
            f"beyond the {epochs} epochs of the trajectories; lower max_start_epoch to {largest} or less"
        )


def check_dataset(config: MatchingConfig, dataset: Dataset, experts: Facts) -> None:
    """ValueError where the data are not those of the experts, or a class has too few images to start from."""
    digest = dataset.content_digest()
    if digest != experts["data_digest"]:
        raise ValueError(
            f"dataset: {dataset.name} has the digest {digest}, the experts saw {experts['data_digest']}; "
            "point dataset at the data of the experts, or train experts on this one"
        )
    data = dataset.load()
    smallest = min(range(len(data.classes)), key=lambda c: data.counts[c])
    if config.init != "noise" and data.counts[smallest] < config.images_per_class:
        raise ValueError(
            f"images_per_class: {config.images_per_class} asked for, class {data.classes[smallest]!r} of "
            f"{dataset.name} has {data.counts[smallest]} training images; "
            "lower images_per_class or set init to noise"
        )
