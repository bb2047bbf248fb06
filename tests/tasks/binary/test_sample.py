import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.binary.sample import stratified


@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 130), st.integers(0, 2**63))
def test_keeps_the_shares_and_both_classes(negative, positive, rows, seed):
    labels = np.repeat([-1.0, 1.0], [negative, positive])
    kept = stratified(labels, rows, seed)
    assert len(kept) == min(rows, negative + positive)
    assert (np.diff(kept) > 0).all()
    share = positive / (negative + positive)
    found = (labels[kept] > 0).sum()
    assert 1 <= found < len(kept)
    assert abs(found - share * len(kept)) <= 1
    np.testing.assert_array_equal(stratified(labels, rows, seed), kept)


def test_another_seed_draws_other_rows():
    labels = np.tile([0, 1], 50)
    assert stratified(labels, 20, 1).tolist() != stratified(labels, 20, 2).tolist()
