import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tasks.data import Transform
from tasks.dataset_distillation.foreign import DataFile
from tasks.dataset_distillation.foreign_set import (
    ChannelStatistics,
    ForeignSet,
    channels_first,
    check_labels,
    check_learning_rate,
    foreign_transform,
)

SHAPE = (3, 4, 5)
IMAGES = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).float()
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), np.uint8))


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (IMAGES, SHAPE),
        (IMAGES.permute(0, 2, 3, 1), SHAPE),
        (IMAGES.byte(), SHAPE),
        (IMAGES[:, :1], (1, 4, 5)),
        (IMAGES[:, 0], (1, 4, 5)),
        (IMAGES[:, :1].permute(0, 2, 3, 1), (1, 4, 5)),
    ],
)
def test_images_come_out_channels_first(images, shape):
    assert torch.equal(channels_first(images, shape, "a file"), IMAGES[:, : shape[0]].to(images.dtype))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[..., :4], r"a file: images have the shape \(2, 3, 4, 4\); expected \(n, 3, 4, 5\)"),
        (IMAGES[0], r"shape \(3, 4, 5\); expected \(n, 3, 4, 5\)"),
        (IMAGES[:, 0], r"shape \(2, 4, 5\); expected"),
        (IMAGES.long(), "images are int64; expected floats, or uint8 pixels"),
        (torch.where(IMAGES == 7, torch.nan, IMAGES), "1 of 120 pixels are not finite"),
        (torch.where(IMAGES > 100, torch.inf, IMAGES), "19 of 120 pixels are not finite"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        channels_first(images, SHAPE, "a file")


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64, torch.float32])
def test_whole_numbers_of_any_type_are_hard_labels(kind):
    labels = torch.tensor([1, 0, 2, 2, 1, 0])
    found = check_labels(labels.to(kind), 6, 3, "a file")
    assert found.dtype == torch.int64
    assert torch.equal(found, labels)


def test_probabilities_are_soft_labels():
    rows = torch.rand(6, 3, dtype=torch.float64).softmax(1)
    assert torch.equal(check_labels(rows, 6, 3, "a file"), rows.float())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2]), r"shape \(3,\); expected \(6,\), one an image"),
        (torch.zeros(6, 3, 1), "one an image"),
        (torch.tensor(0), "one an image"),
        (torch.tensor([0, 1, 2, 3, 1, 0]), "found the label 3; expected 0 to 2, the dataset's classes"),
        (torch.tensor([0, 1, 2, -1, 1, 0]), "found the label -1"),
        (torch.tensor([0, 0, 0, 1, 1, 2]), "class 2 has 1 images and class 0 has 3; expected equally many"),
        (torch.tensor([0, 1, 0, 1, 0, 1]), "class 2 has 0 images"),
        (torch.tensor([0, 1, 0.5, 1, 0, 1]), "labels are not whole numbers; expected 0 to 2"),
        (torch.tensor([0, 1, torch.nan, 1, 0, 1]), "labels are not whole numbers"),
        (torch.ones(6, 4) / 4, "labels have 4 columns; expected 3, one a class"),
        (torch.ones(6, 3), "sums from 3 to 3.*apply softmax"),
        (torch.tensor([[-1.0, 1, 1]] * 6), "smallest value -1"),
        (torch.full((6, 3), torch.nan), "rows of soft labels are no probabilities"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"a file: .*{message}"):
        check_labels(labels, 6, 3, "a file")


@pytest.mark.parametrize("number", [0, 7])
def test_classes_of_unequal_size_are_refused(number):
    with pytest.raises(
        ValueError, match=f"found {number} images of 3 classes; expected equally many of each"
    ):
        check_labels(torch.zeros(number, dtype=torch.long), number, 3, "a file")


