import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.llm_distillation.scores import lm_scores
from tasks.llm_distillation.scores.lm_scores import Sums, distributions, mean_and_error, ranges, score
from tasks.llm_distillation.text.chat import Sample
from tasks.llm_distillation.text.packing import pack
from tests.tasks.llm_distillation import tiny


def test_by_hand():
    q, p = (
        torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]),
        torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]]),
    )
    sums = score(q.log(), p.log(), torch.tensor([0, 2]))
    kl = 0.25 * math.log(0.25 / 0.5) + 0.5 * math.log(0.5 / 0.25)
    assert sums.metrics(taught=True) == pytest.approx(
        {"perplexity": math.sqrt(2 * 10), "agreement": 0.5, "kl": kl / 2}, rel=1e-6
    )
    assert score(q.log(), None, torch.tensor([0, 2])).metrics(taught=False).keys() == {"perplexity"}


def test_a_model_agrees_with_itself():
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    sums = score(logits, logits + 3, torch.zeros(20, dtype=torch.int64))
    assert (sums.agreed, sums.tokens) == (20, 20)
    assert sums.kl == pytest.approx(0, abs=1e-5)


def test_chunks_add_up(monkeypatch):
    logits, teacher = torch.randn(2, 20, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 7
    whole = score(logits, teacher, labels)
    monkeypatch.setattr(lm_scores, "CHUNK", 3)
    parts = score(logits, teacher, labels)
    assert (parts.tokens, parts.agreed) == (whole.tokens, whole.agreed)
    assert (parts.nll, parts.kl) == pytest.approx((whole.nll, whole.kl), rel=1e-6)


def test_distributions_are_those_of_each_document_alone():
    model, teacher = tiny.llama(40), tiny.llama(48, seed=1)
    documents = [
        Sample(np.arange(2, 2 + size, dtype=np.int32), np.arange(size) > 1, True) for size in (5, 3, 8)
    ]
    text = pack(documents, 10, 0, {})
    logits, taught, labels = distributions(model, teacher, text, slice(0, 9), vocabulary=40)
    assert logits.shape == taught.shape == (text.counts["labels"], 40)
    found = score(logits, taught, labels)
    expected = Sums()
    for document in documents:
        ids = torch.from_numpy(document.ids.astype(np.int64))[None]
        with torch.no_grad():
            own, theirs = model(ids).logits[0, 1:-1], teacher(ids).logits[0, 1:-1, :40]
        expected += score(own, theirs, ids[0, 2:])
    assert (found.tokens, found.agreed) == (expected.tokens, expected.agreed)
    assert (found.nll, found.kl) == pytest.approx((expected.nll, expected.kl), rel=1e-5)


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="expected a finite one"):
        Sums(tokens=2, nll=math.inf).metrics(taught=False)


@given(st.lists(st.integers(0, 12), max_size=20), st.integers(1, 15))
def test_ranges_cover_everything_once(sizes, most):
    found = ranges(sizes, most)
    assert [number for first, last in found for number in range(first, last)] == list(range(len(sizes)))
    assert all(
        sum(sizes[first:last]) <= most or last - first == 1 or max(sizes[first:last]) > most
        for first, last in found
    )


def test_mean_and_standard_error():
    assert mean_and_error([2.0]) == (2.0, None)
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / math.sqrt(3)))
