"""Which of two judgements is the better one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.llm_distillation.training.best_by import BestBy

values = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(values, min_size=1), st.sampled_from(["min", "max"]))
def test_the_first_extreme_stays(found, mode):
    by, best = BestBy(metric="held_out_loss", mode=mode), {}
    for place, value in enumerate(found):
        if by.better({"held_out_loss": value}, best):
            best = {"held_out_loss": value, "place": place}
    wanted = {"min": min, "max": max}[mode](found)
    assert best == {"held_out_loss": wanted, "place": found.index(wanted)}


@pytest.mark.parametrize(
    ("metric", "better"), [("held_out_loss", 1.0), ("held_out_perplexity", 1.0), ("held_out_agreement", 3.0)]
)
def test_which_way_is_better_is_known(metric, better):
    by = BestBy.model_validate(metric)
    assert by.better({metric: better}, {metric: 2.0})
    assert not by.better({metric: 4.0 - better}, {metric: 2.0})


def test_infinity_beats_nothing():
    assert not BestBy().better({"held_out_loss": math.inf}, {})
