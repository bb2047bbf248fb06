"""The setting `teacher:` and how it becomes a network that looks at pixels.

A teacher is known by its weights and by its pre-processing: `content_digest` depends on both, and on no path.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn.functional import interpolate

from orchestrator.task import Artifact, Facts, Settings
from tasks.data.digest import digest_of_files
from tasks.data.files import existing, reading
from tasks.model_distillation import hugging_face
from tasks.nets import Classifier, Trace, Traced, build_classifier, feature_size

KIND = "classifier"
"""The kind of artifact that `train_teacher` makes."""
COUNTERS = "num_batches_tracked"
"""Of batch norm; no checkpoint needs to hold them."""

Shape = tuple[int, int, int]


class Teacher(Settings):
    """A trained image classifier: a checkpoint of one of our architectures, or a model of Hugging Face."""

    checkpoint: str | None = None
    """A safetensors file of `classifier`. A relative path is looked for here, then in the folder of the datasets
    (${LIMBECK_DATA:-~/.cache/limbeck/data})."""
    classifier: Classifier | None = None
    """The architecture of `checkpoint`, e.g. cifar_resnet56."""
    mean: tuple[float, ...] | None = None
    """For `checkpoint`: what is taken from the pixels of each channel, which lie between 0 and 1."""
    std: tuple[float, ...] | None = None
    """For `checkpoint`: what they are divided by then."""
    huggingface: str | None = None
    """An image classification model in Hugging Face's layout: a folder, or the id of a model on the hub. Its own
    pre-processing holds. Code that comes with a model is not run."""
    revision: str | None = None
    """The commit of the model on the hub, 40 hexadecimal digits."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.checkpoint is None) == (self.huggingface is None):
            raise ValueError("teacher: give either `checkpoint` or `huggingface`")
        if self.checkpoint is not None:
            missing = [name for name in ("classifier", "mean", "std") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"teacher: a checkpoint needs `{missing[0]}`: add it")
            if self.revision is not None:
                raise ValueError("teacher: a checkpoint has no `revision`: leave it out")
            assert self.std is not None
            if min(self.std) <= 0:
                raise ValueError(f"teacher: std is {self.std}; expected numbers above 0")
        elif any(value is not None for value in (self.classifier, self.mean, self.std)):
            raise ValueError(
                "teacher: a Hugging Face model brings its own classifier, mean and std: leave them out"
            )
        return self

    def content_digest(self) -> str:
        """64 hexadecimal digits of weights and pre-processing. ValueError for files that cannot be read,
        ConnectionError where a model cannot be downloaded."""
        if self.huggingface is not None:
            return digest_of_files("huggingface", hugging_face.files(self._folder))
        weights = digest_of_files("checkpoint", {"weights": self._file})
        return _digest({"weights": weights, **self._form})

    def facts(self, shape: Shape, classes: int) -> dict[str, object]:
        """What it is, and `features`, how many numbers its last layer is given.

        ValueError where it does not fit images of `shape` (C, H, W) with so many classes.
        """
        if self.huggingface is not None:
            size = hugging_face.check(self._folder, classes)
            return {"huggingface": self.huggingface, "revision": self.revision, "features": size}
        assert self.classifier is not None
        _check_checkpoint(self._file, self.classifier, shape, classes)
        for name in ("mean", "std"):
            if len(getattr(self, name)) != shape[0]:
                raise ValueError(
                    f"teacher: {name} has {len(getattr(self, name))} numbers for images of {shape[0]} channels"
                )
        return {**self._form, "features": feature_size(self.classifier, shape, classes)}

    def load(self, shape: Shape, classes: int, device: str) -> "Seeing":
        """Ready to label: in test mode, without gradients."""
        if self.huggingface is not None:
            network, mean, std, size = hugging_face.load(self._folder)
            return seeing(network, mean, std, device, size)
        from safetensors.torch import load_file

        assert self.classifier is not None
        assert self.mean is not None
        assert self.std is not None
        network = build_classifier(self.classifier, shape, classes, seed=0)
        with reading(self._file, "a safetensors file"):
            fill(network, load_file(self._file))
        return seeing(network, torch.tensor(self.mean), torch.tensor(self.std), device)

    @property
    def _form(self) -> dict[str, object]:
        """Architecture and pre-processing."""
        assert self.classifier is not None
        return {"classifier": self.classifier.model_dump(), "mean": self.mean, "std": self.std}

    @property
    def _file(self) -> Path:
        assert self.checkpoint is not None
        here = Path(self.checkpoint).expanduser()
        data = Path(os.environ.get("LIMBECK_DATA") or "~/.cache/limbeck/data").expanduser()
        found = here if here.exists() else data / here
        return existing(found, "the safetensors file of a teacher")

    @property
    def _folder(self) -> Path:
        assert self.huggingface is not None
        return hugging_face.folder(self.huggingface, self.revision)


