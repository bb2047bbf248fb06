import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.llm_distillation.labels.hazards import Hazards
from tasks.llm_distillation.labels.label_rows import rows_to_tables, tables_to_rows
from tasks.llm_distillation.labels.slots import Lines, line, neighbours
from tasks.llm_distillation.labels.token_codec import Codec, Sets, fit


def some_sets(positions, vocabulary, width, seed, ragged=True, skew=1.0):
    """Sets of tokens of which some are far likelier than others."""
    rng = np.random.default_rng(seed)
    weight = rng.exponential(size=vocabulary) ** (1 + 3 * skew) + 1e-9
    keys = np.log(weight) + rng.gumbel(size=(positions, vocabulary))
    ids = np.argsort(-keys, axis=1)[:, :width].astype(np.int32)
    count = rng.integers(0, width + 1, positions) if ragged else np.full(positions, width)
    valid = np.arange(width) < count[:, None]
    levels = (rng.exponential(size=ids.shape) ** 3 * 20).astype(np.int32)
    extra = rng.integers(0, 1 << 16, positions).astype(np.uint16)
    return Sets(ids * valid, levels * valid, count.astype(np.int32), extra)


def in_order(sets):
    """Each position's (id, level) pairs, by id."""
    pairs = zip(sets.ids, sets.levels, sets.count, strict=True)
    return [sorted(zip(ids[:n].tolist(), levels[:n].tolist(), strict=True)) for ids, levels, n in pairs]


cases = st.tuples(
    st.integers(1, 60), st.integers(1, 300), st.integers(1, 40), st.integers(0, 999), st.booleans()
)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_sets_come_back(case):
    positions, vocabulary, width, seed, ragged = case
    sets = some_sets(positions, vocabulary, min(width, vocabulary), seed, ragged)
    fitted = fit(sets, vocabulary, seed)
    codec = Codec(fitted.tables)
    read = codec.unpack(codec.pack(sets, fitted, [positions]), [positions])
    assert in_order(read) == in_order(sets)
    np.testing.assert_array_equal(read.count, sets.count)
    np.testing.assert_array_equal(read.extra, sets.extra)


def drawn_sets(positions, vocabulary, samples, seed, skew):
    """What sampling gives: sets far smaller than they are wide, the likely tokens in nearly every one of them."""
    rng = np.random.default_rng(seed)
    weight = rng.exponential(size=vocabulary) ** skew + 1e-9
    counts = rng.multinomial(samples, weight / weight.sum(), positions)
    found = (counts > 0).sum(1)
    ids, levels = np.zeros((2, positions, samples), np.int32)
    for row, (own, size) in enumerate(zip(counts, found, strict=True)):
        ids[row, :size] = np.flatnonzero(own)
        levels[row, :size] = own[own > 0] - 1
    return Sets(ids, levels, found.astype(np.int32), np.zeros(positions, np.uint16))


