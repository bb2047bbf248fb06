"""Sets of tokens with a whole number each, packed: what a teacher says at a position.

The tables that it takes (`Tables`) are fitted to the very sets that are packed with them, and kept once beside many
thousands of positions. A block, one sequence's positions, is read without any other. Within it every position is a
lane of `lanes`, which says: how many tokens, what kind of position, what kind of levels; then token for token the gap
to it (`slots`) and its level, whose distribution depends on the kind and on how many slots the token takes.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.llm_distillation.labels import hazards
from tasks.llm_distillation.labels.hazards import Hazards
from tasks.llm_distillation.labels.lanes import Numbers, Reader, Words, Writer
from tasks.llm_distillation.labels.level_scale import bases, plain_bits, to_symbols
from tasks.llm_distillation.labels.mixture_fit import counted, kinds_of
from tasks.llm_distillation.labels.shares import Code, Mask, shares
from tasks.llm_distillation.labels.slots import CONTEXTS, LONGEST, GapCode, Interval, Lines, Walk, gap_counts

POSITIONS_A_KIND, MOST_LEVEL_KINDS = 500, 32
WIDTHS = (2, 5, 16)
"""Where classes of tokens begin, by the slots that they take; tokens that share a slot are a class of their own."""
CLASSES = len(WIDTHS) + 2
CHUNK = 8192
"""Positions that are looked at at once, to bound the memory."""
CHECK = np.dtype("<u4")


@dataclass(frozen=True)
class Sets:
    """N positions of up to k tokens."""

    ids: NDArray[np.int32]
    """(N,k), distinct in each row; behind `count` of them zeros. Reading gives them in an order of its own."""
    levels: NDArray[np.int32]
    """(N,k), 0 and up."""
    count: NDArray[np.int32]
    """(N,): how many tokens."""
    extra: NDArray[np.uint16]
    """(N,): 16 bits of any meaning, at no cost."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def valid(self) -> Mask:
        return np.arange(self.ids.shape[1]) < self.count[:, None]


def some(sets: Sets, part: slice) -> Sets:
    """These positions."""
    return Sets(sets.ids[part], sets.levels[part], sets.count[part], sets.extra[part])


def joined(parts: Sequence[Sets]) -> Sets:
    """One after another, of the same width."""
    return Sets(
        *(
            np.concatenate([getattr(own, name) for own in parts])
            for name in ("ids", "levels", "count", "extra")
        )
    )


@dataclass(frozen=True)
class Tables:
    """What packing and reading need beside the packed bytes, all of it whole numbers."""

    hazards: Hazards
    count: NDArray[np.uint16]
    """(1, k + 1): frequencies of how many tokens a position has; as `shares` makes them, like all that follow."""
    kind: NDArray[np.uint16]
    """(1, kinds)."""
    level_kind: NDArray[np.uint16]
    """(kinds, level kinds)."""
    gap: NDArray[np.uint16]
    """(classes of the gap before, gaps)."""
    level: NDArray[np.uint16]
    """(level kinds x classes of tokens, symbols)."""

    def arrays(self) -> dict[str, NDArray[np.integer]]:
        """By name, to be kept."""
        own = {name: value for name, value in vars(self).items() if name != "hazards"}
        return {**vars(self.hazards), **own}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.integer]]) -> "Tables":
        """What `arrays` gave."""
        named = {name: arrays[name] for name in ("frequency", "group", "ratio")}
        own = {name: arrays[name] for name in ("count", "kind", "level_kind", "gap", "level")}
        return cls(Hazards(**named), **own)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Fitted:
    """Tables, and the kind (N,) and level kind (N,) of the positions that they were fitted to."""

    tables: Tables
    kind: NDArray[np.int64]
    level_kind: NDArray[np.int64]


@dataclass(frozen=True)
class Steps:
    """Sets in the order in which they are written: arrays (k, N), token after token."""

    entry: NDArray[np.int32]
    within: NDArray[np.int32]
    level: NDArray[np.int32]
    active: Mask

    @classmethod
    def of(cls, lines: Lines, sets: Sets, kind: Numbers) -> "Steps":
        entry, within = lines.located(kind, sets.ids)
        last = np.int64(np.iinfo(np.int64).max)
        key = np.where(sets.valid, (entry.astype(np.int64) << 16) | within, last)
        order = np.argsort(key, axis=1).T
        rows = np.arange(len(sets))
        return cls(entry[rows, order], within[rows, order], sets.levels[rows, order], sets.valid.T)

    def intervals(self, lines: Lines) -> list[Interval]:
        walk = Walk.start(self.entry.shape[1])
        made = [walk.step(lines, *own) for own in zip(self.entry, self.active, strict=True)]
        assert all((own.low >= 0).all() for own in made), "a set is written in the order of its line"
        return made


