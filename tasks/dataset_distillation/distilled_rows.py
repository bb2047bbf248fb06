"""A distilled set as rows for other tools."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from orchestrator.task import Artifact
from tasks.data import Transform
from tasks.data.image_rows import class_names, image_rows


def distilled_rows(artifact: Artifact) -> Iterator[pa.Table]:
    """`image`, eight bits a channel, without the transform and clipped; `label`; where labels are soft the likeliest
    class, and `probabilities` of all."""
    made, transform = artifact.shards[0].tensors("synthetic"), artifact.tensors("transform")
    images = Transform.from_tensors(transform).invert(made["images"]).numpy()
    labels, soft = made["labels"].numpy(), {}
    if labels.ndim == 2:
        soft = {"probabilities": pa.array(list(labels.astype(np.float32)), pa.list_(pa.float32()))}
        labels = labels.argmax(1)
    names = class_names(artifact.facts["dataset"], artifact.facts["classes"])
    yield image_rows(images, labels.astype(np.int64), names, soft)
