"""From numbers and categories to what a network sees, fitted on the training rows only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FARTHEST = 1e6
"""Standard deviations; a training row is at most sqrt(N) away. Beyond it lies a test row where the training rows
hardly differ, and there float32 would overflow in the network."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """Missing numbers become the median, numbers get mean 0 and standard deviation 1, a category becomes a
    one beside zeros. A category that no training row has becomes all zeros, so that its column is 0 in every
    row: all splits of a table have the same columns. A number that is constant, or always missing, in the
    training rows becomes 0 there, but for rounding."""

    scaler: Any
    """scikit-learn's pipeline for numbers."""
    one_hot: Any
    """scikit-learn's encoder of categories."""
    seen: np.ndarray
    """bool (values of all categorical columns,): which ones the training rows have."""

    @classmethod
    def fitted(cls, numbers: np.ndarray, categories: np.ndarray, sizes: Sequence[int]) -> "Encoder":
        """From the training rows: numbers (N, p), NaN where missing, and categories (N, q), those of column i
        from 0 to sizes[i] - 1; p or q may be 0."""
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        imputer = SimpleImputer(strategy="median", keep_empty_features=True)
        scaler = make_pipeline(imputer, StandardScaler())
        values = [np.arange(size) for size in sizes]
        one_hot = OneHotEncoder(categories=values, sparse_output=False, dtype=np.float32)
        if numbers.shape[1]:
            scaler.fit(numbers)
        seen = one_hot.fit_transform(categories).any(axis=0) if sizes else np.empty(0, bool)
        return cls(scaler, one_hot, seen)

    def apply(self, numbers: np.ndarray, categories: np.ndarray) -> np.ndarray:
        """float32 (N, features): the numbers first, then the categories of one column after another."""
        parts = []
        if numbers.shape[1]:
            scaled = self.scaler.transform(numbers)
            parts.append(np.clip(scaled, -FARTHEST, FARTHEST).astype(np.float32))
        if categories.shape[1]:
            parts.append(self.one_hot.transform(categories) * self.seen)
        return np.concatenate(parts, axis=1)
