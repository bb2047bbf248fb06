import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from tasks.ensloss.significance import Comparison, corrected, counts, holm, paired_p_values

differences = st.lists(st.floats(-1, 1), min_size=2, max_size=12)


@given(values=differences)
def test_p_values_are_those_of_the_one_sample_test(values):
    if max(values) - min(values) < 1e-3:
        return
    better, worse = paired_p_values(values)
    assert better == pytest.approx(ttest_1samp(values, 0, alternative="greater").pvalue)
    assert worse == pytest.approx(ttest_1samp(values, 0, alternative="less").pvalue)


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 0.0], (1, 1)), ([0.1, 0.1, 0.1], (0, 1)), ([-0.2, -0.2], (1, 0))]
)
def test_differences_without_spread_decide_by_their_sign(values, expected):
    assert paired_p_values(values) == expected


def test_a_single_repeat_is_no_test():
    assert all(math.isnan(p) for p in paired_p_values([0.1]))
    assert Comparison("d", "n", 0.1, "bce", 0.1, math.nan, math.nan).verdict(0.05) == "no difference"


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    found = holm([0.02, math.nan, 0.5])
    assert found[0] == pytest.approx(0.04)
    assert math.isnan(found[1])


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_keeps_the_order_and_is_at_most_bonferroni(values):
    adjusted = holm(values)
    assert all(p <= q <= min(1, p * len(values)) + 1e-12 for p, q in zip(values, adjusted, strict=True))
    ordered = [q for _, q in sorted(zip(values, adjusted, strict=True))]
    assert ordered == sorted(ordered)


def test_counts_with_and_without_correction():
    found = corrected(
        [
            Comparison(str(number), "mlp1", 1e-4, "bce", 0.0, p, 1 - p)
            for number, p in enumerate([0.03, 0.2, 0.001, 0.999])
        ]
    )
    assert counts(found, 0.05) == {"better": 2, "no difference": 1, "worse": 1}
    assert counts(found, 0.05, holm=True) == {"better": 1, "no difference": 2, "worse": 1}