def assert_comes_back(sets, vocabulary):
    fitted = fit(sets, vocabulary, seed=0)
    codec = Codec(fitted.tables)
    blocks = [len(sets) // 2, len(sets) - len(sets) // 2]
    read = codec.unpack(codec.pack(sets, fitted, blocks), blocks)
    assert in_order(read) == in_order(sets)
    np.testing.assert_array_equal(read.count, sets.count)
    np.testing.assert_array_equal(read.extra, sets.extra)


small = st.integers(2, 40).flatmap(
    lambda vocabulary: st.tuples(
        st.just(vocabulary), st.integers(1, vocabulary), st.integers(1, 5 * vocabulary), st.integers(1, 50)
    )
)


@settings(max_examples=60, deadline=None)
@given(small, st.integers(0, 999), st.sampled_from([0.0, 1.0, 4.0]))
def test_sets_from_a_small_vocabulary_come_back(case, seed, skew):
    vocabulary, k, samples, positions = case
    assert_comes_back(some_sets(positions, vocabulary, k, seed, ragged=False, skew=skew), vocabulary)
    assert_comes_back(drawn_sets(positions, vocabulary, samples, seed, skew), vocabulary)


@pytest.mark.parametrize(
    ("ids", "vocabulary"),
    [
        ([[0]], 1),
        ([[0]] * 7, 1),
        ([[1]], 2),
        ([[3, 1, 4]], 6),
        ([[3, 1, 4]] * 50, 6),
        ([[*range(24)]] * 50, 24),
        ([[*range(1, 24)]] * 50, 24),
        ([[*range(39, -1, -1)]], 40),
    ],
    ids=[
        "one token",
        "one token often",
        "one position",
        "one set",
        "one set often",
        "all",
        "one never",
        "all once",
    ],
)
def test_the_edges_come_back(ids, vocabulary):
    shape = np.shape(ids)
    levels = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    count, extra = np.full(shape[0], shape[1], np.int32), np.arange(shape[0], dtype=np.uint16)
    assert_comes_back(Sets(np.array(ids, np.int32), levels, count, extra), vocabulary)


def test_what_lies_behind_a_set_teaches_nothing():
    """Sets with and without room behind the longest have the same tables, but for that of how long they are."""
    wide = drawn_sets(40, 24, 200, seed=1, skew=1.0)
    longest = wide.count.max()
    tight = Sets(wide.ids[:, :longest], wide.levels[:, :longest], wide.count, wide.extra)
    one, two = (fit(sets, 24, seed=0).tables.arrays() for sets in (wide, tight))
    assert longest <= 24
    assert all(np.array_equal(one[name], two[name]) for name in one.keys() - {"count"})


@pytest.fixture(scope="module")
def many():
    """Enough for several kinds of positions and of tokens; and the sizes of blocks."""
    sets = some_sets(2400, 900, 24, seed=3)
    fitted = fit(sets, 900, seed=0)
    return sets, fitted, [500, 0, 1100, 1, 799]


def test_tables_have_several_kinds_and_groups(many):
    _, fitted, _ = many
    kinds, groups = fitted.tables.hazards.ratio.shape
    assert kinds == 4
    assert groups > 1
    assert len(np.unique(fitted.kind)) > 1


def test_any_block_is_read_as_all_are(many):
    sets, fitted, sizes = many
    codec = Codec(rows_to_tables(tables_to_rows(fitted.tables)))
    packed = codec.pack(sets, fitted, sizes)
    whole = in_order(codec.unpack(packed, sizes))
    assert whole == in_order(sets)
    for block in reversed(range(len(sizes))):
        first = sum(sizes[:block])
        alone = codec.unpack([packed[block]], [sizes[block]])
        assert in_order(alone) == whole[first : first + sizes[block]]


def test_packing_is_repeatable_and_independent_of_how_much_is_packed_at_once(many):
    sets, fitted, sizes = many
    again = fit(sets, 900, seed=0)
    assert all(
        np.array_equal(value, again.tables.arrays()[name]) for name, value in fitted.tables.arrays().items()
    )
    codec = Codec(fitted.tables)
    assert codec.pack(sets, fitted, sizes) == codec.pack(sets, again, sizes)


@pytest.mark.parametrize("place", [0, 3, 4, 5, 100, -1])
def test_a_damaged_byte_is_refused(many, place):
    sets, fitted, sizes = many
    codec = Codec(fitted.tables)
    data = bytearray(codec.pack(sets, fitted, sizes)[0])
    data[place] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        codec.unpack([bytes(data)], sizes[:1])


def test_a_block_of_other_size_is_refused(many):
    sets, fitted, sizes = many
    codec = Codec(fitted.tables)
    packed = codec.pack(sets, fitted, sizes)
    with pytest.raises(ValueError, match="too few words"):
        codec.unpack([packed[3]], [500])


def test_likely_tokens_are_packed_below_plain_ids():
    sets = some_sets(3000, 1000, 16, seed=5, ragged=False, skew=2.0)
    fitted = fit(sets, 1000, seed=0)
    without = Sets(sets.ids, np.zeros_like(sets.levels), sets.count, sets.extra)
    fitted_ids = fit(without, 1000, seed=0)
    size = len(Codec(fitted_ids.tables).pack(without, fitted_ids, [3000])[0])
    assert size < 0.6 * 3000 * 16 * 10 / 8
    assert size < len(Codec(fitted.tables).pack(sets, fitted, [3000])[0])


@given(st.integers(2, 400), st.integers(0, 99))
def test_a_line_holds_every_token_once_and_likely_ones_take_slots_of_their_own(vocabulary, seed):
    rng = np.random.default_rng(seed)
    hazards = Hazards(
        rng.integers(-60, 0, vocabulary).astype(np.int8),
        rng.integers(0, 3, vocabulary).astype(np.uint8),
        rng.integers(-4, 5, (2, 3)).astype(np.int8),
    )
    made = line(hazards, 1, neighbours(hazards))
    assert sorted(made.tokens.tolist()) == list(range(vocabulary))
    sizes = np.diff(made.first, append=vocabulary)
    assert (sizes >= 1).all()
    assert (sizes <= 1 << made.shared_bits).all()
    assert (made.width >= 1).all()
    assert (made.width[made.shared_bits > 0] == 1).all()
    assert Lines(hazards).slots >= made.end[-1]


def test_the_largest_sets_come_back():
    """1,024 tokens of which each position has all: the longest line there is."""
    sets = some_sets(200, 1024, 1024, seed=1, ragged=False)
    fitted = fit(sets, 1024, seed=0)
    codec = Codec(fitted.tables)
    assert in_order(codec.unpack(codec.pack(sets, fitted, [200]), [200])) == in_order(sets)
