"""Which real images a synthetic set starts from."""

import warnings

import numpy as np
import torch
from torch import Tensor


def random_indices(labels: Tensor, classes: int, per_class: int, generator: torch.Generator) -> Tensor:
    """`per_class` distinct random indices of each class, class after class: (classes * per_class,)."""
    return torch.cat([_draw(torch.nonzero(labels == c)[:, 0], per_class, generator) for c in range(classes)])


def _draw(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return indices[torch.randperm(len(indices), generator=generator)[:count]]


def representative_indices(
    features: Tensor, labels: Tensor, classes: int, per_class: int, seed: int
) -> Tensor:
    """Indices of the images nearest to the centres of k-means with k = `per_class`, class after class.

    features (N, D), such as an expert's logits; labels (N,). AST's representative initialisation, with one
    image a centre at any number of images a class (the authors' code fixes the number of centres at 10).
    """
    chosen = []
    for c in range(classes):
        members = torch.nonzero(labels == c)[:, 0]
        nearest = nearest_to_centres(features[members].double().numpy(), per_class, seed)
        chosen.append(members[torch.from_numpy(nearest)])
    return torch.cat(chosen)


def nearest_to_centres(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` distinct rows of features (N, D), each the nearest to its k-means centre that is still free."""
    from sklearn.cluster import KMeans  # slow to import, and a plan does without
    from sklearn.exceptions import ConvergenceWarning

    kmeans = KMeans(count, n_init=4, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # fewer distinct rows than centres: still distinct indices
        distances = kmeans.fit_transform(features)
    chosen: list[int] = []
    for centre in range(count):
        distances[chosen, centre] = np.inf
        chosen.append(int(distances[:, centre].argmin()))
    return np.array(chosen, dtype=np.int64)
