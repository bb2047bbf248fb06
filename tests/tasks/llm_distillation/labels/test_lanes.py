import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.llm_distillation.labels.lanes import Reader, Writer
from tasks.llm_distillation.labels.shares import TOTAL, Code, shares


@st.composite
def messages(draw):
    """Blocks of lanes; for each step a symbol with its context, whether it is active, and plain bits."""
    blocks = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lanes, steps, symbols = sum(blocks), draw(st.integers(0, 20)), draw(st.integers(1, 40))
    counts = rng.exponential(size=(3, symbols)) ** draw(st.integers(1, 8))
    shape = (steps, lanes)
    return {
        "blocks": blocks,
        "frequency": shares(counts),
        "context": rng.integers(0, 3, shape),
        "symbol": rng.integers(0, symbols, shape),
        "active": rng.random(shape) < 0.8,
        "count": rng.integers(0, 17, shape),
        "value": rng.integers(0, 1 << 16, shape),
        "payload": rng.integers(0, 1 << 16, lanes),
    }


def written(message):
    writer, code = Writer(message["blocks"], message["payload"]), Code(message["frequency"])
    steps = zip(*(message[name] for name in ("context", "symbol", "active", "count", "value")), strict=True)
    for context, symbol, active, count, value in reversed(list(steps)):
        writer.push_bits(value & ((1 << count) - 1), count)
        code.write(writer, context, symbol, active)
    return writer.finish()


def check_read(message, blocks, words, lanes):
    reader, code = Reader(blocks, words), Code(message["frequency"])
    for step in range(len(message["symbol"])):
        context, symbol, active, count, value = (
            message[name][step, lanes] for name in ("context", "symbol", "active", "count", "value")
        )
        np.testing.assert_array_equal(code.read(reader, context, active), symbol * active)
        np.testing.assert_array_equal(reader.pop_bits(count), value & ((1 << count) - 1))
    np.testing.assert_array_equal(reader.payload(), message["payload"][lanes])


@given(messages())
def test_what_is_written_is_read(message):
    check_read(message, message["blocks"], written(message), slice(None))


@given(messages())
def test_every_block_is_read_alone(message):
    first = 0
    for size, words in zip(message["blocks"], written(message), strict=True):
        check_read(message, [size], [words], slice(first, first + size))
        first += size


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_size_is_near_the_entropy(seed):
    rng = np.random.default_rng(seed)
    frequency = shares(rng.exponential(size=(1, 50)) ** 3)
    chance, lanes, steps = frequency[0] / TOTAL, 200, 50
    writer, code = Writer([lanes], np.zeros(lanes, np.int64)), Code(frequency)
    symbols = rng.choice(50, p=chance, size=(steps, lanes))
    for symbol in symbols:
        code.write(writer, np.zeros(lanes, np.int64), symbol)
    ideal = -np.log2(chance[symbols]).sum()
    assert 16 * len(writer.finish()[0]) <= 1.003 * ideal + 26 * lanes


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=300))
def test_shares_add_up_and_none_is_zero(counts):
    made = shares(np.array([counts]))
    assert made.sum() == TOTAL
    assert made.min() >= 1


def test_too_few_words_and_damaged_tables_are_refused():
    with pytest.raises(ValueError, match="too few words"):
        Reader([4], [np.zeros(7, np.uint16)])
    with pytest.raises(ValueError, match="damaged"):
        Code(np.array([[TOTAL - 1, 2]]))
