"""Fewer rows of the same classes in the same shares."""

import numpy as np


def stratified(labels: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Ascending indices of `rows` of the (N,) labels of two values, drawn at random, each class in its share
    as nearly as whole rows allow and with one row at least. All of them where there are not more."""
    if rows >= len(labels):
        return np.arange(len(labels))
    larger = labels == labels.max()
    number = int(np.clip(round(rows * larger.mean()), 1, rows - 1))
    generator = np.random.default_rng(seed)
    drawn = [
        generator.choice(np.flatnonzero(members), size, replace=False)
        for members, size in ((larger, number), (~larger, rows - number))
    ]
    return np.sort(np.concatenate(drawn))
