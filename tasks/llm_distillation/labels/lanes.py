"""Entropy coding of many lanes in step, so that numpy codes thousands of symbols at once.

Each lane is a range asymmetric numeral system (rANS; Duda 2013, arXiv 1311.2540) with a state of 32 bits that is
refilled by words of 16. The lanes of a block share one stream of words, in the order in which a reader that goes
through all of them symbol by symbol asks for them (interleaving; Giesen 2014, arXiv 1402.3392). Blocks share
nothing: any of them can be read alone, and several at once as fast as one.

A lane's state begins at 2**16 plus a payload of 16 bits, which a reader finds there when all symbols are read: the
16 bits that a lane costs are not lost.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint16]
Numbers = NDArray[np.integer]

LOW = 1 << 16
"""A state is never below it between two symbols."""
MAX_BITS = 16
"""Most bits that the total of a symbol's frequencies can have, or that one symbol of plain bits can."""


class Writer:
    """Takes the symbols of every lane LAST FIRST; `finish` gives each block's words.

    `blocks` holds the number of lanes of each block, `payload` (lanes) below 2**16 each.
    """

    def __init__(self, blocks: Sequence[int], payload: Numbers) -> None:
        assert len(payload) == sum(blocks)
        self._blocks = len(blocks)
        self._block = np.repeat(np.arange(len(blocks)), blocks)
        self._state = payload.astype(np.uint64) + np.uint64(LOW)
        self._words: list[Words] = []
        self._owners: list[NDArray[np.int64]] = []

    def push(self, start: Numbers, frequency: Numbers, bits: int) -> None:
        """A symbol that has [start, start + frequency) of 2**bits, for each lane."""
        share = frequency.astype(np.uint64)
        assert bits <= MAX_BITS
        assert share.all(), "a symbol without a share cannot be written"
        self._spill(share << np.uint64(32 - bits))
        whole, rest = np.divmod(self._state, share)
        self._state = (whole << np.uint64(bits)) + rest + start.astype(np.uint64)

    def push_bits(self, value: Numbers, count: Numbers) -> None:
        """The lower `count` bits of `value`, for each lane; as many as 16, as few as none."""
        width = count.astype(np.uint64)
        self._spill(np.uint64(1) << (np.uint64(32) - width))
        self._state = (self._state << width) | value.astype(np.uint64)

    def finish(self) -> list[Words]:
        self._keep(np.arange(len(self._state)), self._state & np.uint64(LOW - 1))
        self._keep(np.arange(len(self._state)), self._state >> np.uint64(16))
        words, owners = (np.concatenate(parts[::-1]) for parts in (self._words, self._owners))
        order = np.argsort(owners, kind="stable")
        ends = np.cumsum(np.bincount(owners, minlength=self._blocks))
        return np.split(words[order], ends[:-1])

    def _spill(self, limit: NDArray[np.uint64]) -> None:
        full = np.flatnonzero(self._state >= limit)
        self._keep(full, self._state[full] & np.uint64(LOW - 1))
        self._state[full] >>= np.uint64(16)

    def _keep(self, lanes: NDArray[np.int64], words: NDArray[np.uint64]) -> None:
        self._words.append(words.astype(np.uint16))
        self._owners.append(self._block[lanes])


class Reader:
    """Gives the symbols back, first first, of all lanes of the blocks whose words these are.

    What it makes of damaged words is not defined, but it reads nothing outside them: keep a checksum.
    """

    def __init__(self, blocks: Sequence[int], words: Sequence[Words]) -> None:
        assert len(blocks) == len(words)
        sizes, lengths = np.asarray(blocks, np.int64), np.asarray([len(own) for own in words], np.int64)
        if (lengths < 2 * sizes).any():
            raise ValueError("packed labels are cut off: too few words for their positions")
        self._block = np.repeat(np.arange(len(sizes)), sizes)
        self._first_lanes = np.cumsum(sizes) - sizes
        self._words = np.concatenate([*words, np.zeros(1, np.uint16)]).astype(np.uint32)
        self._next = np.cumsum(lengths) - lengths
        within = np.arange(sizes.sum()) - self._first_lanes[self._block]
        high = self._next[self._block] + within
        low = high + sizes[self._block]
        self._next += 2 * sizes
        self._state = (self._words[high] << np.uint32(16)) | self._words[low]

    def peek(self, bits: int) -> NDArray[np.uint32]:
        """Where the next symbol of each lane lies in 2**bits."""
        return self._state & np.uint32((1 << bits) - 1)

    def pop(self, start: Numbers, frequency: Numbers, bits: int) -> None:
        """Takes the symbol that `peek` fell into."""
        low = self._state & np.uint32((1 << bits) - 1)
        self._state >>= np.uint32(bits)
        self._state *= frequency.astype(np.uint32, copy=False)
        self._state += low - start.astype(np.uint32, copy=False)
        self._refill()

    def pop_bits(self, count: Numbers) -> NDArray[np.uint32]:
        width = count.astype(np.uint32, copy=False)
        value = self._state & ((np.uint32(1) << width) - np.uint32(1))
        self._state >>= width
        self._refill()
        return value

    def payload(self) -> NDArray[np.uint16]:
        """What each lane began with; call it when all symbols are taken."""
        return (self._state & np.uint32(LOW - 1)).astype(np.uint16)

    def _refill(self) -> None:
        empty = np.flatnonzero(self._state < LOW)
        block = self._block[empty]
        before = np.searchsorted(empty, self._first_lanes)
        at = self._next[block] + np.arange(len(empty)) - before[block]
        self._next += np.diff(before, append=len(empty))
        words = self._words[np.minimum(at, len(self._words) - 1)]
        self._state[empty] = (self._state[empty] << np.uint32(16)) | words
