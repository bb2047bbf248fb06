"""How likely each token is to be in a position's set, in a few bytes a token: what the ids are coded with.

Positions fall into kinds (`mixture_fit`), tokens into groups that kinds like or dislike alike. Token v is in the
set of a position of kind c with odds of about frequency[v] * ratio[c, group[v]]. All three are whole numbers of half
octaves, and what is computed of them is computed by operations that IEEE 754 defines to the last bit, so that every
machine reads what another wrote.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.llm_distillation.labels.lanes import Numbers
from tasks.llm_distillation.labels.mixture_fit import best, counted, kinds_of

ROUNDS = 8
MOST = 0.98
"""No token is surer than this to be in a set."""
POSITIONS_A_KIND, MOST_KINDS = 500, 128
TOKENS_A_GROUP, MOST_GROUPS = 64, 256
ROOT = 1.4142135623730951


@dataclass(frozen=True)
class Hazards:
    """See the module."""

    frequency: NDArray[np.int8]
    """(V,): half octaves of the share of positions whose set has the token."""
    group: NDArray[np.uint8]
    """(V,)."""
    ratio: NDArray[np.int8]
    """(kinds, groups): half octaves."""

    def of(self, kind: int) -> NDArray[np.float64]:
        """(V,): -log(1 - p), nearly (Pade's form), of the probability p that the set has the token."""
        chance = power(self.frequency.astype(np.int32) + self.ratio[kind][self.group])
        chance = np.minimum(chance, MOST)
        return chance * (6 - chance) / (6 - 4 * chance)


def power(half_octaves: Numbers) -> NDArray[np.float64]:
    """2 ** (half_octaves / 2), exact to the last bit everywhere."""
    whole = half_octaves >> 1
    return np.ldexp(np.where(half_octaves & 1, ROOT, 1.0), whole)


def fit(
    ids: Numbers, valid: NDArray[np.bool_], vocabulary: int, seed: int
) -> tuple[Hazards, NDArray[np.int64]]:
    """From the sets `ids` (N,k), where `valid`, of N positions; and the kind (N,) of each position."""
    kinds = int(np.clip(len(ids) // POSITIONS_A_KIND, 1, MOST_KINDS))
    kind = kinds_of(ids, valid, vocabulary, kinds, seed)
    for _ in range(2):
        hazards = _tables(
            counted(ids, valid, kind[:, None], vocabulary, kinds), np.bincount(kind, minlength=kinds)
        )
        rows = np.stack([hazards.of(own) for own in range(kinds)])
        prior = np.log(np.bincount(kind, minlength=kinds) + 1.0)
        kind = best(ids, valid, np.log(rows), prior - rows.sum(1))
    return hazards, kind


def _tables(seen: NDArray[np.float64], positions: NDArray[np.int64]) -> Hazards:
    """From `seen` (kinds,V), how often each kind's sets have a token, and the `positions` (kinds,) of each kind."""
    share = (seen.sum(0) + 0.02) / positions.sum()
    exposure = positions + 1.0
    group = _groups(seen, share, exposure)
    ratio = _ratio(seen, share, exposure, group, int(group.max()) + 1)
    return Hazards(_half_octaves(share), group.astype(np.uint8), _half_octaves(ratio))


def _half_octaves(value: NDArray[np.float64]) -> NDArray[np.int8]:
    return np.rint(2 * np.log2(value)).clip(-100, 100).astype(np.int8)


def _groups(
    seen: NDArray[np.float64], share: NDArray[np.float64], exposure: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The group (V,) of each token: k-means with the likelihood of Poisson counts as its distance.

    It starts with single tokens, evenly spread among the more frequent ones.
    """
    tokens = np.flatnonzero(seen.sum(0))
    group = np.zeros(len(share), np.int64)
    if not len(tokens):
        return group
    groups = int(np.clip(len(tokens) // TOKENS_A_GROUP, 1, MOST_GROUPS))
    often = tokens[np.argsort(-share[tokens], kind="stable")][: 4 * groups]
    start = often[:: max(1, len(often) // groups)][:groups]
    ratio = (seen[:, start] + 2) / (exposure[:, None] * share[start] + 2)
    counts, expected = seen[:, tokens], share[tokens]
    for _ in range(ROUNDS):
        gain = counts.T @ np.log(ratio) - expected[:, None] * (exposure @ ratio)
        own = gain.argmax(1)
        ratio = _ratio(counts, expected, exposure, own, groups)
    group[tokens] = own
    return group


def _ratio(
    seen: NDArray[np.float64],
    share: NDArray[np.float64],
    exposure: NDArray[np.float64],
    group: NDArray[np.int64],
    groups: int,
) -> NDArray[np.float64]:
    """(kinds, groups): how much oftener a kind has a group's tokens than all kinds have."""
    cells = np.arange(len(seen))[:, None] * groups + group
    found = np.bincount(cells.ravel(), seen.ravel(), len(seen) * groups).reshape(len(seen), groups)
    return (found + 1) / (exposure[:, None] * np.bincount(group, share, groups) + 1)
