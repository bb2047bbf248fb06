import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.llm_distillation.scores.rouge import exact_match, final_number, longest_common_subsequence, rouge_l

WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("the cat sat on the mat", "the cat on a mat", 2 * 4 / (6 + 5)),  # the cat on mat
        ("police kill the gunman", "police killed the gunman", 3 / 4),  # police the gunman
        ("gunman the killed police", "police killed the gunman", 1 / 4),  # order counts
        ("The CAT, sat!", "the cat sat", 1.0),
        ("a_b c-d 12", "a b c d 12", 1.0),
        ("Über die Brücke", "über die brücke", 1.0),
        ("one two", "three four", 0.0),
        ("", "a", 0.0),
        ("a", "...", 0.0),
    ],
)
def test_rouge_l_by_hand(text, reference, expected):
    assert rouge_l(text, reference) == pytest.approx(expected)


@given(WORDS, WORDS)
def test_the_common_subsequence_is_that_of_the_table(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    assert longest_common_subsequence(first, second) == table[-1][-1]


@given(WORDS, WORDS)
def test_rouge_l_is_symmetric_and_a_fraction(first, second):
    one, other = " ".join(first), " ".join(second)
    assert rouge_l(one, other) == rouge_l(other, one)
    assert 0 <= rouge_l(one, other) <= 1
    assert (rouge_l(one, other) == 1) == (first == second and bool(first))


@pytest.mark.parametrize(
    ("text", "marked", "last"),
    [
        ("3 + 4 = 7\n#### 7", 7, 7),
        ("#### 1\nno, #### 1,234.50 dollars for 2", 1234.5, 2),
        ("#### $18.", 18, 18),
        ("#### -3", -3, -3),
        ("it is 42", None, 42),
        ("#### none", None, None),
        ("", None, None),
    ],
)
def test_final_numbers(text, marked, last):
    assert (final_number(text, "marked"), final_number(text, "last_number")) == (marked, last)


def test_exact_match():
    assert exact_match("so #### 1,000", "#### 1000.0", "marked")
    assert not exact_match("so 1000", "#### 1000", "marked")
    assert exact_match("so 1000", "#### 1000", "last_number")
    assert not exact_match("none", "none", "last_number")
