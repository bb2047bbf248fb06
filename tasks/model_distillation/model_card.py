"""What a student is, for those who get it without its store: a config to load it by, and a card to read."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
from torch import Tensor

from orchestrator.task import Facts, Json
from tasks.model_distillation.student_config import StudentConfig

SHOWN = ("method", "students", "accuracy_%", "accuracy_se_%", "agreement_%", "nll", "ece_%")
"""Columns of the summary."""


def model_config(facts: Facts, class_names: Sequence[str], pixels: Mapping[str, Tensor]) -> Json:
    """Architecture, classes and pre-processing of the weights in the file `model`."""
    return {
        "model_type": "limbeck_classifier",
        "classifier": facts["classifier"],
        "shape": facts["shape"],
        "class_names": list(class_names),
        **{name: values.tolist() for name, values in pixels.items()},
    }


def model_card(config: StudentConfig, facts: Facts, labels: Facts | None, summary: pa.Table) -> Json:
    """Title and text, in Markdown. What every artifact's card says (settings, inputs, commit) is left to the export."""
    method = config.shown
    title = f"{config.student.tag} for {config.dataset.name}, trained by {method.label}"
    return {
        "title": title,
        "text": "\n\n".join([_what(config, facts), _teacher(labels), _scores(summary), _loading()]),
    }


def _what(config: StudentConfig, facts: Facts) -> str:
    channels, height, width = facts["shape"]
    return (
        f"Classifies images of {height}x{width} pixels in {channels} channels into {facts['classes']} classes; "
        f"{facts['parameters']:,} parameters. `model.safetensors` holds the first student of the method "
        f"`{config.shown.label}` (loss: `{config.shown.formula}`), after the last of {config.epochs} epochs; all "
        "students lie under `shards/`. No epoch and no student was picked by its score. "
        f"Data: {config.dataset.name}, digest `{facts['data_digest']}`."
    )


def _teacher(labels: Facts | None) -> str:
    if labels is None:
        return "It had no teacher."
    told = labels["teacher"]
    name = told.get("huggingface") or told["classifier"]["name"]
    return f"Teacher: {name}, digest of weights and pre-processing `{labels['teacher_digest']}`."


def _scores(summary: pa.Table) -> str:
    """The summary as a Markdown table; means and standard errors over the students of a method."""
    rows = [[_shown(row[name]) for name in SHOWN] for row in summary.to_pylist()]
    lines = [list(SHOWN), ["---"] * len(SHOWN), *rows]
    return "On the test set:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _loading() -> str:
    return """To load it:

```python
import json, torch
from safetensors.torch import load_file
from tasks.nets.classifier import Classifier, build_classifier

config = json.load(open("config.json"))
network = build_classifier(
    Classifier(**config["classifier"]), tuple(config["shape"]), len(config["class_names"]), seed=0
)
network.load_state_dict(load_file("model.safetensors"))
network.eval()
mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
logits = network((pixels - mean) / std)  # pixels: float (N, C, H, W) in [0, 1]
```

It can teach others: `teacher: {checkpoint: model.safetensors, classifier: ..., mean: ..., std: ...}` of the task
`soft_labels`."""


def _shown(value: object) -> str:
    return "" if value is None else str(value)
