import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from tasks.data import Transform
from tasks.dataset_distillation.training_sets import TrainingSets
from tests.tasks.dataset_distillation.sets import DIGITS, imported

TRANSFORM = Transform.fit(DIGITS.train.images, "normalize")
PIXELS = TRANSFORM.apply(DIGITS.train.images)
PER_CLASS = 3


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    return imported(tmp_path_factory.mktemp("set"), PER_CLASS)


@pytest.fixture(scope="module")
def sets(distilled):
    return TrainingSets(distilled, DIGITS, distilled.facts, "cpu")


def rows_of(images):
    """The row in the real data that each image is equal to."""
    return [int(torch.nonzero((image == PIXELS).flatten(1).all(1))[0]) for image in images]


@pytest.mark.parametrize("name", ["random", "kmeans"])
def test_a_control_has_distinct_real_images_of_each_class_with_their_labels(sets, name):
    control = sets.train(name, 5)
    rows = rows_of(control.images)
    assert len(set(rows)) == 10 * PER_CLASS
    assert control.labels.tolist() == [c for c in range(10) for _ in range(PER_CLASS)]
    assert DIGITS.train.labels[rows].tolist() == control.labels.tolist()


def test_random_images_differ_with_the_seed_and_with_it_alone(sets):
    first, again, other = (sets.train("random", seed).images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_kmeans_images_are_the_nearest_to_the_centroids_of_transformed_pixels(sets):
    chosen = rows_of(sets.train("kmeans", 4).images)
    for c in range(10):
        members = np.flatnonzero(DIGITS.train.labels == c)
        pixels = PIXELS[members].flatten(1).double().numpy()
        centres = KMeans(PER_CLASS, n_init=4, random_state=0).fit(pixels).cluster_centers_
        nearest = [members[((pixels - centre) ** 2).sum(1).argmin()] for centre in centres]
        assert chosen[c * PER_CLASS : (c + 1) * PER_CLASS] == nearest


def test_the_full_set_is_all_there_is(sets):
    full = sets.train("full", 0)
    assert torch.equal(full.images, PIXELS)
    assert torch.equal(full.labels, torch.from_numpy(DIGITS.train.labels))


def test_the_distilled_set_is_read_as_it_was_made(sets, distilled):
    made = distilled.shards[0].tensors("synthetic")
    assert torch.equal(sets.train("distilled", 0).images, made["images"])
    assert torch.equal(sets.train("distilled", 0).labels, made["labels"])


def test_each_set_is_tested_in_its_own_space(sets, tmp_path):
    statistics = {"mean": [0.2], "std": [0.5]}
    foreign = imported(tmp_path, PER_CLASS, statistics=statistics)
    own = TrainingSets(foreign, DIGITS, foreign.facts, "cpu")
    images = torch.from_numpy(DIGITS.test.images).float() / 255
    torch.testing.assert_close(own.test("distilled").images, (images - 0.2) / 0.5)
    torch.testing.assert_close(own.test("random").images, TRANSFORM.apply(DIGITS.test.images))
    assert torch.equal(sets.test("distilled").images, own.test("full").images)
