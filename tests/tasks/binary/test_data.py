import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from tasks.binary import BinaryData, BinaryDataset
from tasks.binary.data import TableData
from tasks.binary.encoding import Encoder


def table(numbers, categories=None, labels=None, sizes=()):
    rows = len(numbers)
    return TableData(
        "own.csv",
        np.asarray(numbers, float),
        np.empty((rows, 0), np.int32) if categories is None else np.asarray(categories, np.int32),
        tuple(sizes),
        np.tile([-1, 1], rows)[:rows].astype(np.float32)
        if labels is None
        else np.asarray(labels, np.float32),
    )


def rows_of(number, seed, share=0.3):
    return train_test_split(np.arange(number), test_size=share, random_state=seed)


def test_is_the_split_and_the_scaling_of_scikit_learn():
    features, benign = load_breast_cancer(return_X_y=True)
    split = BinaryDataset(name="breast_cancer").load().split(7, 0.3)
    train, test = rows_of(569, 7)
    scaler = StandardScaler().fit(features[train])
    np.testing.assert_array_equal(split.train_x, scaler.transform(features[train]).astype(np.float32))
    np.testing.assert_array_equal(split.test_x, scaler.transform(features[test]).astype(np.float32))
    np.testing.assert_array_equal(split.train_y, 1 - 2 * benign[train])
    np.testing.assert_array_equal(split.test_y, 1 - 2 * benign[test])
    assert (len(split.train_y), len(split.test_y)) == (398, 171)


def test_tensors_are_float32_and_contiguous(mixed_file):
    data = BinaryDataset(name="table", path=str(mixed_file)).load()
    split = data.split(0, 0.25)
    assert isinstance(data, BinaryData)
    assert all(part.dtype == torch.float32 and part.is_contiguous() for part in split)
    assert split.train_x.shape == (45, *data.shape) == (45, 6)
    assert split.test_x.shape == (15, 6)
    assert split.train_y.shape == (45,)
    assert set(split.train_y.tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**32, 2**63 - 1])
def test_a_split_is_determined_by_any_seed(seed):
    data = BinaryDataset(name="breast_cancer").load()
    first, again, other = data.split(seed, 0.3), data.split(seed, 0.3), data.split(seed ^ 1, 0.3)
    assert first.train_x.equal(again.train_x)
    assert not first.train_x.equal(other.train_x)


def test_no_fitted_value_depends_on_test_rows(mixed_file):
    data = BinaryDataset(name="table", path=str(mixed_file)).load()
    _, test = rows_of(data.rows, 3)
    numbers, categories = data.numbers.copy(), data.categories.copy()
    numbers[test] = 1e6
    numbers[test[0]] = np.nan
    categories[test] = 0
    changed = TableData(data.source, numbers, categories, data.sizes, data.labels)
    before, after = data.split(3, 0.3), changed.split(3, 0.3)
    assert before.train_x.equal(after.train_x)
    assert not before.test_x.equal(after.test_x)


def test_gaps_become_the_median_of_the_training_rows():
    encoder = Encoder.fitted(np.array([[1.0], [2.0], [9.0], [np.nan]]), np.empty((4, 0)), ())
    filled = encoder.apply(np.array([[np.nan], [2.0], [100.0]]), np.empty((3, 0)))
    assert filled[0] == filled[1]
    mean, std = np.mean([1, 2, 9, 2]), np.std([1, 2, 9, 2])
    np.testing.assert_allclose(filled[:, 0], (np.array([2, 2, 100]) - mean) / std, rtol=1e-6)


def test_categories_become_ones_and_an_unseen_one_all_zeros():
    none = np.empty((3, 0))
    encoder = Encoder.fitted(none, np.array([[0, 1], [2, 0], [0, 1]]), (4, 2))
    assert encoder.apply(none, np.array([[2, 0], [1, 1], [3, 0]])).tolist() == [
        [0, 0, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0],
    ]


def test_constant_and_empty_columns_give_zeros():
    numbers = np.stack([np.full(20, 0.1), np.full(20, 1e6), np.full(20, np.nan), np.arange(20.0)], axis=1)
    split = table(numbers).split(0, 0.3)
    assert split.train_x[:, :3].abs().max() < 1e-6
    assert torch.isfinite(split.test_x).all()


def test_a_test_row_far_from_training_rows_that_hardly_differ_stays_finite():
    encoder = Encoder.fitted(np.array([[1e-38], [0.0], [1e-38]]), np.empty((3, 0)), ())
    assert encoder.apply(np.array([[1.0], [-1.0], [np.nan]]), np.empty((3, 0)))[:2].tolist() == [
        [1e6],
        [-1e6],
    ]


def test_refuses_training_rows_of_one_class(refuses):
    labels = np.full(20, -1.0)
    _, test = rows_of(20, 5)
    labels[test[0]] = 1
    with refuses("own.csv", "14 training rows of split 5", "one class only"):
        table(np.arange(20.0)[:, None], labels=labels).split(5, 0.3)


@given(
    arrays.arrays(
        np.float64, (24, 3), elements=st.one_of(st.floats(-1e38, 1e38), st.just(float("nan")), st.just(3.0))
    ),
    arrays.arrays(np.int32, (24, 2), elements=st.integers(0, 4)),
    st.integers(0, 2**63 - 1),
    st.sampled_from([0.2, 0.3, 0.5]),
)
@settings(max_examples=40)
def test_every_table_becomes_finite_rows_of_one_width(numbers, categories, seed, share):
    data = table(numbers, categories, sizes=(5, 5))
    split = data.split(seed, share)
    assert split.train_x.shape[1:] == split.test_x.shape[1:] == data.shape == (13,)
    assert len(split.train_x) + len(split.test_x) == 24
    assert torch.isfinite(split.train_x).all()
    assert torch.isfinite(split.test_x).all()
    assert (split.train_x[:, 3:].sum(1) == 2).all()
    assert (split.test_x[:, 3:].sum(1) <= 2).all()
