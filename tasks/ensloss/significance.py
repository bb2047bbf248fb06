"""Who wins: one-sided paired t-tests over repeats, counted over datasets, as the author of EnsLoss counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import t as student

Verdict = Literal["better", "no difference", "worse"]


@dataclass(frozen=True)
class Comparison:
    """The reference loss against another, on one dataset, network and learning rate."""

    dataset: str
    network: str
    lr: float
    against: str
    difference: float
    """Mean difference of the test accuracies, a fraction; positive where the reference is ahead."""
    p_better: float
    """Of the test whose alternative is that the reference is better."""
    p_worse: float
    holm_better: float = math.nan
    holm_worse: float = math.nan

    def verdict(self, alpha: float, holm: bool = False) -> Verdict:
        """At level `alpha`, each direction by itself."""
        better, worse = (self.holm_better, self.holm_worse) if holm else (self.p_better, self.p_worse)
        return "better" if better < alpha else "worse" if worse < alpha else "no difference"


def paired_p_values(differences: Sequence[float]) -> tuple[float, float]:
    """(p of a mean above 0, p of a mean below 0) by Student's t on paired differences.

    Differences without any spread decide by their sign, and (1, 1) where they are all 0; (nan, nan) for
    fewer than two.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return math.nan, math.nan
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    if error <= 1e-12:
        return (1.0, 1.0) if abs(mean) <= 1e-12 else (0.0, 1.0) if mean > 0 else (1.0, 0.0)
    statistic = mean / error
    return float(student.sf(statistic, len(values) - 1)), float(student.cdf(statistic, len(values) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the chance of any false finding in the family below the level (Holm 1979).

    nan counts as no test and stays.
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[index] = largest
    return adjusted


def corrected(family: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with Holm's correction over all of them, each direction by itself."""
    better = holm([one.p_better for one in family])
    worse = holm([one.p_worse for one in family])
    found = zip(family, better, worse, strict=True)
    return [replace(one, holm_better=b, holm_worse=w) for one, b, w in found]


def counts(family: Sequence[Comparison], alpha: float, holm: bool = False) -> dict[Verdict, int]:
    """How many of the comparisons end how."""
    verdicts = [one.verdict(alpha, holm) for one in family]
    names: tuple[Verdict, ...] = ("better", "no difference", "worse")
    return {name: verdicts.count(name) for name in names}
