import pyarrow as pa
import pytest

from tasks.binary.targets import labels_of


def labels(values, positive=None):
    column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    return labels_of(column, "own.csv", "sick", positive).tolist()


LARGER = {
    "numbers, not as text": [9, 10],
    "signs": [-1, 1],
    "reals": [0.5, 1.5],
    "text": ["no", "yes"],
    "text of digits": ["10", "9"],
    "truth": [False, True],
}


@pytest.mark.parametrize("values", LARGER.values(), ids=LARGER)
def test_of_two_values_the_larger_is_positive(values):
    assert labels([values[1], values[0], values[1]]) == [1, -1, 1]


def test_the_order_of_rows_and_chunks_do_not_matter():
    assert labels(pa.chunked_array([["b"], ["a", "b"]])) == [1, -1, 1]


def test_named_values_are_positive():
    assert labels([1, 2, 3, 1], ("1", "3")) == [1, -1, 1, 1]
    assert labels([1.0, 2.0, 3.0], ("2",)) == [-1, 1, -1]
    assert labels([True, False], ("false",)) == [-1, 1]
    assert labels(["a", "b", "c"], ("b", "c")) == [-1, 1, 1]


def test_what_is_refused(refuses):
    with refuses("own.csv", "'sick' is missing in row 1 (2 such)", "fill or drop"):
        labels(["a", None, None, "b"])
    with refuses("'sick' is missing in row 2 (1 such)"):
        labels([0.0, 1.0, float("nan")])
    with refuses("'sick' is 1 in every row, one class only", "correct `target`"):
        labels([1, 1])
    with refuses("has 12 values (0, 1, 2, 3, 4, 5, 6, 7 and 4 more)", "`positive`"):
        labels(list(range(12)))
    with refuses("no row has the value 'yess'", "did you mean 'yes'?"):
        labels(["no", "yes"], ("yess",))
    with refuses("no row has the value 'true'", "known: 0, 1"):
        labels([0, 1], ("true",))
    with refuses("names every value", "(0, 1)"):
        labels([0, 1], ("0", "1"))
