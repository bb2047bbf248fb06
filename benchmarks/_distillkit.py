"""The bytes of DistillKit's published format for cached log-probabilities, written to its description.

Source: the README of arcee-ai/DistillKit ("Logit Compression", its recommended configuration and its budget pick)
and the order of bytes in its packing; the code is our own. A position's k log-probabilities are sorted; the first
`exact` are kept as bf16; a sum of terms in the rank is fitted to the rest by least squares, its coefficients kept as
float32; ids are packed at ceil(log2 V) bits. Neither row keeps residuals.

Where a choice is open it is in its favour: coefficients are fitted and read in double precision.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Term = int | Literal["sqrt"]


@dataclass(frozen=True)
class Published:
    """A configuration; k log-probabilities a position."""

    k: int
    exact: int
    terms: tuple[Term, ...]

    def bytes_per_token(self, vocabulary: int) -> int:
        ids = math.ceil(self.k * math.ceil(math.log2(vocabulary)) / 8)
        return 2 * self.exact + 4 * len(self.terms) + ids


def published(k: int) -> Published:
    """The budget pick at k=50; at any other k the recommended row (published for k=128) with that k."""
    if k == 50:
        return Published(50, exact=1, terms=(0, 1, "sqrt"))
    return Published(k, exact=16, terms=(0, 1, 2, 3, 4, "sqrt"))


def pack(logprobs: NDArray[np.float32], ids: NDArray[np.int64], vocabulary: int, form: Published) -> bytes:
    """The positions one after another; `logprobs` (n,k) descending, `ids` (n,k)."""
    exact = torch.from_numpy(logprobs[:, : form.exact].copy()).to(torch.bfloat16).view(torch.uint8).numpy()
    rest = logprobs[:, form.exact :].astype(np.float64)
    coefficients = (rest @ np.linalg.pinv(_terms(form)).T).astype(np.float32)
    width = math.ceil(math.log2(vocabulary))
    bits = (ids[:, :, None] >> np.arange(width)) & 1
    packed = np.packbits(bits.reshape(len(ids), -1).astype(np.uint8), axis=1, bitorder="little")
    return np.concatenate([exact, coefficients.view(np.uint8), packed], axis=1).tobytes()


def unpack(packed: bytes, vocabulary: int, form: Published) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The log-probabilities (n,k) as they are read back, and the ids (n,k)."""
    rows = np.frombuffer(packed, np.uint8).reshape(-1, form.bytes_per_token(vocabulary))
    ends = np.cumsum([2 * form.exact, 4 * len(form.terms)])
    exact, coefficients, ids = (np.ascontiguousarray(part) for part in np.split(rows, ends, axis=1))
    first = torch.from_numpy(exact).view(torch.bfloat16).double().numpy()
    rest = coefficients.view(np.float32).astype(np.float64) @ _terms(form).T
    width = math.ceil(math.log2(vocabulary))
    bits = np.unpackbits(ids, axis=1, count=form.k * width, bitorder="little")
    numbers = bits.reshape(len(rows), form.k, width).astype(np.int64) @ (1 << np.arange(width))
    return np.concatenate([first, rest], axis=1), numbers


def _terms(form: Published) -> NDArray[np.float64]:
    """(k - exact, terms): each term at each rank, counted from the first value that is not exact."""
    rank = np.arange(form.k - form.exact, dtype=np.float64)
    return np.stack([np.sqrt(rank) if term == "sqrt" else rank**term for term in form.terms], axis=1)