class Seeing(nn.Module):
    """A classifier with the pre-processing that it was trained with: pixels in [0, 1] (N, C, H, W) to a Trace."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, size: hugging_face.Size | None) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])

    @property
    def head(self) -> nn.Linear:
        return cast(Traced, self.network).head

    def trace(self, pixels: Tensor) -> Trace:
        if self.size is not None:
            pixels = interpolate(pixels, self.size.sides, mode=self.size.mode, antialias=True)
            pixels = pixels.expand(-1, len(self.mean), -1, -1)
        return cast(Traced, self.network).trace((pixels - self.mean) / self.std)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.trace(pixels).logits


def seeing(
    network: nn.Module, mean: Tensor, std: Tensor, device: str, size: hugging_face.Size | None = None
) -> Seeing:
    """Ready to label: on the device, in test mode, without gradients."""
    return Seeing(network, mean, std, size).to(device).eval().requires_grad_(False)


def load_trained(artifact: Artifact, member: int, device: str) -> Seeing:
    """One of the classifiers of an artifact of `train_teacher`, ready to label."""
    facts = artifact.facts
    channels, height, width = facts["shape"]
    classifier = Classifier.model_validate(facts["classifier"])
    network = build_classifier(classifier, (channels, height, width), facts["classes"], seed=0)
    fill(network, artifact.shards[member].tensors("weights"))
    pixels = artifact.tensors("transform")
    return seeing(network, pixels["mean"], pixels["std"], device)


def trained_digest(artifact: Artifact, member: int) -> str:
    """As `Teacher.content_digest`, of a classifier that was trained here."""
    tensors = {**artifact.shards[member].tensors("weights"), **artifact.tensors("transform")}
    weights = {
        name: [str(value.dtype), list(value.shape), hashlib.sha256(value.numpy().tobytes()).hexdigest()]
        for name, value in tensors.items()
    }
    return _digest({"weights": weights, "classifier": artifact.facts["classifier"]})


def trained_facts(facts: Facts, member: int, shape: Shape, classes: int) -> dict[str, object]:
    """As `Teacher.facts`, from the facts of an artifact of `train_teacher`."""
    if (tuple(facts["shape"]), facts["classes"]) != (shape, classes):
        raise ValueError(
            f"trained_teacher: was trained on images of {tuple(facts['shape'])} in {facts['classes']} classes, the "
            f"dataset has {shape} in {classes}; give the dataset that it was trained for"
        )
    if member >= facts["repeats"]:
        raise ValueError(f"member {member}: trained_teacher has the members 0 to {facts['repeats'] - 1}")
    classifier = Classifier.model_validate(facts["classifier"])
    size = feature_size(classifier, shape, classes)
    return {"classifier": facts["classifier"], "member": member, "features": size}


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads weights by name. ValueError that names the first tensor that is missing, strange or misshapen."""
    _check_tensors({name: tuple(value.shape) for name, value in tensors.items()}, network, "weights")
    network.load_state_dict(tensors, strict=False)


def _check_checkpoint(file: Path, classifier: Classifier, shape: Shape, classes: int) -> None:
    from safetensors import safe_open

    with torch.device("meta"):
        network = build_classifier(classifier, shape, classes, seed=0)
    with reading(file, "a safetensors file"), safe_open(file, framework="pt") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    head = next(name for name, module in network.named_modules() if module is network.head)
    known = shapes.get(f"{head}.bias", (classes,))[0]
    if known != classes:
        raise ValueError(
            f"teacher {file}: knows {known} classes, the dataset has {classes}; give a teacher of this dataset"
        )
    _check_tensors(shapes, network, f"teacher {file}")


def _check_tensors(shapes: Mapping[str, tuple[int, ...]], network: nn.Module, where: str) -> None:
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name in sorted(wanted.keys() | shapes.keys()):
        if name.endswith(COUNTERS) or wanted.get(name) == shapes.get(name):
            continue
        raise ValueError(
            f"{where}: tensor {name} is {shapes.get(name, 'missing')}, expected {wanted.get(name, 'none')}; name the "
            "classifier that the weights are of"
        )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
