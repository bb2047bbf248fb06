"""Image classification models in Hugging Face's layout, as teachers. transformers is imported where it is used."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tasks.data.files import existing, first_line, reading
from tasks.nets import Trace

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
MODES = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the ways to resize."""


class Size(NamedTuple):
    """To what images are resized, and how."""

    sides: tuple[int, int]
    mode: str


class Classified(nn.Module):
    """Fulfils `Traced`; the maps are left out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.head = model, last_layer(model)

    def trace(self, images: Tensor) -> Trace:
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            logits = self.model(pixel_values=images).logits
        finally:
            hook.remove()
        return Trace(logits, seen[-1].flatten(1), ())

    def forward(self, images: Tensor) -> Tensor:
        return self.trace(images).logits


def folder(name: str, revision: str | None) -> Path:
    """Where a model lies: the folder itself, or that of the hub's files here, downloaded where they are missing."""
    here = Path(name).expanduser()
    if here.is_dir():
        if revision is not None:
            raise ValueError(f"teacher {name}: a folder has no `revision`: leave it out")
        return here.absolute()
    if revision is None or not COMMIT.fullmatch(revision):
        raise ValueError(
            f"teacher {name}: no such folder; for a model of the hub set `revision` to its commit, 40 hexadecimal "
            f"digits (found {revision})"
        )
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.safetensors", "*.json"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise ConnectionError(
            f"teacher {name}: cannot be downloaded ({first_line(error)}); give a folder that holds it"
        ) from error


def files(model: Path) -> dict[str, Path]:
    """What a model's digest is of, by name."""
    weights = sorted(model.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"teacher {model}: holds no safetensors file; save the model as safetensors")
    parts = [*weights, *(existing(model / name, "a part of the model") for name in (CONFIG, PROCESSOR))]
    return {part.name: part for part in parts}


def check(model: Path, classes: int) -> int:
    """How many numbers the last layer is given. ValueError where it knows another number of classes."""
    from transformers import AutoConfig, AutoModelForImageClassification

    with reading(model / CONFIG, "the config of an image classification model"):
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        if config.num_labels == classes:
            with torch.device("meta"):
                network = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    if config.num_labels != classes:
        raise ValueError(
            f"teacher {model}: knows {config.num_labels} classes, the dataset has {classes}; give a teacher of this "
            "dataset"
        )
    preprocessing(model)
    return last_layer(network).in_features


def load(model: Path) -> tuple[nn.Module, Tensor, Tensor, Size]:
    """The network, mean and std of its pixels, and the size it looks at."""
    from transformers import AutoModelForImageClassification

    with reading(model, "an image classification model"):
        network = AutoModelForImageClassification.from_pretrained(
            model, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    return Classified(network), *preprocessing(model)


def preprocessing(model: Path) -> tuple[Tensor, Tensor, Size]:
    """Mean, std and size of the model's processor; where it crops the middle, the image is resized to the crop."""
    with reading(model / PROCESSOR, "the settings of an image processor"):
        settings = json.loads((model / PROCESSOR).read_text())
        size = _sides(settings.get("crop_size") or settings["size"])
        mode = MODES[settings.get("resample", 2)]
        normalised = settings.get("do_normalize", True)
        mean, std = (
            torch.tensor(settings[name] if normalised else [default] * 3)
            for name, default in (("image_mean", 0.0), ("image_std", 1.0))
        )
    return mean, std, Size(size, mode)


def last_layer(model: nn.Module) -> nn.Linear:
    """The linear layer that gives the logits."""
    classes = int(model.config.num_labels)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    found = [layer for layer in layers if layer.out_features == classes]
    if not found:
        raise ValueError(
            f"teacher: {type(model).__name__} has no linear layer of {classes} outputs; use another"
        )
    return found[-1]


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    edge = size.get("shortest_edge")
    return (edge, edge) if edge else (size["height"], size["width"])
