import dataclasses

import numpy as np
import torch

from tasks.data import Dataset
from tasks.model_distillation.label_files import KeptLabels
from tasks.model_distillation.label_reader import LabelReader
from tasks.model_distillation.student_samples import LabelledSamples, PlainSamples, larger_part_first
from tasks.model_distillation.teachers import load_trained
from tasks.model_distillation.views import Views

NUMBERS = np.array([5, 3, 900, 1])


def test_the_class_of_the_larger_part_comes_first():
    classes, partners, shares = (
        torch.tensor([1, 2, 3]),
        torch.tensor([4, 5, 6]),
        torch.tensor([0.7, 0.2, 0.5]),
    )
    first, second, share = larger_part_first(classes, partners, shares)
    assert first.tolist() == [1, 5, 3]
    assert second.tolist() == [4, 2, 6]
    torch.testing.assert_close(share, torch.tensor([0.7, 0.8, 0.5]))


def test_labels_come_with_the_views_that_the_teacher_saw(soft_labels, trained):
    """The teacher, asked again about the images that a student gets, says what is kept."""
    kept = KeptLabels.of(soft_labels)
    reader = LabelReader.open(kept, Dataset(name="digits"), 64, seed=0)
    samples, teacher = LabelledSamples(reader, "cpu"), load_trained(trained, 0, "cpu")
    for epoch in (1, 4):  # three epochs are labelled: the fifth is the second again
        images, targets = samples.batch(epoch, NUMBERS)
        again, _ = samples.batch(1, NUMBERS)
        assert torch.equal(images, again)
        assert targets.classes.tolist() == reader.targets[torch.from_numpy(NUMBERS)].tolist()
        told = teacher.trace(images)
        torch.testing.assert_close(told.logits, targets.logits, atol=0.02, rtol=0.002)
        torch.testing.assert_close(told.features, targets.features, atol=0.02, rtol=0.002)


def test_what_was_put_aside_is_not_learned_from(soft_labels):
    kept = dataclasses.replace(KeptLabels.of(soft_labels), set_aside=frozenset({(7, 1), (9, 0)}))
    samples = LabelledSamples(LabelReader.open(kept, Dataset(name="digits"), 64, seed=0), "cpu")
    for epoch, missing in ((0, 9), (1, 7), (3, 9)):
        assert np.setdiff1d(np.arange(kept.samples), samples.numbers(epoch)).tolist() == [missing]


def test_plain_samples_are_fresh_views_in_every_epoch():
    data = Dataset(name="digits").load().train
    images, classes = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    plain = PlainSamples(images, classes, Views(padding=1), seed=3)
    (first, targets), (again, _), (later, _) = (plain.batch(epoch, NUMBERS) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert targets.classes.tolist() == data.labels[NUMBERS].tolist()
    assert bool((targets.shares == 1).all())
    assert targets.logits is None
    mixed = PlainSamples(images, classes, Views(mix="mixup"), seed=3).batch(0, np.arange(200))[1]
    assert float(mixed.shares.min()) >= 0.5
    assert float(mixed.shares.max()) < 1
