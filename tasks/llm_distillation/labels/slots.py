"""Where tokens lie on a line, so that a set becomes a row of gaps: what the ids of a set are written as.

For each kind of position the tokens lie side by side, each as long as its hazard: a token that is likely to be in
the set takes several slots, unlikely ones of like hazard share one. The gaps between the members of a set, in
slots, then have nearly one distribution, the same in all places and for all kinds; it is learned, given the gap
before. A member's gap is any within its slots, so it is written as the interval that these have in that
distribution; which of those that share a slot it is, takes plain bits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.llm_distillation.labels.hazards import Hazards
from tasks.llm_distillation.labels.lanes import Numbers, Reader, Writer
from tasks.llm_distillation.labels.shares import BITS, Code, Mask, read_interval, write_interval

SLOTS = 16.0
"""Slots for a hazard of 1."""
LONGEST = 255
"""Gaps of so many slots and more are written as an escape and a place."""
PLACE_BITS = 16
"""Enough for 1,024 tokens, each sure to be in the set."""
MOST_SHARED = 12
"""At most 2**12 tokens share a slot."""
BEFORE = (1, 3, 7, 15, 31)
"""Where classes of the gap before begin, in slots."""
CONTEXTS = len(BEFORE) + 1
FIRST = 3
"""The class that a set begins with."""


@dataclass(frozen=True)
class Line:
    """The tokens of one kind of position. E entries: single tokens, or several that share a slot."""

    tokens: NDArray[np.int32]
    """(V,): the tokens, entry by entry."""
    first: NDArray[np.int32]
    """(E,): where in `tokens` an entry begins."""
    shared_bits: NDArray[np.int32]
    """(E,): the entry has up to 2**this tokens."""
    end: NDArray[np.int32]
    """(E,): the slot after its last."""

    @property
    def width(self) -> NDArray[np.int32]:
        return np.diff(self.end, prepend=0).astype(np.int32)


def neighbours(hazards: Hazards) -> NDArray[np.int64]:
    """The tokens by group, the more frequent first."""
    return np.lexsort((-hazards.frequency.astype(np.int32), hazards.group))


def line(hazards: Hazards, kind: int, near: NDArray[np.int64]) -> Line:
    """Of the tokens in the order `near`, those that take slots of their own first; then those that share, by how
    many do."""
    length = SLOTS * hazards.of(kind)[near]
    mantissa, exponent = np.frexp(length)
    bits = np.clip(np.where(length >= 0.75, 0, (mantissa < 0.75) - exponent), 0, MOST_SHARED)
    order = np.argsort(bits, kind="stable")
    bits, length = bits[order], length[order]
    runs = np.bincount(bits, minlength=MOST_SHARED + 1)
    place = np.arange(len(bits)) - (runs.cumsum() - runs)[bits]
    first = np.flatnonzero(place & ((1 << bits) - 1) == 0)
    width = np.where(bits[first] == 0, np.maximum(np.rint(length[first]), 1), 1)
    made = (near[order], first, bits[first], width.cumsum())
    return Line(*(part.astype(np.int32) for part in made))


class Lines:
    """The lines of all kinds, side by side for lookups. ValueError where they are damaged."""

    def __init__(self, hazards: Hazards) -> None:
        near = neighbours(hazards)
        lines = [line(hazards, kind, near) for kind in range(len(hazards.ratio))]
        vocabulary, longest = len(hazards.frequency), max(int(own.end[-1]) for own in lines)
        if longest >= 1 << PLACE_BITS:
            raise ValueError(f"packed labels: tokens take {longest} slots; their tables are damaged")
        entries = [len(own.first) for own in lines]
        base = np.cumsum([0, *entries[:-1]])
        self.slots, self.vocabulary = longest, vocabulary
        self.first = np.concatenate([own.first + k * vocabulary for k, own in enumerate(lines)])
        self.bits = np.concatenate([own.shared_bits for own in lines])
        self.end = np.concatenate([own.end for own in lines])
        self.width = np.concatenate([own.width for own in lines])
        self.tokens = np.concatenate([own.tokens for own in lines])
        self.entry_at = np.zeros((len(lines), longest), np.int32)
        for own, start, row in zip(lines, base, self.entry_at, strict=True):
            row[:] = start + len(own.first) - 1
            row[: own.end[-1]] = start + np.repeat(np.arange(len(own.first)), own.width)
        self._base, self._entries = base, entries

    def located(self, kind: Numbers, ids: Numbers) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The entry (N,k) of each id of N positions of these kinds, and its number within the entry."""
        entry, within = np.empty(ids.shape, np.int32), np.empty(ids.shape, np.int32)
        for own in np.unique(kind):
            start = own * self.vocabulary
            places = np.empty(self.vocabulary, np.int32)
            places[self.tokens[start : start + self.vocabulary]] = np.arange(start, start + self.vocabulary)
            rows = np.flatnonzero(kind == own)
            place = places[ids[rows]]
            firsts = self.first[self._base[own] : self._base[own] + self._entries[own]]
            found = np.searchsorted(firsts, place, side="right") - 1
            entry[rows], within[rows] = found + self._base[own], place - firsts[found]
        return entry, within


