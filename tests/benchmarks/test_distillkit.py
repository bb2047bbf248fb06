import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from _distillkit import pack, published, unpack


@pytest.mark.parametrize(
    ("k", "vocabulary", "size"),
    [
        *[(128, 32_000, 296), (128, 65_536, 312), (128, 128_256, 328), (128, 151_936, 344)],
        *[(50, 32_000, 108), (50, 65_536, 114), (50, 128_256, 121), (50, 151_936, 127)],
    ],
)
def test_sizes_are_the_published_ones(k, vocabulary, size):
    assert published(k).bytes_per_token(vocabulary) == size


@pytest.mark.parametrize("k", [50, 128])
def test_ids_come_back_exactly_and_values_nearly(k):
    rng = np.random.default_rng(0)
    logits = np.sort(rng.normal(size=(20, 3000)) * 3, axis=1)[:, ::-1]
    logprobs = (logits - np.log(np.exp(logits).sum(1, keepdims=True)))[:, :k].astype(np.float32)
    ids = np.stack([rng.permutation(3000)[:k] for _ in range(20)])
    form = published(k)
    packed = pack(logprobs, ids, 3000, form)
    assert len(packed) == 20 * form.bytes_per_token(3000)
    values, read = unpack(packed, 3000, form)
    np.testing.assert_array_equal(read, ids)
    assert np.abs(values[:, : form.exact] - logprobs[:, : form.exact]).max() < 2**-7 * np.abs(logprobs).max()
    assert np.abs(values - logprobs).mean() < 0.1
