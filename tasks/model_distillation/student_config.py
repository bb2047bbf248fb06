"""Settings of the task distill_student."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from orchestrator.task import Facts, Input, Role, Settings
from tasks.data import Dataset
from tasks.model_distillation import label_files
from tasks.model_distillation.label_codec import Labels
from tasks.model_distillation.methods import OF_FEATURES, Method
from tasks.model_distillation.optimisation import Optimisation
from tasks.model_distillation.student_training import Recipe
from tasks.model_distillation.views import Views
from tasks.nets.classifier import Classifier

ABSOLUTE = ("logit_mse", "dhkd")
"""Terms that compare logits themselves, not only their differences."""


class StudentConfig(Settings):
    """Settings of distill_student."""

    dataset: Dataset
    """The images; those that the labels were made for."""
    student: Classifier
    """The network that learns."""
    labels: Annotated[str | None, Input(label_files.KIND)] = None
    """The teacher's labels, made by `soft_labels`; none: only methods that need no teacher."""
    methods: Annotated[tuple[Method, ...], Role.PLAN]
    """Methods to compare, by name or with settings of their own, e.g. `[control, kd, {name: kd, nd: 2}]`."""
    repeats: Annotated[int, Role.PLAN] = Field(default=3, ge=1)
    """Students of each method. First weights and the order of the samples are those of the repeat, the same for all
    methods, so that they are compared in pairs."""
    views: Views | None = None
    """How an image is changed, anew each epoch, where there are no labels; labels bring their own views."""
    epochs: int = Field(default=240, ge=1)
    """Epochs."""
    batch_size: int = Field(default=128, ge=2)
    """Images of a step at most, of all ranks together."""
    optimisation: Optimisation = Optimisation()
    """Optimiser and schedule."""
    bf16: bool = False
    """Let the network, not the losses, run in bfloat16."""
    test_every: int = Field(default=5, ge=1)
    """Epochs between points of the curve of test accuracy. The last epoch is always tested."""
    published: Annotated[str | None, Role.CLOSING] = None
    """The method whose first student stands in the file `model`; none: the last one."""

    @model_validator(mode="after")
    def _methods_apart(self) -> Self:
        if not self.methods:
            raise ValueError("methods: found none; name one, such as kd")
        called, computed = set[str](), dict[str, str]()
        for method in self.methods:
            if method.label in called:
                raise ValueError(f"methods: two are called {method.label!r}; give one of them a `title`")
            if method.formula in computed:
                same = f"{computed[method.formula]!r} and {method.label!r}"
                raise ValueError(f"methods: {same} are the same; leave one out")
            called.add(method.label)
            computed[method.formula] = method.label
        return self

    @model_validator(mode="after")
    def _views_fit(self) -> Self:
        if self.labels is not None and self.views is not None:
            raise ValueError("views: the labels bring the views that they were made for; leave `views` out")
        return self

    @model_validator(mode="after")
    def _published_exists(self) -> Self:
        known = [method.label for method in self.methods]
        if self.published is not None and self.published not in known:
            raise ValueError(f"published: found {self.published!r}; expected one of {', '.join(known)}")
        return self

    @property
    def shown(self) -> Method:
        """The method whose student is published."""
        by_label = {method.label: method for method in self.methods}
        return by_label[self.published] if self.published else self.methods[-1]

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimisation=self.optimisation,
            bf16=self.bf16,
        )


def check_methods(config: StudentConfig, labels: Facts | None) -> None:
    """ValueError for a method that needs of the teacher what the labels, by their facts, do not hold."""
    for method in config.methods:
        terms = ", ".join(name for name in method.terms if name not in ("ce", "ensloss"))
        if labels is None:
            if method.needs():
                raise ValueError(f"method {method.label}: {terms} needs a teacher; set `labels`")
            continue
        if "features" in method.needs() and not labels["features"]:
            wanting = ", ".join(name for name in OF_FEATURES if name in method.terms)
            raise ValueError(
                f"method {method.label}: {wanting} needs the teacher's features, which the labels do not hold; set "
                "`features: true` in soft_labels, or leave the method out"
            )
        kept = Labels.model_validate(labels["labels"])
        absolute = [name for name in ABSOLUTE if name in method.terms]
        if absolute and not kept.keeps_logits:
            raise ValueError(
                f"method {method.label}: {absolute[0]} compares logits, but labels of precision {kept.precision} keep "
                "probabilities alone; make labels of another precision, or leave the method out"
            )
        if method.nd and labels["views"]["mix"] != "none":
            raise ValueError(
                f"method {method.label}: nd needs the mean features of each class, which mixed views do not have; make "
                "labels of views without `mix`, or leave the method out"
            )
