import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tasks.data import Dataset
from tasks.model_distillation import views
from tasks.model_distillation.label_files import KeptLabels
from tasks.model_distillation.label_reader import LabelReader, LabelStream, Place, step_bounds

DIGITS = Dataset(name="digits")


@pytest.fixture(scope="module")
def kept(soft_labels):
    return KeptLabels.of(soft_labels)


def samples_of(batches):
    return [batch.samples.tolist() for batch in batches]


def same(first, second):
    return all(
        (one is None and other is None) or torch.equal(one, other)
        for one, other in zip(first, second, strict=True)
    )


def test_every_sample_comes_once_an_epoch_with_its_own_label_and_view(kept):
    data = DIGITS.load().train
    reader = LabelReader.open(kept, DIGITS, 128, seed=4)
    batches = list(reader.epoch(1))
    assert len(batches) == reader.steps(1) == 12
    order = np.concatenate(samples_of(batches))
    assert sorted(order) == list(range(1442))
    joined = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    logits, features = kept.read(1, order)
    assert torch.equal(joined[2], logits)
    assert torch.equal(joined[3], features)
    assert torch.equal(joined[1], torch.from_numpy(data.labels[order]))
    images = torch.from_numpy(data.images)
    drawn = views.draw(kept.views, kept.view_seed, 1, order, views.Extent.of(images))
    assert torch.equal(joined[0], views.apply(kept.views, images, drawn))


def test_the_order_changes_with_the_epoch_and_the_seed(kept):
    reader, other = (LabelReader.open(kept, DIGITS, 512, seed) for seed in (0, 1))
    assert samples_of(reader.batches(0)) == samples_of(reader.batches(0))
    assert samples_of(reader.batches(0)) != samples_of(reader.batches(1))
    assert samples_of(reader.batches(0)) != samples_of(other.batches(0))


def test_a_training_longer_than_the_labels_begins_with_their_first_epoch_again(kept):
    reader = LabelReader.open(kept, DIGITS, 1442, seed=0)
    (first,), (again,) = reader.batches(0), reader.batches(3)
    place = torch.argsort(first.samples), torch.argsort(again.samples)
    assert first.samples.tolist() != again.samples.tolist()
    assert torch.equal(first.images[place[0]], again.images[place[1]])
    assert torch.equal(first.logits[place[0]], again.logits[place[1]])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(10, 400), ranks=st.integers(1, 5), seed=st.integers(0, 2**62))
def test_ranks_see_together_what_one_sees_alone(kept, batch_size, ranks, seed):
    images, targets = torch.zeros(1442, 1, 8, 8, dtype=torch.uint8), torch.zeros(1442, dtype=torch.int64)
    readers = [
        LabelReader(kept, images, targets, batch_size, seed, Place(rank, ranks)) for rank in range(ranks)
    ]
    shares = [samples_of(reader.batches(0)) for reader in readers]
    assert len({len(share) for share in shares}) == 1
    sizes = [[len(part) for part in step] for step in zip(*shares, strict=True)]
    assert all(max(step) - min(step) <= 1 and min(step) >= 2 for step in sizes)
    assert sorted(np.concatenate([part for share in shares for part in share])) == list(range(1442))
    alone = samples_of(LabelReader(kept, images, targets, batch_size, seed).batches(0))
    for step, whole in zip(zip(*shares, strict=True), alone, strict=False):
        assert set(whole) <= {sample for part in step for sample in part}


@pytest.mark.parametrize("first", [0, 1, 7, 11, 12])
def test_goes_on_in_the_middle_of_an_epoch(kept, first):
    reader = LabelReader.open(kept, DIGITS, 128, seed=4)
    whole, rest = list(reader.epoch(2)), list(reader.epoch(2, first))
    assert len(rest) == 12 - first
    assert all(same(one, other) for one, other in zip(whole[first:], rest, strict=True))


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(2, 700))
def test_a_sample_looks_the_same_in_any_batch(kept, batch_size):
    expected = {}
    for size in (1442, batch_size):
        found = list(LabelReader.open(kept, DIGITS, size, seed=4).batches(0))
        order = torch.argsort(torch.cat([batch.samples for batch in found]))
        parts = [torch.cat(column)[order] for column in zip(*found, strict=True)]
        expected.setdefault("parts", parts)
        assert same(parts, expected["parts"])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_feeds_torchs_loader_in_the_same_order(kept, workers):
    reader = LabelReader.open(kept, DIGITS, 300, seed=4)
    stream = LabelStream(reader, epoch=1, first=1)
    found = list(DataLoader(stream, batch_size=None, num_workers=workers))
    assert len(found) == len(stream) == 4
    assert all(same(one, other) for one, other in zip(found, reader.batches(1, first=1), strict=True))


@given(st.integers(1, 300), st.integers(2, 80), st.integers(1, 4))
def test_steps_cover_everything_and_leave_no_rank_with_less_than_two(number, batch_size, ranks):
    bounds = step_bounds(number, batch_size, ranks)
    assert [place for start, end in bounds for place in range(start, end)] == list(range(number))
    if number >= 2 * ranks <= batch_size:
        assert all(end - start >= 2 * ranks for start, end in bounds)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("classes", 3),
        ("views", {"padding": 4}),
        ("teacher_digest", "f" * 64),
        ("labels", {"precision": "int8"}),
    ],
)
def test_refuses_labels_of_something_else_and_says_which_field(kept, field, expected):
    with pytest.raises(
        ValueError, match=f"soft labels: {field} is .*, expected .*; give the labels that were made"
    ):
        LabelReader.open(kept, DIGITS, 64, seed=0, expected={field: expected})


def test_takes_labels_that_are_as_expected(kept):
    names = ("views", "teacher_digest", "classes", "labels", "epochs", "data_digest")
    LabelReader.open(kept, DIGITS, 64, seed=0, expected={name: kept.facts[name] for name in names})


def test_refuses_other_data(kept, small_dataset):
    with pytest.raises(ValueError, match="soft labels: data_digest is"):
        LabelReader.open(kept, Dataset.model_validate(small_dataset), 8, seed=0)
    with pytest.raises(ValueError, match="made for 1442 images, found 3"):
        LabelReader(kept, torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3), 2, 0)
    with pytest.raises(ValueError, match="batch_size is 3 for 2 ranks; expected 2 images a rank"):
        LabelReader.open(kept, DIGITS, 3, seed=0, place=Place(0, 2))
