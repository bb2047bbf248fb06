import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from tasks.dataset_distillation.representative import (
    nearest_to_centres,
    random_indices,
    representative_indices,
)
from tests.tasks.dataset_distillation.networks import normal

LABELS = torch.tensor([2, 0, 1] * 20)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 20), st.integers(0, 2**63 - 1))
def test_indices_are_distinct_and_class_after_class(per_class, seed):
    for chosen in (
        random_indices(LABELS, 3, per_class, generator(seed)),
        representative_indices(normal(60, 4), LABELS, 3, per_class, seed),
    ):
        assert LABELS[chosen].tolist() == [c for c in range(3) for _ in range(per_class)]
        assert len(set(chosen.tolist())) == 3 * per_class


def test_each_choice_is_the_nearest_to_its_own_centre():
    features = normal(40, 3).numpy()
    centres = KMeans(5, n_init=4, random_state=7).fit(features).cluster_centers_
    nearest = [int(((features - centre) ** 2).sum(axis=1).argmin()) for centre in centres]
    assert nearest_to_centres(features, 5, 7).tolist() == nearest


def test_separate_clusters_give_one_image_each():
    corners = np.array([[0, 0], [0, 9], [9, 0], [9, 9]])
    features = np.concatenate(
        [corner + 0.1 * normal(10, 2, seed=i).numpy() for i, corner in enumerate(corners)]
    )
    assert sorted(nearest_to_centres(features, 4, 0) // 10) == [0, 1, 2, 3]


def test_equal_features_still_give_distinct_images():
    assert len(set(nearest_to_centres(np.ones((6, 2)), 4, 0).tolist())) == 4


def test_one_a_class_is_the_image_nearest_to_the_mean():
    features = normal(60, 4)
    chosen = representative_indices(features, LABELS, 3, 1, 0)
    for c in range(3):
        members = features[c == LABELS]
        nearest = (members - members.mean(dim=0)).square().sum(dim=1).argmin()
        assert torch.equal(features[chosen[c]], members[nearest])


def test_the_seed_decides():
    first, again, other = (random_indices(LABELS, 3, 5, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