@dataclass
class Walk:
    """Where each lane is on its line, and the class of the gap before."""

    at: NDArray[np.int32]
    context: NDArray[np.int32]

    @classmethod
    def start(cls, lanes: int) -> "Walk":
        return cls(np.zeros(lanes, np.int32), np.full(lanes, FIRST, np.int32))

    def step(self, lines: Lines, entry: Numbers, active: Mask) -> "Interval":
        """On to these entries: the gaps they lie at, from and to, before the walk goes there. Lanes that are not
        active stay, whatever their entry is."""
        end = np.where(active, lines.end[entry], self.at)
        begin = np.where(active, lines.end[entry] - lines.width[entry], self.at)
        alone = lines.bits[entry] == 0
        interval = Interval(begin - self.at, end - self.at, self.context)
        self.context = np.searchsorted(BEFORE, interval.low, side="right").astype(np.int32)
        self.at = np.where(alone, end, begin)
        return interval


@dataclass(frozen=True)
class Interval:
    """Gaps low <= gap < high, after a gap of class `context`; none, 0 to 0, in lanes that are not active."""

    low: NDArray[np.int32]
    high: NDArray[np.int32]
    context: NDArray[np.int32]

    @property
    def escaped(self) -> Mask:
        return self.low >= LONGEST


def gap_counts(intervals: list[Interval], active: list[Mask]) -> NDArray[np.float64]:
    """(CONTEXTS, LONGEST + 1): how often gaps occur; an interval counts evenly for each of its gaps."""
    change = np.zeros((CONTEXTS, LONGEST + 2))
    for own, lanes in zip(intervals, active, strict=True):
        low, high = np.minimum(own.low, LONGEST), np.minimum(own.high, LONGEST)
        high = np.maximum(high, low + 1)
        weight = lanes / (high - low)
        np.add.at(change, (own.context, low), weight)
        np.add.at(change, (own.context, high), -weight)
    return np.maximum(change.cumsum(1)[:, :-1], 0) + 0.05


class GapCode:
    """Writes and reads the steps of walks; the table of gaps is as `shares` makes it."""

    def __init__(self, frequency: Numbers) -> None:
        self._code = Code(frequency)
        ends = self._code.frequency.cumsum(1)
        self._before = np.concatenate([np.zeros((CONTEXTS, 1)), ends], axis=1).astype(np.uint32)

    def write(self, writer: Writer, lines: Lines, interval: Interval, entry: Numbers, active: Mask) -> None:
        escaped = interval.escaped & active
        writer.push_bits(np.where(escaped, lines.end[entry] - 1, 0), PLACE_BITS * escaped)
        low = np.minimum(interval.low, LONGEST)
        high = np.where(escaped, LONGEST + 1, np.minimum(interval.high, LONGEST))
        start = self._before[interval.context, low]
        write_interval(writer, start, self._before[interval.context, high] - start, active)

    def read(self, reader: Reader, lines: Lines, walk: Walk, kind: Numbers, active: Mask) -> Numbers:
        """The entries that the lanes step to; the walk goes there."""
        context = walk.context
        gap = self._code.symbol_at(context, reader.peek(BITS))
        slot = np.minimum(walk.at + gap, lines.slots - 1)
        entry = lines.entry_at[kind, slot]
        escaped = (gap == LONGEST) & active
        end = lines.end[entry] - walk.at
        low = np.where(escaped, LONGEST, np.maximum(end - lines.width[entry], 0))
        high = np.where(gap == LONGEST, LONGEST + 1, np.minimum(end, LONGEST))
        start = self._before[context, low]
        read_interval(reader, start, self._before[context, high] - start, active)
        if escaped.any():
            place = reader.pop_bits(PLACE_BITS * escaped)
            entry = np.where(escaped, lines.entry_at[kind, np.minimum(place, lines.slots - 1)], entry)
        walk.step(lines, entry, active)
        return entry
