import datetime
import decimal

import numpy as np
import pyarrow as pa

from tasks.binary.columns import table_data


def data(table, target="target", positive=None, categorical=()):
    return table_data(table, "own.csv", target, positive, categorical)


def small(**columns):
    return pa.table({"x": [1.0, 2.0, 3.0, 4.0], **columns, "target": [0, 1, 1, 0]})


def test_numbers_of_every_kind_keep_their_order():
    nothing = pa.nulls(4)
    half = pa.array(np.array([0.5, 1, 2, 3], np.float16))
    made = data(small(i=[1, None, 3, 4], d=[decimal.Decimal("1.50")] * 4, n=nothing, h=half))
    np.testing.assert_array_equal(
        made.numbers,
        np.array(
            [
                [1, 1, 1.5, np.nan, 0.5],
                [2, np.nan, 1.5, np.nan, 1],
                [3, 3, 1.5, np.nan, 2],
                [4, 4, 1.5, np.nan, 3],
            ]
        ),
    )
    assert made.categories.shape == (4, 0)
    assert made.labels.tolist() == [-1, 1, 1, -1]
    assert (made.columns, made.shape) == (5, (5,))


def test_text_truth_values_dictionaries_and_named_columns_are_categories():
    table = small(
        text=["b", None, "a", "b"],
        large=pa.array(["b", "a", "a", "b"], pa.large_string()),
        truth=[True, False, True, True],
        coded=pa.array(["u", "v", "u", None]).dictionary_encode(),
        number=[3, 20, 3, None],
        real=pa.array([0.5, float("nan"), 1.5, None]),
    )
    made = data(table, categorical=("number", "real"))
    assert made.numbers.tolist() == [[1], [2], [3], [4]]
    assert made.categories.T.tolist() == [
        [1, 2, 0, 1], [1, 0, 0, 1], [1, 0, 1, 1], [0, 1, 0, 2], [1, 0, 1, 2], [0, 2, 1, 2],
    ]  # fmt: skip
    assert made.sizes == (3, 2, 2, 3, 3, 3)
    assert (made.columns, made.shape) == (7, (17,))


def test_codes_do_not_depend_on_the_order_of_rows_or_on_chunks():
    table = small(text=["c", "a", None, "b"])
    turned = table.take([3, 2, 1, 0])
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 3)])
    np.testing.assert_array_equal(data(turned).categories[::-1], data(table).categories)
    np.testing.assert_array_equal(data(pieces).categories, data(table).categories)


def test_a_dictionary_in_chunks_of_their_own():
    one, two = (pa.array(values).dictionary_encode() for values in (["b", "a"], ["c", "b"]))
    made = data(small(coded=pa.chunked_array([one, two])))
    assert made.categories[:, 0].tolist() == [1, 0, 2, 1]


def test_a_target_anywhere():
    table = pa.table({"answer": ["n", "y"], "x": [1, 2]})
    assert data(table, target="answer").labels.tolist() == [-1, 1]


def test_what_is_refused(refuses):
    with refuses("own.csv", "no column 'targt'", "`target`", "did you mean 'target'?"):
        data(small(), target="targt")
    with refuses("no column 'colour'", "`categorical`", "known: x, target"):
        data(small(), categorical=("colour",))
    with refuses("the target 'target' is no feature"):
        data(small(), categorical=("target",))
    with refuses("2 columns 'x'", "rename"):
        data(pa.Table.from_arrays([[1], [2], [0]], names=["x", "x", "target"]))
    with refuses("holds no rows"):
        data(small().slice(0, 0))
    with refuses("has the target 'target' only"):
        data(pa.table({"target": [0, 1]}))
    with refuses("column 'bad' holds -inf in row 2 (1 such)", "expected finite numbers"):
        data(small(bad=[1.0, None, float("-inf"), 2.0]))
    with refuses("column 'large' holds 1e+39 in row 1 (1 such)"):
        data(small(large=[1.0, 1e39, 0.0, 2.0]))
    with refuses("column 'list' is of the type list", "convert or drop it"):
        data(small(list=[[1], [2], [3], [4]]))
    with refuses("column 'name' is a category of 10001 values", "10000 at most", "drop it"):
        data(pa.table({"name": [str(row) for row in range(10_001)], "target": [0, 1] * 5000 + [0]}))
    with refuses("column 'day' is of the type date32"):
        data(small(day=[datetime.date(2020, 1, 1)] * 4))
