"""A teacher's logits as columns of few bytes, and back.

| precision | columns of a row | what comes back |
|---|---|---|
| fp16, bf16 | `logits` (C) | the logits, rounded |
| int8 | `codes` uint8 (C), `offset`, `step` float32 | the logits, to within half a step of (max - min) / 255 |
| top_k | `ids` (k), `logprobs` float16 (k), `tail` float16: the log of the probability of all others together | log
probabilities, the tail spread evenly over the others; the common level of the logits is lost |

Columns are numpy arrays, as Arrow holds them; bf16 is kept as the upper 16 bits of a float32, in uint16.
"""

import math
from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor

from orchestrator.task import Settings

Columns = Mapping[str, npt.NDArray[np.generic]]
"""Column name to a row for each of N samples: (N,) or (N, width)."""
LEVELS = 255


class Labels(Settings):
    """In what form a teacher's labels are kept. `labels: int8` is short for `{precision: int8}`."""

    precision: Literal["fp16", "bf16", "int8", "top_k"] = "fp16"
    """Number format of the logits, or only the largest `k` with the mass of the tail."""
    k: int | None = Field(default=None, gt=0)
    """For top_k: how many classes are kept of each label."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"precision": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if (self.k is not None) != (self.precision == "top_k"):
            wanted = "needs `k`" if self.precision == "top_k" else "takes no `k`"
            raise ValueError(f"labels: precision {self.precision} {wanted}")
        return self

    @property
    def keeps_logits(self) -> bool:
        """Whether what comes back is the logits themselves, not only their differences."""
        return self.precision != "top_k"


def check_labels(labels: Labels, classes: int) -> None:
    """ValueError for more classes kept than there are to leave out."""
    if labels.k is not None and labels.k >= classes:
        raise ValueError(f"labels: k is {labels.k} of {classes} classes; lower it, or use fp16")


def fault(labels: Labels, logits: Tensor) -> list[str]:
    """For each row of logits (N, C) why it cannot be kept; empty where it can."""
    finite = logits.isfinite().all(1)
    low = logits.amin(1) < torch.finfo(torch.float16).min
    high = logits.amax(1) > torch.finfo(torch.float16).max
    overflow = (low | high) if labels.precision == "fp16" else torch.zeros_like(low)
    return [
        "" if fine and not large else "a logit is not finite" if not fine else "a logit is beyond fp16"
        for fine, large in zip(finite.tolist(), overflow.tolist(), strict=True)
    ]


def encode(labels: Labels, logits: Tensor) -> dict[str, npt.NDArray[np.generic]]:
    """Finite float32 logits (N, C) on the CPU to columns."""
    if labels.precision == "fp16":
        return {"logits": logits.half().numpy()}
    if labels.precision == "bf16":
        return {"logits": logits.bfloat16().view(torch.uint16).numpy()}
    return _quantised(logits) if labels.precision == "int8" else _largest(logits, labels.k)


def decode(labels: Labels, columns: Columns, classes: int) -> Tensor:
    """float32 (N, classes): the logits, of top_k the log probabilities."""
    if labels.precision == "fp16":
        return torch.from_numpy(columns["logits"].astype(np.float32))
    if labels.precision == "bf16":
        wide = columns["logits"].astype(np.uint32) << np.uint32(16)
        return torch.from_numpy(wide.view(np.float32))
    if labels.precision == "int8":
        steps = columns["codes"].astype(np.float32) * columns["step"][:, None]
        return torch.from_numpy(steps + columns["offset"][:, None])
    return _spread(columns, classes)


def kl_divergence(logits: Tensor, stored: Tensor, temperature: float) -> Tensor:
    """KL of the softmax of `stored` from that of `logits`, both (N, C) at this temperature: (N,), in nats."""
    true, found = ((value.double() / temperature).log_softmax(1) for value in (logits, stored))
    return (true.exp() * (true - found)).sum(1).clamp(min=0)


def row_bytes(labels: Labels, classes: int) -> int:
    """Bytes of a row's columns."""
    if labels.k is not None:
        return labels.k * (id_type(classes).itemsize + 2) + 2
    return classes + 8 if labels.precision == "int8" else 2 * classes


def id_type(classes: int) -> np.dtype[np.unsignedinteger]:
    """The smallest type that holds every class number."""
    return np.min_scalar_type(classes - 1)


def _quantised(logits: Tensor) -> dict[str, npt.NDArray[np.generic]]:
    offset = logits.amin(1)
    step = (logits.amax(1) - offset) / LEVELS
    codes = ((logits - offset[:, None]) / step.clamp(min=1e-30)[:, None]).round().clamp(0, LEVELS)
    return {"codes": codes.to(torch.uint8).numpy(), "offset": offset.numpy(), "step": step.numpy()}


def _largest(logits: Tensor, k: int | None) -> dict[str, npt.NDArray[np.generic]]:
    assert k is not None
    logprobs = logits.log_softmax(1)
    order = logprobs.argsort(dim=1, descending=True, stable=True)
    kept = logprobs.gather(1, order[:, :k])
    tail = logprobs.gather(1, order[:, k:]).logsumexp(1)
    least = torch.finfo(torch.float16).min
    return {
        "ids": order[:, :k].numpy().astype(id_type(logits.shape[1])),
        "logprobs": kept.clamp(min=least).half().numpy(),
        "tail": tail.clamp(min=least).half().numpy(),
    }


def _spread(columns: Columns, classes: int) -> Tensor:
    ids = torch.from_numpy(columns["ids"].astype(np.int64))
    kept, tail = (torch.from_numpy(columns[name].astype(np.float32)) for name in ("logprobs", "tail"))
    others = tail - math.log(classes - ids.shape[1])
    return others[:, None].repeat(1, classes).scatter_(1, ids, kept).log_softmax(1)
