import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.llm_distillation.labels.level_scale import (
    BELOW,
    COARSEST,
    bases,
    from_levels,
    plain_bits,
    to_levels,
    to_symbols,
)

STEPS = st.floats(0.0005, 1.0)


@given(STEPS, st.lists(st.floats(-40.0, 0.0), min_size=1, max_size=50))
def test_values_come_back_within_half_a_step(step, logprobs):
    """Half of the step at either end: steps grow as probabilities fall."""
    given_values = np.array(logprobs)
    lowest = 2 * math.log(step / COARSEST) - COARSEST * BELOW
    read = from_levels(to_levels(given_values, step), step)
    for value, near in zip(given_values, read, strict=True):
        if value >= lowest:
            half = 0.5 * min(COARSEST, step * math.exp(-min(value, near) / 2))
            assert abs(value - near) <= half * 1.001 + 1e-5


@given(STEPS)
def test_levels_grow_and_begin_at_zero(step):
    levels = to_levels(np.linspace(-100, 0, 2000), step)
    assert (np.diff(levels) >= 0).all()
    assert levels[0] == 0
    np.testing.assert_array_equal(
        to_levels(from_levels(np.arange(levels[-1]), step).astype(float), step), np.arange(levels[-1])
    )


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1))
def test_numbers_come_back_from_symbols(numbers):
    symbol, value, count = to_symbols(np.array(numbers))
    np.testing.assert_array_equal(plain_bits(symbol), count)
    np.testing.assert_array_equal(bases(symbol) + value, numbers)


def test_symbols_follow_one_another_without_a_gap():
    assert sorted(set(to_symbols(np.arange(4096))[0].tolist())) == list(range(64 + 6 * 8))