@given(st.integers(1, 5), st.integers(2, 5), st.integers(0, 2**32))
def test_a_hard_set_is_sorted_class_by_class_and_stays_together(per_class, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(per_class)[torch.randperm(classes * per_class, generator=generator)]
    images = 10.0 * labels + torch.arange(len(labels)) / 100
    sorted_set = ForeignSet(images, labels, torch.tensor(1.0)).class_by_class()
    assert sorted_set.labels.tolist() == [c for c in range(classes) for _ in range(per_class)]
    assert torch.equal((sorted_set.images / 10).floor().long(), sorted_set.labels)
    assert torch.equal(sorted_set.images, images.sort().values)


@pytest.mark.parametrize("value", [torch.tensor(0.5), torch.tensor([0.5], dtype=torch.float64)])
def test_the_step_size_is_one_positive_number(value):
    found = check_learning_rate(value, "a file")
    assert (found.dtype, found.shape, float(found)) == (torch.float32, (), 0.5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor(0.0), "learning_rate is 0.0; expected a step size above 0"),
        (torch.tensor(-1.0), "learning_rate is -1.0"),
        (torch.tensor(torch.nan), "learning_rate is nan"),
        (torch.ones(2), r"learning_rate has the shape \(2,\); expected one number"),
    ],
)
def test_a_step_size_that_makes_no_sense_is_refused(value, message):
    with pytest.raises(ValueError, match=f"a file: {message}"):
        check_learning_rate(value, "a file")


def file_of(path, **tensors):
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return DataFile(path=str(path))


def test_channel_statistics_from_the_settings_and_from_a_file_are_the_same(tmp_path):
    mean, std = (0.5, 0.25, 0.125), (0.5, 1.0, 2.0)
    written = file_of(tmp_path / "s.safetensors", mean=torch.tensor([mean]), std=torch.tensor(std))
    for statistics in (ChannelStatistics(mean=mean, std=std), written):
        found = foreign_transform(statistics, "normalize", SHAPE).apply(PIXELS)
        expected = (PIXELS / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        torch.testing.assert_close(found, expected)


def test_whitening_by_mean_and_matrix_is_that_of_our_own_statistics(tmp_path):
    own = Transform.fit(PIXELS, "zca")
    written = file_of(tmp_path / "s.safetensors", mean=own.mean.reshape(1, -1), matrix=own.whitening)
    found = foreign_transform(written, "zca", SHAPE)
    torch.testing.assert_close(found.apply(PIXELS), own.apply(PIXELS), rtol=1e-4, atol=1e-4)
    assert (found.invert(found.apply(PIXELS)).int() - PIXELS.int()).abs().max() <= 1
    assert found.kind == "zca"


def test_whitening_with_another_epsilon_is_taken_as_it_is(tmp_path):
    matrix = torch.diag(torch.linspace(0.5, 9.0, 60))
    written = file_of(tmp_path / "s.safetensors", mean=torch.zeros(60), matrix=matrix)
    found = foreign_transform(written, "zca", SHAPE).apply(PIXELS)
    torch.testing.assert_close(found.flatten(1), (PIXELS / 255).flatten(1) @ matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "tensors", "message"),
    [
        ("normalize", {"mean": torch.zeros(3)}, "holds mean; expected a tensor named 'std'"),
        (
            "normalize",
            {"mean": torch.zeros(2), "std": torch.ones(3)},
            r"mean has the shape \(2,\); expected \(3,\)",
        ),
        ("normalize", {"mean": torch.zeros(3), "std": torch.zeros(3)}, "found a std of 0"),
        ("zca", {"mean": torch.zeros(60), "std": torch.ones(3)}, "expected a tensor named 'matrix'"),
        ("zca", {"mean": torch.zeros(60), "matrix": torch.eye(59)}, r"matrix has the shape \(59, 59\)"),
        ("zca", {"mean": torch.zeros(60), "matrix": torch.ones(60, 60).triu()}, "matrix is not symmetric"),
        ("zca", {"mean": torch.zeros(60), "matrix": -torch.eye(60)}, "eigenvalue -1; expected all above 0"),
        ("zca", {"mean": torch.full((60,), torch.nan), "matrix": torch.eye(60)}, "mean .* all finite"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(tmp_path, kind, tensors, message):
    with pytest.raises(ValueError, match=message):
        foreign_transform(file_of(tmp_path / "s.safetensors", **tensors), kind, SHAPE)


def test_statistics_of_channels_are_no_whitening():
    with pytest.raises(
        ValueError, match="found the statistics of channels; expected a file with those of zca"
    ):
        foreign_transform(ChannelStatistics(mean=(0.0,), std=(1.0,)), "zca", (1, 8, 8))
