import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.model_distillation.philox import permutation, uniforms, words

PUBLISHED = [
    (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (2**64 - 1, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        0x299F31D0_A4093822,
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
"""Known answers of the authors' library: key, counter, words."""


@pytest.mark.parametrize(("key", "counter", "expected"), PUBLISHED)
def test_gives_the_published_answers(key, counter, expected):
    assert tuple(words(key, *counter)[0]) == expected


@given(
    st.integers(0, 2**63 - 1), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9), st.integers(0, 99)
)
def test_a_number_depends_on_its_own_counter_alone(key, counters, epoch):
    together = words(key, np.array(counters), epoch)
    alone = [words(key, counter, epoch)[0] for counter in counters]
    assert np.array_equal(together, np.stack(alone))


def test_is_uniform_and_uncorrelated():
    drawn = uniforms(7, np.arange(20_000), 3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.allclose(drawn.mean(0), 0.5, atol=0.01)
    assert np.allclose(np.cov(drawn.T), np.eye(4) / 12, atol=0.003)
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.03
    assert abs(np.corrcoef(drawn[:, 0], uniforms(7, np.arange(20_000), 4)[:, 0])[0, 1]) < 0.03


@given(st.integers(0, 2**63 - 1), st.integers(1, 200), st.integers(0, 5))
def test_a_permutation_holds_every_number_once(key, size, epoch):
    order = permutation(key, size, epoch)
    assert sorted(order) == list(range(size))
    assert np.array_equal(order, permutation(key, size, epoch))


def test_permutations_differ_by_epoch():
    assert not np.array_equal(permutation(1, 50, 0), permutation(1, 50, 1))
