"""Tables of integer frequencies that symbols are coded with: each lane picks one by its context."""

import numpy as np
from numpy.typing import NDArray

from tasks.llm_distillation.labels.lanes import Numbers, Reader, Writer

BITS = 14
"""The frequencies of a table add up to 2**BITS."""
TOTAL = 1 << BITS
Mask = NDArray[np.bool_]


def shares(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Frequencies (C,S) proportional to `counts` (C,S), none of them 0, each row adding up to TOTAL."""
    symbols = counts.shape[1]
    assert symbols < TOTAL, f"{symbols} symbols"
    weight = counts + 1e-9
    weight = weight / weight.sum(1, keepdims=True)
    made = 1 + np.floor(weight * (TOTAL - symbols)).astype(np.int64)
    made[np.arange(len(made)), made.argmax(1)] += TOTAL - made.sum(1)
    return made


class Code:
    """C tables of S symbols. Lanes that are not `active` read and write nothing; they answer 0."""

    def __init__(self, frequency: Numbers) -> None:
        """`frequency` (C,S) as `shares` makes it; ValueError where it is damaged."""
        frequency = frequency.astype(np.int64)
        if (frequency < 1).any() or (frequency.sum(1) != TOTAL).any():
            raise ValueError("packed labels: their table of frequencies is damaged; make them anew")
        self.frequency = frequency
        self._shares = frequency.astype(np.uint32)
        self._starts = (frequency.cumsum(1) - frequency).astype(np.uint32)
        small = np.uint8 if frequency.shape[1] <= 256 else np.int32
        symbols = np.broadcast_to(np.arange(frequency.shape[1], dtype=small), frequency.shape)
        self._symbols = np.repeat(symbols.ravel(), frequency.ravel())

    def write(self, writer: Writer, context: Numbers, symbol: Numbers, active: Mask | None = None) -> None:
        start, share = self._starts[context, symbol], self._shares[context, symbol]
        write_interval(writer, start, share, active)

    def read(self, reader: Reader, context: Numbers, active: Mask | None = None) -> NDArray[np.int32]:
        symbol = self.symbol_at(context, reader.peek(BITS))
        start, share = self._starts[context, symbol], self._shares[context, symbol]
        read_interval(reader, start, share, active)
        return symbol if active is None else symbol * active

    def symbol_at(self, context: Numbers, place: Numbers) -> NDArray[np.int32]:
        """Whose interval a place of 0 .. TOTAL - 1 lies in."""
        return self._symbols[context.astype(np.int64) * TOTAL + place].astype(np.int32)


def write_interval(writer: Writer, start: Numbers, share: Numbers, active: Mask | None) -> None:
    """[start, start + share) of TOTAL; nothing in lanes that are not active, since a sure symbol takes no room."""
    if active is not None:
        start, share = start * active, np.where(active, share, TOTAL)
    writer.push(start, share, BITS)


def read_interval(reader: Reader, start: Numbers, share: Numbers, active: Mask | None) -> None:
    """Takes what `write_interval` wrote."""
    if active is not None:
        start, share = start * active, np.where(active, share, TOTAL)
    reader.pop(start, share, BITS)
