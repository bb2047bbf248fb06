"""Random numbers that are a function of where they are used: no state, no order, any of them at once.

Source: Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011), Philox4x32-10.
"""

import numpy as np
import numpy.typing as npt

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)

Words = npt.NDArray[np.uint64]


def words(key: int, *counter: npt.ArrayLike) -> Words:
    """Four random words of 32 bits for each counter: (N, 4).

    `key` is a number below 2**64. A counter is up to four whole numbers below 2**32, each given as a number
    or as an array (N,); those left out are 0.
    """
    assert 0 <= key < 2**64, key
    given = np.broadcast_arrays(*(np.atleast_1d(np.asarray(part, np.uint64)) for part in counter))
    zero = np.zeros_like(given[0])
    first, second, third, fourth = (*given, *[zero] * (4 - len(given)))
    for turn in range(ROUNDS):
        low_key, high_key = (
            np.uint64(((key >> shift) + turn * step) & 0xFFFFFFFF)
            for shift, step in zip((0, 32), KEY_STEPS, strict=True)
        )
        one, other = MULTIPLIERS[0] * first, MULTIPLIERS[1] * third
        first, second, third, fourth = (
            (other >> HALF) ^ second ^ low_key,
            other & LOW,
            (one >> HALF) ^ fourth ^ high_key,
            one & LOW,
        )
    return np.stack([first, second, third, fourth], axis=1)


def uniforms(key: int, *counter: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Four numbers of [0, 1) for each counter: (N, 4); multiples of 2**-32. See `words`."""
    return words(key, *counter) / 2.0**32


def permutation(key: int, size: int, *counter: int) -> npt.NDArray[np.int64]:
    """The numbers 0 .. size - 1 in an order that depends on the key and up to two counters alone."""
    drawn = words(key, np.arange(size), 0, *counter)
    return np.argsort((drawn[:, 0] << HALF) | drawn[:, 1], kind="stable")
