"""Takes over a distilled set that others have published: images, labels, learned step size, whitening.

MTT's code (Cazenavette et al. 2022) and those built on it save `images_best.pt`, `labels_best.pt` and `lr.pt`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
import torch
from pydantic import field_validator
from torch import Tensor

from orchestrator.task import (
    Artifact,
    Context,
    Facts,
    Needs,
    Output,
    Role,
    Settings,
    Shard,
    ShardFiles,
    Task,
)
from tasks.data import Dataset, ImageData, Transform, check_strategy
from tasks.dataset_distillation.distilled_rows import distilled_rows
from tasks.dataset_distillation.foreign import DataFile, pick
from tasks.dataset_distillation.foreign_set import (
    ChannelStatistics,
    ForeignSet,
    channels_first,
    check_labels,
    check_learning_rate,
    foreign_transform,
)
from tasks.nets import Network, resolve
from tasks.pictures import grid

PREVIEW_PER_CLASS = 10


class ImportDistilledConfig(Settings):
    """Settings of `import_distilled`. What the files do not say has to be given as it was when the set was made."""

    images: DataFile
    """File of the images (N,C,H,W) or (N,H,W[,C]): floats in the transformed space, or uint8 pixels, which
    are transformed here."""
    labels: DataFile | None = None
    """File of the labels (N,), or class probabilities (N,classes); None: tensor `labels` of the images' file."""
    learning_rate: float | DataFile | None = None
    """Learned step size, or the file that holds it; None: tensor `learning_rate` of the images' file."""
    dataset: Dataset
    """The real data that the set was distilled from."""
    network: Annotated[Network, Role.CLOSING] = Network()
    """The network that it was distilled with."""
    transform: Literal["normalize", "zca"] = "normalize"
    """The space of the images: normalised channels, or ZCA whitening."""
    statistics: DataFile | ChannelStatistics | None = None
    """Of that space where it was not fitted on `dataset`: {mean: [...], std: [...]} of the channels of pixels in
    [0, 1], or a file with the tensors `mean` and `std`, or for zca `mean` (D,) and the symmetric `matrix` (D,D)."""
    augment: Annotated[str, Role.CLOSING] = "color_crop_cutout_flip_scale_rotate"
    """Augmentation that it was distilled with; "": none."""

    @field_validator("learning_rate")
    @classmethod
    def _positive(cls, value: float | DataFile | None) -> float | DataFile | None:
        if isinstance(value, float) and value <= 0:
            raise ValueError(f"found {value}; expected a step size above 0")
        return value

    @field_validator("augment")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        check_strategy(value)
        return value


class ImportDistilled(Task[ImportDistilledConfig]):
    """Takes over a distilled set that others have published.

    One shard: the checked set, class after class.
    """

    version: ClassVar[int] = 1
    makes: ClassVar[str] = "distilled"
    Config: ClassVar[type[Settings]] = ImportDistilledConfig
    needs: ClassVar[Needs] = Needs(memory_gb=2.0)

    @classmethod
    def describe(cls, config: ImportDistilledConfig, inputs: Mapping[str, Facts]) -> Facts:
        data = config.dataset.load()
        found = read_set(config, data)
        if config.statistics is not None:
            foreign_transform(config.statistics, config.transform, data.shape)
        return {
            "dataset": config.dataset.model_dump(mode="json"),
            "data_digest": config.dataset.content_digest(),
            "shape": list(data.shape),
            "classes": len(data.classes),
            "network": resolve(config.network, data.shape, len(data.classes)).model_dump(mode="json"),
            "transform": config.transform,
            "augment": config.augment,
            "images_per_class": len(found.images) // len(data.classes),
            "soft_labels": found.soft,
        }

    @classmethod
    def shards(cls, config: ImportDistilledConfig, facts: Facts) -> Sequence[Shard]:
        c, h, w = facts["shape"]
        return [Shard({"set": 0}, disk_bytes=4 * facts["classes"] * facts["images_per_class"] * c * h * w)]

    def __init__(
        self, config: ImportDistilledConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.data = config, config.dataset.load()

    def compute(self, shard: Shard, context: Context) -> Output:
        found = read_set(self.config, self.data)
        pixels = found.images.dtype == torch.uint8
        images = _transform(self.config, self.data).apply(found.images) if pixels else found.images.float()
        tensors = {"images": images, "labels": found.labels, "learning_rate": found.learning_rate}
        return Output(tensors={"synthetic": {name: value.contiguous() for name, value in tensors.items()}})

    @classmethod
    def close(
        cls,
        config: ImportDistilledConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        transform = _transform(config, config.dataset.load())
        made, per_class = shards[0].tensors("synthetic"), facts["images_per_class"]
        shown = [row for row in range(len(made["images"])) if row % per_class < PREVIEW_PER_CLASS]
        columns = min(per_class, PREVIEW_PER_CLASS) if per_class > 1 else PREVIEW_PER_CLASS
        context.preview("synthetic", grid(transform.invert(made["images"][shown]).numpy(), columns))
        return Output(
            tensors={"transform": transform.tensors()},
            metrics={"step_size": float(made["learning_rate"])},
        )

    @classmethod
    def rows(cls, artifact: Artifact) -> Iterator[pa.Table]:
        return distilled_rows(artifact)


def read_set(config: ImportDistilledConfig, data: ImageData) -> ForeignSet:
    """Reads and checks all that the settings name; ValueError with one clear line for the first thing wrong."""
    own = config.images.read()
    images = channels_first(pick(own, "images", config.images.path), data.shape, config.images.path)
    if config.labels is not None:
        labels, where = config.labels.tensor("labels"), config.labels.path
    else:
        labels, where = _beside(own, "labels", config), config.images.path
    labels = check_labels(labels, len(images), len(data.classes), where)
    return ForeignSet(images, labels, _learning_rate(config, own)).class_by_class()


def _learning_rate(config: ImportDistilledConfig, own: Mapping[str, Tensor]) -> Tensor:
    given = config.learning_rate
    if isinstance(given, DataFile):
        return check_learning_rate(given.tensor("learning_rate"), given.path)
    value = _beside(own, "learning_rate", config) if given is None else torch.tensor(given)
    return check_learning_rate(value, config.images.path)


def _beside(own: Mapping[str, Tensor], name: str, config: ImportDistilledConfig) -> Tensor:
    if name not in own:
        raise ValueError(f"{name}: {config.images.path} holds no tensor of that name; set `{name}`")
    return own[name]


def _transform(config: ImportDistilledConfig, data: ImageData) -> Transform:
    if config.statistics is None:
        return Transform.fit(data.train.images, config.transform)
    return foreign_transform(config.statistics, config.transform, data.shape)
