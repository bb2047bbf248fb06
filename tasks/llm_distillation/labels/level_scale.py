"""Log-probabilities to whole levels and back, with steps chosen for the KL divergence.

With steps d_i at probabilities p_i the divergence is about sum p_i d_i^2 / 24, and a value costs -log2 d_i bits and a
constant. So bits are best spent at d_i = step / sqrt(p_i): levels are even in sqrt(p), each value adds step^2 / 24
nats, whatever it is. Below a probability of (step / COARSEST)^2 the steps stay at COARSEST nats.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tasks.llm_distillation.labels.lanes import Numbers

COARSEST = 1.5
"""Nats of the coarsest step."""
BELOW = 24
"""Levels of the coarsest step; what lies lower is raised to the last."""
DIRECT = 64
"""Numbers below it are symbols of their own."""
EIGHTHS = 8
"""Symbols for each octave of numbers above."""

Floats = NDArray[np.float64]


def to_levels(logprob: Floats, step: float) -> NDArray[np.int32]:
    """The level of each log-probability, 0 and up."""
    knee = _knee(step)
    fine = (2 / step) * (np.exp(np.maximum(logprob, knee) / 2) - math.exp(knee / 2))
    coarse = (np.minimum(logprob, knee) - knee) / COARSEST
    return (np.rint(np.maximum(fine + coarse, -BELOW)) + BELOW).astype(np.int32)


def from_levels(level: Numbers, step: float) -> NDArray[np.float32]:
    """The log-probability in the middle of each level."""
    every = np.arange(int(level.max(initial=0)) + 1) - BELOW
    knee = _knee(step)
    fine = 2 * np.log(np.maximum(every, 0) * step / 2 + math.exp(knee / 2))
    return (fine + COARSEST * np.minimum(every, 0)).astype(np.float32)[level]


def _knee(step: float) -> float:
    """The log-probability at which the steps reach the coarsest."""
    return 2 * math.log(step / COARSEST)


def to_symbols(number: Numbers) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Of whole numbers: a symbol, and what plain bits add to it: their value and their count."""
    count = np.maximum(np.frexp(number.astype(np.float64))[1] - 4, 0) * (number >= DIRECT)
    symbol = np.where(number < DIRECT, number, DIRECT + (count - 3) * EIGHTHS + (number >> count) - EIGHTHS)
    return symbol.astype(np.int32), (number & ((1 << count) - 1)).astype(np.int32), count.astype(np.int32)


def plain_bits(symbol: Numbers) -> NDArray[np.int32]:
    """How many plain bits follow each symbol."""
    return np.where(symbol < DIRECT, 0, (symbol - DIRECT) // EIGHTHS + 3).astype(np.int32)


def bases(symbol: Numbers) -> NDArray[np.int32]:
    """The least number of each symbol, to which the plain bits are added."""
    base = EIGHTHS + (symbol - DIRECT) % EIGHTHS
    return np.where(symbol < DIRECT, symbol, base << plain_bits(symbol)).astype(np.int32)
