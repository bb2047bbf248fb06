"""The order of sequences, their spread over ranks, and the learning rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.llm_distillation.training.lm_plan import EMPTY, learning_rate, passes, rows_of_step, total_steps


@given(st.integers(1, 20), st.integers(1, 30))
def test_every_epoch_goes_through_all_sequences_once(batch, sequences):
    steps = -(-2 * sequences // batch)
    rows = np.concatenate(
        [rows_of_step(step, batch, sequences, lambda epoch: epoch) for step in range(steps)]
    )
    assert sorted(rows[:sequences]) == sorted(rows[sequences : 2 * sequences]) == list(range(sequences))


def test_epochs_have_orders_of_their_own():
    first, second = (rows_of_step(step, 50, 50, lambda epoch: epoch + 7) for step in (0, 1))
    assert (first != second).any()


@given(st.integers(1, 17), st.integers(1, 6), st.one_of(st.none(), st.integers(1, 20)))
def test_ranks_share_out_the_batch(batch, ranks, micro_batch):
    rows = np.arange(batch) + 5
    parts = [passes(rows, rank, ranks, micro_batch) for rank in range(ranks)]
    assert sorted(row for part in parts for one in part for row in one if row != EMPTY) == list(rows)
    assert len({tuple(map(len, part)) for part in parts}) == 1
    assert all(len(one) <= (micro_batch or batch) for part in parts for one in part)


def test_steps():
    assert total_steps(100, 16, 2.0, None) == 12
    assert total_steps(3, 16, 0.1, None) == 1
    assert total_steps(100, 16, None, 7) == 7


@pytest.mark.parametrize(("schedule", "end"), [("cosine", 0.1), ("linear", 0.0), ("constant", 1.0)])
def test_learning_rate_grows_and_falls(schedule, end):
    rates = [learning_rate(step, 100, lr=2.0, warmup=10, schedule=schedule) for step in range(101)]
    assert rates[0] == pytest.approx(2 / 11)
    assert rates[10] == pytest.approx(2.0)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(2 * end, abs=1e-12)