def fit(sets: Sets, vocabulary: int, seed: int) -> Fitted:
    """Tables for these sets of tokens below `vocabulary`."""
    chances, kind = hazards.fit(sets.ids, sets.valid, vocabulary, seed)
    symbols = to_symbols(sets.levels)[0]
    size = int(symbols.max(initial=0)) + 1
    level_kinds = int(np.clip(len(sets) // POSITIONS_A_KIND, 1, MOST_LEVEL_KINDS))
    level_kind = kinds_of(symbols, sets.valid, size, level_kinds, seed)
    lines, kinds = Lines(chances), len(chances.ratio)
    gaps = np.zeros((CONTEXTS, LONGEST + 1))
    levels = np.zeros((level_kinds * CLASSES, size))
    for part in _parts(len(sets)):
        steps = Steps.of(lines, some(sets, part), kind[part])
        gaps += gap_counts(steps.intervals(lines), list(steps.active))
        context = level_kind[part] * CLASSES + token_class(lines, steps.entry)
        levels += counted(to_symbols(steps.level)[0], steps.active, context, size, len(levels))
    pairs = np.bincount(kind * level_kinds + level_kind, minlength=kinds * level_kinds)
    pairs = pairs.reshape(kinds, level_kinds)
    tables = Tables(
        hazards=chances,
        count=_frequencies(np.bincount(sets.count, minlength=sets.ids.shape[1] + 1)[None]),
        kind=_frequencies(pairs.sum(1)[None]),
        level_kind=_frequencies(pairs + pairs.sum(0) / len(sets)),
        gap=_frequencies(gaps),
        level=_frequencies(levels + 20 * _share(levels.sum(0))),
    )
    return Fitted(tables, kind, level_kind)


def token_class(lines: Lines, entry: Numbers) -> NDArray[np.int64]:
    """The class of each entry, by how likely its tokens are."""
    return np.where(lines.bits[entry] > 0, 0, 1 + np.searchsorted(WIDTHS, lines.width[entry], side="right"))


class Codec:
    """Packs and reads with given tables. Raises ValueError where they are damaged."""

    def __init__(self, tables: Tables) -> None:
        self._lines = Lines(tables.hazards)
        self._count, self._kind, self._level_kind, self._level = (
            Code(getattr(tables, name)) for name in ("count", "kind", "level_kind", "level")
        )
        self._gap = GapCode(tables.gap)
        self._class = token_class(self._lines, np.arange(len(self._lines.bits)))
        symbols = np.arange(tables.level.shape[1])
        self._plain, self._base = plain_bits(symbols), bases(symbols)

    def pack(self, sets: Sets, fitted: Fitted, blocks: Sequence[int]) -> list[bytes]:
        """The bytes of each block; `blocks` holds their numbers of positions. `fitted` belongs to these sets."""
        lines, zero = self._lines, np.zeros(len(sets), np.int64)
        steps = Steps.of(lines, sets, fitted.kind)
        intervals = steps.intervals(lines)
        writer = Writer(blocks, sets.extra)
        for entry, within, level, active, interval in reversed(
            list(zip(steps.entry, steps.within, steps.level, steps.active, intervals, strict=True))
        ):
            symbol, value, count = to_symbols(level * active)
            writer.push_bits(value, count)
            writer.push_bits(within * active, lines.bits[entry] * active)
            self._level.write(writer, fitted.level_kind * CLASSES + self._class[entry], symbol, active)
            self._gap.write(writer, lines, interval, entry, active)
        self._level_kind.write(writer, fitted.kind, fitted.level_kind)
        self._kind.write(writer, zero, fitted.kind)
        self._count.write(writer, zero, sets.count)
        return [_sealed(words) for words in writer.finish()]

    def unpack(self, packed: Sequence[bytes], blocks: Sequence[int]) -> Sets:
        """The sets of these blocks one after another. Raises ValueError where bytes are damaged."""
        lines, lanes = self._lines, sum(blocks)
        reader, zero = Reader(blocks, [_opened(own) for own in packed]), np.zeros(lanes, np.int64)
        count = self._count.read(reader, zero)
        kind = self._kind.read(reader, zero)
        level_context = self._level_kind.read(reader, kind).astype(np.int64) * CLASSES
        walk, shape = Walk.start(lanes), (int(count.max(initial=0)), lanes)
        ids, levels = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for step in range(shape[0]):
            active = count > step
            entry = self._gap.read(reader, lines, walk, kind, active)
            symbol = self._level.read(reader, level_context + self._class[entry], active)
            within = reader.pop_bits(lines.bits[entry] * active)
            place = np.minimum(lines.first[entry] + within, len(lines.tokens) - 1)
            ids[step] = lines.tokens[place] * active
            levels[step] = self._base[symbol] + reader.pop_bits(self._plain[symbol])
        return Sets(ids.T, levels.T, count, reader.payload())


def _parts(positions: int) -> list[slice]:
    return [slice(first, first + CHUNK) for first in range(0, positions, CHUNK)]


def _frequencies(counts: NDArray[np.floating | np.integer]) -> NDArray[np.uint16]:
    return shares(counts.astype(np.float64)).astype(np.uint16)


def _share(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return counts / max(counts.sum(), 1)


def _sealed(words: Words) -> bytes:
    """The words behind their checksum."""
    data = words.astype("<u2").tobytes()
    return np.array([zlib.crc32(data)], CHECK).tobytes() + data


def _opened(packed: bytes) -> Words:
    check, data = packed[: CHECK.itemsize], packed[CHECK.itemsize :]
    if np.array([zlib.crc32(data)], CHECK).tobytes() != check:
        raise ValueError("packed labels: their checksum does not fit; the file is damaged, make it anew")
    return np.frombuffer(data, "<u2").astype(np.uint16)
