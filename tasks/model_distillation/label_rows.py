"""Soft labels as rows for other tools: one a view, no codec needed."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from tasks.model_distillation.label_codec import decode
from tasks.model_distillation.label_files import FEATURES, KeptLabels, from_table, to_table

TOGETHER = 50_000
"""Views of a table."""


def label_rows(kept: KeptLabels) -> Iterator[pa.Table]:
    """`sample` and `epoch`, which with the seed and the views of the settings say what the teacher saw; `logits`
    (float32), or of top_k labels `ids`, `logprobs` and `tail`; `features` where they are kept. Views that were
    put aside are left out."""
    for shard in kept.shards:
        first, last = shard.identity["first"], shard.identity["last"]
        columns = from_table(shard.table("labels"))
        for start in range(first, last + 1, TOGETHER):
            numbers = np.arange(start, min(start + TOGETHER, last + 1))
            epochs, samples = np.divmod(numbers, kept.samples)
            pairs = zip(samples.tolist(), epochs.tolist(), strict=True)
            there = np.array([pair not in kept.set_aside for pair in pairs])
            own = {name: column[numbers - first][there] for name, column in columns.items()}
            yield to_table({"sample": samples[there], "epoch": epochs[there], **_opened(kept, own)})


def _opened(kept: KeptLabels, own: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not kept.labels.keeps_logits:
        return own
    features = {FEATURES: own[FEATURES]} if FEATURES in own else {}
    logits: torch.Tensor = decode(kept.labels, own, kept.classes)
    return {"logits": logits.numpy(), **features}
