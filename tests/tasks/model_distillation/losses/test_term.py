import pytest

from tasks.model_distillation.losses.dkd import Dkd
from tasks.model_distillation.losses.term import Term


def test_a_number_is_the_weight():
    assert Dkd.model_validate(2) == Dkd(weight=2.0)
    with pytest.raises(ValueError, match="valid dictionary"):
        Dkd.model_validate(True)


def test_the_warm_up_starts_at_nothing_and_ends_at_the_weight():
    term = Term(weight=2.0, warmup=0.25)
    assert [term.factor(epoch, 8) for epoch in range(4)] == [0.0, 1.0, 2.0, 2.0]
    assert Term(weight=2.0).factor(0, 8) == 2.0


def test_a_term_may_end_early():
    term = Term(until=0.5)
    assert [term.factor(epoch, 4) for epoch in range(4)] == [1.0, 1.0, 0.0, 0.0]
